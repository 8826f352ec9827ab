"""WebSocket framing that breaks its rules (RFC 6455, as Autobahn's cases do): the server closes that connection and serves on."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from megen.protocol.messages import Hello
from megen.serving.app import App

from .helpers import Peer, ToldEngine, finished, live
from .test_requests import kinds, request

Make = Callable[..., App]
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, data: bytes = b"", *, final: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A client's frame."""
    first = (final << 7) | (reserved << 4) | opcode
    length = len(data)
    size = (
        bytes([length]) if length < 126 else b"\x7e" + struct.pack(">H", length) if length < 2**16 else b"\x7f" + struct.pack(">Q", length)
    )
    if not masked:
        return bytes([first]) + size + data
    mask = os.urandom(4)
    return bytes([first, size[0] | 0x80]) + size[1:] + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))


def raw(url: str) -> socket.socket:
    """An open WebSocket without a library."""
    parts = urlsplit(url)
    plain = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET /v1/ws HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
    plain.sendall("\r\n".join([*lines, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += plain.recv(4096)
    assert b"101" in answer.split(b"\r\n")[0]
    return plain


def ended_with(plain: socket.socket) -> int | None:
    """The close code that the server ends with; None where it just ends."""
    data = b""
    try:
        while piece := plain.recv(4096):
            data += piece
    except ConnectionResetError:
        pass
    code = None
    while len(data) >= 2:
        size, start = data[1] & 127, 2
        if size == 126:
            size, start = struct.unpack(">H", data[2:4])[0], 4
        body = data[start : start + size]
        if data[0] & 15 == CLOSE:
            code = struct.unpack(">H", body[:2])[0] if len(body) >= 2 else 1005
        data = data[start + size :]
    return code


HELLO = Hello().text().encode()
BROKEN = {
    "a reserved bit": frame(TEXT, HELLO, reserved=4),
    "another reserved bit": frame(TEXT, HELLO, reserved=1),
    "a reserved opcode": frame(3, b"x"),
    "a reserved control opcode": frame(11, b"x"),
    "a ping in fragments": frame(PING, b"x", final=False),
    "a ping that is too long": frame(PING, b"x" * 126),
    "a continuation of nothing": frame(0, b"x"),
    "a text within a text": frame(TEXT, b"{", final=False) + frame(TEXT, b"}"),
    "no mask": frame(TEXT, HELLO, masked=False),
    "no UTF-8": frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80"),
    "a close code that is none": frame(CLOSE, struct.pack(">H", 999)),
    "a close code that none may send": frame(CLOSE, struct.pack(">H", 1005)),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close reason that is no UTF-8": frame(CLOSE, struct.pack(">H", 1000) + b"\xff\xff"),
    "a message that is too long": frame(TEXT, HELLO) + frame(TEXT, b" " * 300_000),
    "a length that overflows": b"\x81\xff" + b"\xff" * 8 + b"mask",
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_rules_ends_its_connection_alone(told: Make, case: str) -> None:
    with live(told(ToldEngine(finished()))) as url:
        good = Peer(url)
        plain = raw(url)
        plain.sendall(BROKEN[case])
        assert ended_with(plain) in (None, 1002, 1003, 1007, 1009)
        good.send(request())
        assert kinds(good.until("done"))[-1] == "done"


def test_fragments_and_pings_between_them_are_one_message(told: Make) -> None:
    with live(told(ToldEngine(finished()))) as url:
        plain = raw(url)
        plain.sendall(frame(TEXT, HELLO[:5], final=False) + frame(PING, b"there?") + frame(0, b"", final=False) + frame(0, HELLO[5:]))
        answer = plain.recv(4096)
        while b"welcome" not in answer:
            answer += plain.recv(4096)
        assert b"there?" in answer
