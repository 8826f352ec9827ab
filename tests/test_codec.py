from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megen import codec, merging
from megen.types import Payload

BACKBONE = 0xC0FFEE


def decode(payload: Payload, backbone: int = BACKBONE) -> np.ndarray:
    header, _ = codec.decode_protected(payload, backbone)
    return codec.decode_features(payload, header)


def coded(seed: int, ratio: float, height: int = 8, width: int = 8, channels: int = 5) -> tuple[Payload, np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(seed).standard_normal((height * width, channels)).astype(np.float32)
    choice = merging.match(tokens, height, width, ratio)
    rows, _ = merging.merge(tokens, merging.merge_map(choice, height, width))
    header = codec.Header(height, width, channels, len(rows), BACKBONE)
    return codec.encode(rows, choice, header), rows, choice


@given(st.integers(0, 2**20), st.floats(0, 0.75), st.sampled_from([2, 4, 8, 32]))
@settings(max_examples=60, deadline=None)
def test_decoding_gives_what_was_encoded(seed: int, ratio: float, side: int) -> None:
    payload, rows, choice = coded(seed, ratio, side, side)
    header, got_choice = codec.decode_protected(payload, BACKBONE)
    got = codec.decode_features(payload, header)
    np.testing.assert_array_equal(got_choice, choice)
    # the quantiser errs by at most half a step; a step is a hair above max / 127
    bound = 0.505 * np.abs(rows).max(0) / codec.LEVELS + 1e-4
    assert (np.abs(got - rows) <= bound).all()
    assert header.rows == len(rows)


def test_bits_are_the_bytes_that_the_decoder_gets() -> None:
    payload, rows, choice = coded(0, 0.5, 32, 32)
    assert payload.features is not None
    sizes = {"header": len(payload.header), "merge_map": len(payload.merge_map), "features": len(payload.features)}
    assert payload.bits() == {k: 8 * v for k, v in sizes.items()} | {"total": 8 * sum(sizes.values())}
    assert sizes["features"] == rows.size + 2 * rows.shape[1] + 4
    assert sizes["merge_map"] == -(-(768 + 3 * (choice >= 0).sum()) // 8) + 4


def test_nothing_merged_costs_no_map() -> None:
    assert coded(0, 0.0)[0].merge_map == b""


@given(st.integers(0, 2), st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_noticed(part: int, data: st.DataObject) -> None:
    payload, _, _ = coded(7, 0.5)
    assert payload.features is not None
    parts = [payload.header, payload.merge_map, payload.features]
    at = data.draw(st.integers(0, len(parts[part]) - 1))
    flip = data.draw(st.integers(1, 255))
    parts[part] = parts[part][:at] + bytes([parts[part][at] ^ flip]) + parts[part][at + 1 :]
    with pytest.raises(codec.CodecError):
        decode(Payload(*parts))


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_codec_error(header: bytes, map_: bytes, features: bytes) -> None:
    with pytest.raises(codec.CodecError):
        decode(Payload(header, map_, features))
    good, _, _ = coded(7, 0.5)
    for changed in (Payload(good.header, map_, good.features), Payload(good.header, good.merge_map, features)):
        with pytest.raises(codec.CodecError):
            decode(changed)


numbers = st.one_of(st.integers(0, 40), st.integers(0, 2**16 - 1))


@given(st.integers(0, 2), numbers, numbers, numbers, numbers, st.floats(width=32), st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_sealed_but_senseless_payload_is_refused_or_bounded(
    analog: int, height: int, width: int, channels: int, rows: int, amplitude: float, map_: bytes
) -> None:
    packed = codec._HEADER.pack(codec.MAGIC, codec.VERSION, analog, height, width, channels, rows, amplitude, BACKBONE)
    header = codec._seal(packed)
    try:
        read, choice = codec.decode_protected(Payload(header, codec._seal(map_, header), None), BACKBONE)
    except codec.CodecError:
        return
    assert read.height * read.width <= codec.MAX_SIDE**2
    assert (choice >= 0).sum() == read.height * read.width - read.rows


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"height": 7}, "a grid of 7 x 8"),
        ({"height": 514, "width": 514}, "which no backbone has"),
        ({"channels": 0}, "which no backbone has"),
        ({"rows": 15}, "15 rows for 8 x 8"),
        ({"rows": 65}, "65 rows for 8 x 8"),
        ({"amplitude": float("nan")}, "contradict"),
        ({"amplitude": -1.0}, "contradict"),
    ],
)
def test_every_field_of_a_header_is_checked(change: dict[str, float], why: str) -> None:
    fields = {"height": 8, "width": 8, "channels": 5, "rows": 64, "backbone": BACKBONE, "amplitude": 0.0} | change
    with pytest.raises(codec.CodecError, match=why):
        codec.decode_header(codec.encode_header(codec.Header(**fields)))  # type: ignore[arg-type]


def test_another_backbones_payload_is_refused() -> None:
    with pytest.raises(codec.CodecError, match="of backbone 00c0ffee"):
        decode(coded(0, 0.5)[0], 1)


def test_parts_of_two_payloads_do_not_mix() -> None:
    one, other = coded(0, 0.5)[0], coded(1, 0.5, channels=6)[0]
    for mixed in (Payload(one.header, other.merge_map, one.features), Payload(other.header, one.merge_map, other.features)):
        with pytest.raises(codec.CodecError, match="checksum"):
            decode(mixed)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_values_that_cannot_be_coded_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="nothing can be coded"):
        codec.encode_features(np.full((4, 2), value, np.float32), b"")
