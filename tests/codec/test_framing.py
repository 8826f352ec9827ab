from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megen import codec
from megen.codec import framing
from megen.types import Payload, Received
from tests.codec.helpers import codec_of, coded, merged_of

GOOD = codec.pack(Received(coded(merged_of(0, 0.5))))


@given(st.binary(max_size=50), st.binary(max_size=50), st.lists(st.binary(max_size=50), max_size=17))
@settings(max_examples=100, deadline=None)
def test_unpacking_gives_what_was_packed(header: bytes, choice: bytes, parts: list[bytes]) -> None:
    received = Received(Payload(header, choice, tuple(parts)))
    assert codec.unpack(codec.pack(received)) == received


def test_symbols_and_variances_travel_exactly() -> None:
    sent = codec_of().encode(merged_of(2, 0.5), analog=True)
    assert sent.symbols is not None
    received = Received(sent.payload, sent.symbols, np.random.default_rng(0).random(len(sent.symbols)))
    back = codec.unpack(codec.pack(received))
    assert back.payload == received.payload
    np.testing.assert_array_equal(back.symbols, received.symbols)
    np.testing.assert_array_equal(back.variance, received.variance)
    np.testing.assert_array_equal(codec_of().decode(back).rows, codec_of().decode(received).rows)


def test_symbols_without_variances_are_refused() -> None:
    with pytest.raises(codec.CodecError, match="each equalised symbol needs its noise variance"):
        codec.pack(Received(Payload(b"", b""), np.ones(3, complex)))
    with pytest.raises(codec.CodecError, match="each equalised symbol needs its noise variance"):
        codec.pack(Received(Payload(b"", b""), np.ones(3, complex), np.ones(2)))


def test_more_parts_than_a_payload_has_are_not_packed() -> None:
    with pytest.raises(codec.CodecError, match="at most 17 feature parts, got 70000"):
        codec.pack(Received(Payload(b"", b"", (b"",) * 70_000)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a packed payload"),
        (b"PK\x03\x04" + bytes(40), "not a packed payload"),
        (GOOD[:4] + b"\x02" + GOOD[5:], "of format 2, this megen reads format 3 only"),
        (GOOD[:5] + b"\x80" + GOOD[6:], "flags 0x80"),
        (GOOD[:6] + b"\x12" + GOOD[7:], "18 feature parts"),
        (GOOD[:8] + b"\xff\xff\xff\xff" + GOOD[12:], "a length that no payload has"),
        (GOOD[:-1], "it was cut"),
        (GOOD + b"\0", "it was cut"),
        (GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:], "fails its checksum"),
    ],
)
def test_each_kind_of_garbage_has_its_line(data: bytes, why: str) -> None:
    with pytest.raises(codec.CodecError, match=why):
        codec.unpack(data)


@given(st.binary(max_size=200), st.integers(0, 30))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused(noise: bytes, kept: int) -> None:
    with pytest.raises(codec.CodecError):
        codec.unpack(GOOD[:kept] + noise)


def test_a_name_of_huge_lengths_takes_neither_time_nor_memory() -> None:
    start = framing._START.pack(framing.MAGIC, framing.VERSION, 1, 17, framing.MAX_HEADER, framing.MAX_PART)
    data = start + framing._LENGTH.pack(framing.MAX_PART) * 17 + framing._LENGTH.pack(framing.MAX_SYMBOLS) + bytes(1000)
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(codec.CodecError, match="expected"):
        codec.unpack(data)
    assert tracemalloc.get_traced_memory()[1] < 2**16
    assert time.perf_counter() - began < 0.05
    tracemalloc.stop()
