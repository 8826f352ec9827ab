"""Binary frames: the golden bytes, and everything that is none."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megen.errors import InputError
from megen.protocol import FEATURES, HEADER_BYTES, PREVIEW, Frame, ProtocolError
from megen.protocol.frames import unpack

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "frames.json").read_text())
ID = "0123456789abcdef" * 2


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["name"])
def test_golden_frames(vector: dict) -> None:
    frame = unpack(bytes.fromhex(vector["hex"]))
    assert (frame.kind, frame.request, frame.sequence, frame.part) == tuple(vector[k] for k in ("kind", "request", "sequence", "part"))
    assert frame.data.hex() == vector["data"]
    assert frame.pack().hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda v: v["name"])
def test_golden_frames_that_are_refused(vector: dict) -> None:
    with pytest.raises(ProtocolError):
        unpack(bytes.fromhex(vector["hex"]))


@given(st.sampled_from([PREVIEW, FEATURES]), st.integers(0, 2**32 - 1), st.integers(0, 63), st.binary(max_size=100))
def test_a_frame_comes_back_as_it_was(kind: int, sequence: int, part: int, data: bytes) -> None:
    frame = Frame(kind, ID, sequence, part, data)
    assert unpack(frame.pack()) == frame
    assert len(frame.pack()) == HEADER_BYTES + len(data)


def test_no_changed_bit_goes_unnoticed() -> None:
    packed = Frame(FEATURES, ID, 3, 2, b"some features").pack()
    for place in range(8 * len(packed)):
        changed = bytearray(packed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(ProtocolError):
            unpack(bytes(changed))


def test_mutated_frames_are_frames_or_protocol_errors() -> None:
    draw = random.Random(0)
    packed = Frame(FEATURES, ID, 3, 2, b"some features").pack()
    for _ in range(2000):
        data = bytearray(packed)
        for _ in range(draw.randrange(1, 5)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        with pytest.raises(ProtocolError):
            unpack(bytes(data[: draw.randrange(len(data) + 1)]))


def test_a_frame_checks_itself() -> None:
    for wrong in ({"kind": 3}, {"sequence": -1}, {"part": 64}, {"data": b"x" * (8 * 2**20 + 1)}):
        with pytest.raises(InputError):
            Frame(**{"kind": FEATURES, "request": ID, "sequence": 0, "part": 0, "data": b"", **wrong})
