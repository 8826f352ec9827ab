"""Both sides' states: who may say what when, and what an acknowledgement is worth."""

from __future__ import annotations

import contextlib
import json
import random

import pytest

from megen.protocol import FEATURES, PREVIEW, ClientConnection, Frame, ProtocolError, ServerConnection
from megen.protocol.client import Parts
from megen.protocol.messages import Ack, Backbone, Coded, Generate, Hello, Tiling, Welcome
from megen.protocol.server import Goodput

ID = "0123456789abcdef" * 2
BACKBONE = Backbone(name="t", fingerprint=1, latent_shape=(8, 8, 8), image_px=(256, 256), steps=(1, 4), merge_ratios=(0.0,), max_words=8)
OFFERED = Welcome(protocol=3, server="test", backbone=BACKBONE, receiver="/r", codec="/c", denoiser="/d")


def greeted() -> tuple[ServerConnection, ClientConnection]:
    server, client = ServerConnection(), ClientConnection({ID: Parts()})
    assert isinstance(server.receive(client.hello("test", "secret", 0.2, ("webp",))), Hello)
    assert isinstance(client.receive(server.welcome(OFFERED).text()), Welcome)
    return server, client


def test_a_request_with_its_parts() -> None:
    server, client = greeted()
    assert isinstance(server.receive(Generate(id=ID, prompt="x").text()), Generate)
    preview = client.receive(server.frame(PREVIEW, ID, 1, b"preview"))
    assert isinstance(preview, Frame)
    client.receive(Coded(id=ID, parts=4, bytes=9).text())
    parts = client.parts[ID]
    for k, data in enumerate((b"head", b"", b"base", b"fine")):
        assert not parts.whole
        assert parts.readable == (k > 2)
        frame = client.receive(server.frame(FEATURES, ID, k, data))
        assert isinstance(frame, Frame)
        acked = server.receive(client.ack(frame, 20.0))
        assert acked == Goodput(ID, FEATURES, 36 + len(data), 0.02)
    assert parts.whole
    assert parts.received().payload.features == (b"base", b"fine")


def test_what_has_not_arrived_is_empty_as_if_lost() -> None:
    parts = Parts({0: b"head", 1: b"map", 2: b"base"}, total=5)
    assert parts.received().payload.features == (b"base", b"", b"")
    with pytest.raises(ProtocolError):
        Parts({0: b"head"}, total=5).received()


def test_the_server_wants_a_hello_first_and_once() -> None:
    with pytest.raises(ProtocolError, match="hello"):
        ServerConnection().receive(Generate(id=ID, prompt="x").text())
    server, _ = greeted()
    with pytest.raises(ProtocolError, match="second"):
        server.receive(Hello().text())
    with pytest.raises(ProtocolError, match="update"):
        ServerConnection().receive(Hello(protocols=(4, 5)).text())
    with pytest.raises(ProtocolError, match="binary"):
        server.receive(b"x")


def test_a_client_of_protocol_1_is_answered_as_it_was() -> None:
    said = {}
    for protocols in ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)):
        server = ServerConnection()
        server.receive(Hello(protocols=protocols).text())
        said[protocols] = json.loads(server.welcome(OFFERED).text())
    assert set(said[1,]) == {"type", "protocol", "server", "backbone", "receiver", "codec"}
    assert said[1,]["protocol"] == 1
    assert said[1, 2] == {**said[1,], "protocol": 2, "denoiser": "/d"}
    assert said[1, 2, 3] == said[1, 2, 3, 4] == {**said[1, 2], "protocol": 3}
    client = ClientConnection()
    assert json.loads(client.hello("test"))["protocols"] == [1, 2, 3]
    assert client.receive(json.dumps(said[1,])).denoiser is None  # type: ignore[union-attr]


def test_the_server_decodes_for_a_client_that_knows_no_tiles() -> None:
    tiles = Tiling(tail="/t", side=64, margin=3, grows=2)
    for protocols in ((1,), (1, 2), (2, 3)):
        server = ServerConnection()
        server.receive(Hello(protocols=protocols).text())
        said = server.welcome(OFFERED.model_copy(update={"tiles": tiles}))
        assert said.tiles == (tiles if 3 in protocols else None)
        assert (said.receiver, said.codec, said.denoiser) == (("/r", "/c", "/d") if 3 in protocols else (None, None, None))
        assert ClientConnection().receive(said.text()) == said
    with pytest.raises(ProtocolError):
        ClientConnection().receive(said.text().replace('"side":64', '"side":0'))


@pytest.mark.parametrize("changes", [{"sequence": 1}, {"bytes": 5}, {"id": "f" * 32}])
def test_an_acknowledgement_cannot_be_made_up(changes: dict[str, object]) -> None:
    server, _ = greeted()
    server.frame(FEATURES, ID, 0, b"head")
    ack = Ack(id=ID, sequence=0, bytes=40, ms=1.0)
    with pytest.raises(ProtocolError) as caught:
        server.receive(ack.model_copy(update=changes).text())
    assert caught.value.close_code is None
    assert isinstance(ServerConnection().hello, type(None))


def test_an_acknowledgement_counts_once() -> None:
    server, _ = greeted()
    server.frame(FEATURES, ID, 0, b"head")
    ack = Ack(id=ID, sequence=0, bytes=40, ms=1.0).text()
    assert isinstance(server.receive(ack), Goodput)
    with pytest.raises(ProtocolError):
        server.receive(ack)


def test_unacknowledged_frames_are_forgotten_in_the_end() -> None:
    server, _ = greeted()
    for _ in range(3000):
        server.frame(PREVIEW, ID, 1, b"x")
    assert len(server._sent) == 1024


def test_the_client_refuses_frames_out_of_order_and_parts_that_are_none() -> None:
    server, client = greeted()
    server.frame(PREVIEW, ID, 1, b"lost")
    with pytest.raises(ProtocolError, match="was due"):
        client.receive(server.frame(PREVIEW, ID, 2, b"x"))
    server, client = greeted()
    with pytest.raises(ProtocolError, match="part 0"):
        client.receive(server.frame(FEATURES, ID, 0, b"before it was said how many"))
    server, client = greeted()
    client.receive(Coded(id=ID, parts=3, bytes=9).text())
    with pytest.raises(ProtocolError, match="part 3"):
        client.receive(server.frame(FEATURES, ID, 3, b"x"))
    with pytest.raises(ProtocolError, match="parts"):
        client.receive(Coded(id=ID, parts=1, bytes=9).text())


def test_the_client_wants_a_welcome_first() -> None:
    with pytest.raises(ProtocolError, match="welcome"):
        ClientConnection().receive(Coded(id=ID, parts=3, bytes=9).text())
    with pytest.raises(ProtocolError, match="welcome"):
        ClientConnection().receive(Frame(PREVIEW, ID, 0, 1, b"x").pack())
    assert ClientConnection().receive('{"type":"error","code":"unauthorised","message":"no"}').type == "error"


@pytest.mark.slow
def test_100_000_mutated_messages_into_both_ends() -> None:
    """A message or a protocol error, never anything else; what was let in leaves both ends as they were or moved on."""
    draw = random.Random(7)
    ack = Ack(id=ID, sequence=0, bytes=40, ms=1.0).text()
    generate = Generate(id=ID, prompt="a castle", deadline_s=1.0).text()
    texts = [
        ack,
        generate,
        Hello().text(),
        Coded(id=ID, parts=4, bytes=9).text(),
        OFFERED.text(),
    ]
    frames = [Frame(FEATURES, ID, 0, 0, bytes(40)).pack(), Frame(PREVIEW, ID, 0, 1, bytes(300)).pack()]
    server, client = greeted()
    for k in range(100_000):
        binary = k % 2
        data = bytearray(draw.choice(frames) if binary else draw.choice(texts).encode())
        for _ in range(draw.randrange(1, 6)):
            place = draw.randrange(len(data))
            data[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
            if not data:
                data = bytearray(b"x")
        sent: str | bytes = bytes(data) if binary else data.decode("utf-8", "replace")
        for end in (server, client):
            with contextlib.suppress(ProtocolError):
                end.receive(sent)
