from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megen import codec, merging
from megen.types import Payload

BACKBONE = 0xC0FFEE


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
    got, got_choice, header = codec.decode(payload, BACKBONE)
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
        codec.decode(Payload(*parts), BACKBONE)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_codec_error(header: bytes, map_: bytes, features: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(Payload(header, map_, features), BACKBONE)
    good, _, _ = coded(7, 0.5)
    for changed in (Payload(good.header, map_, good.features), Payload(good.header, good.merge_map, features)):
        with pytest.raises(codec.CodecError):
            codec.decode(changed, BACKBONE)


@given(st.binary(min_size=29, max_size=29))
@settings(max_examples=300, deadline=None)
def test_a_sealed_but_senseless_header_is_refused_or_bounded(body: bytes) -> None:
    try:
        header = codec.decode_header(codec._seal(codec.MAGIC + bytes([codec.VERSION]) + body[5:])[: codec._HEADER.size + 4])
    except codec.CodecError:
        return
    assert header.height * header.width <= codec.MAX_SIDE**2


def test_another_backbones_payload_is_refused() -> None:
    with pytest.raises(codec.CodecError, match="of backbone 00c0ffee"):
        codec.decode(coded(0, 0.5)[0], 1)


def test_analog_features_must_fit_the_header() -> None:
    header = codec.Header(8, 8, 5, 64, BACKBONE, 1.0, analog=True)
    payload = codec.encode(np.zeros((64, 5), np.float32), np.full(48, -1), header)
    assert payload.features is None
    with pytest.raises(codec.CodecError, match="needs 64 x 5 received features"):
        codec.decode(payload, BACKBONE, np.zeros((3, 5), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_values_that_cannot_be_coded_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="nothing can be coded"):
        codec.encode_features(np.full((4, 2), value, np.float32))
