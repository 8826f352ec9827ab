from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megen import codec, merging
from megen.codec import features, payload, prior, pyramid
from megen.training import prior as training
from megen.types import Payload

BACKBONE = 0xC0FFEE
DEPTH = 20


def decode(got: Payload, backbone: int = BACKBONE, channels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    header, choice = codec.decode_protected(got, backbone)
    try:
        mapping = merging.merge_map(choice, header.height, header.width)
    except ValueError as error:
        raise codec.CodecError(str(error)) from error
    return codec.decode_features(got, header, mapping, prior.plain(channels))


def coded(
    seed: int, ratio: float, height: int = 8, width: int = 8, channels: int = 5, depth: int = DEPTH
) -> tuple[Payload, np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(seed).standard_normal((height * width, channels)).astype(np.float32)
    choice = merging.match(tokens, height, width, ratio)
    mapping = merging.merge_map(choice, height, width)
    rows, _ = merging.merge(tokens, mapping)
    header = codec.Header(height, width, channels, len(rows), BACKBONE, depth)
    return codec.encode(rows, choice, mapping, header, prior.plain(channels)), rows, choice


@given(st.integers(0, 2**20), st.floats(0, 0.75), st.sampled_from([2, 4, 8, 10, 32]), st.integers(8, 32))
@settings(max_examples=60, deadline=None)
def test_decoding_gives_what_was_encoded(seed: int, ratio: float, side: int, depth: int) -> None:
    got, rows, choice = coded(seed, ratio, side, 8, depth=depth)
    header, got_choice = codec.decode_protected(got, BACKBONE)
    decoded, arrived = decode(got)
    np.testing.assert_array_equal(got_choice, choice)
    # a value is rounded up from 1 - ROUNDING of a step on, after it was rounded to 1 / UNIT
    bound = (1 - features.ROUNDING) * features.base_step(depth) / prior.UNIT + 1 / prior.UNIT
    assert np.abs(decoded - rows).max() <= bound
    assert arrived.all()
    assert header.rows == len(rows)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (6, 10), (8, 8), (32, 32), (20, 36)])
def test_every_token_is_coded_once_and_from_what_is_known(height: int, width: int) -> None:
    known: set[int] = set()
    parts = pyramid.segments(height, width)
    base = {int(t) for stage in parts[0] for t in stage.tokens}
    for part in parts:
        own = set(base) if part is not parts[0] else set()
        for stage in part:
            assert set(stage.neighbours.ravel().tolist()) <= own | {pyramid.NONE}
            own |= set(stage.tokens.tolist())
            assert not known & set(stage.tokens.tolist())
            known |= set(stage.tokens.tolist())
    assert known == set(range(height * width))


def test_bits_are_the_bytes_that_the_decoder_gets() -> None:
    got, _, _ = coded(0, 0.5, 32, 32)
    sizes = {"header": len(got.header), "merge_map": len(got.merge_map), "features": sum(map(len, got.features))}
    assert got.bits() == {k: 8 * v for k, v in sizes.items()} | {"total": 8 * sum(sizes.values())}
    assert coded(0, 0.0)[0].merge_map == b""


def test_a_map_of_4096_tokens_half_merged_takes_at_most_9500_bits() -> None:
    rng = np.random.default_rng(0)
    _, _, candidates = merging.layout(64, 64)
    choice = np.full(len(candidates), -1, np.int64)
    inside = np.flatnonzero((candidates >= 0).all(1))
    moved = rng.choice(inside, 2048, replace=False)
    choice[moved] = rng.integers(0, 8, 2048)  # the worst case: every neighbour alike
    assert 8 * len(codec.encode_map(choice, b"")) <= 9500


def test_a_finer_quantiser_takes_more_bits_and_errs_less() -> None:
    bits, errors = [], []
    for depth in (8, 14, 20, 26, 32):
        got, rows, _ = coded(3, 0.25, 32, 32, depth=depth)
        bits.append(got.bits()["features"])
        errors.append(float(np.square(decode(got)[0] - rows).mean()))
    assert bits == sorted(bits)
    assert errors == sorted(errors, reverse=True)


def test_a_budget_picks_the_finest_depth_that_fits() -> None:
    _, rows, choice = coded(1, 0.25, 32, 32)
    mapping = merging.merge_map(choice, 32, 32)
    header = codec.Header(32, 32, 5, len(rows), BACKBONE)
    plain = prior.plain(5)
    got = codec.encode_within(15_000, rows, choice, mapping, header, plain)
    depth = codec.decode_header(got.header).depth
    assert got.bits()["total"] <= 15_000
    assert codec.encode(rows, choice, mapping, replace(header, depth=depth + 1), plain).bits()["total"] > 15_000
    with pytest.raises(ValueError, match="a budget of 100 bits is too small"):
        codec.encode_within(100, rows, choice, mapping, header, plain)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_lost_band_is_filled_and_harms_no_other(ratio: float) -> None:
    got, _, choice = coded(5, ratio, 32, 32)
    mapping = merging.merge_map(choice, 32, 32)
    whole, _ = decode(got)
    for lost in range(1, len(got.features)):
        parts = [b"" if i == lost else part for i, part in enumerate(got.features)]
        filled, arrived = decode(replace(got, features=tuple(parts)))
        assert np.isfinite(filled).all()
        own = mapping[arrived]
        np.testing.assert_array_equal(filled[own], whole[own])
        assert 0 < (~arrived).sum() < 32 * 32 / 3
        assert (filled[mapping[~arrived]] != whole[mapping[~arrived]]).any()
    with pytest.raises(codec.CodecError, match="the base of the features was lost"):
        decode(replace(got, features=(b"", *got.features[1:])))


@given(st.integers(0, 2), st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_noticed(part: int, data: st.DataObject) -> None:
    good, _, _ = coded(7, 0.5)
    parts = [good.header, good.merge_map, *good.features]
    at = data.draw(st.integers(0, len(parts[part]) - 1))
    flip = data.draw(st.integers(1, 255))
    parts[part] = parts[part][:at] + bytes([parts[part][at] ^ flip]) + parts[part][at + 1 :]
    with pytest.raises(codec.CodecError):
        decode(Payload(parts[0], parts[1], tuple(parts[2:])))


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(min_size=1, max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_codec_error(header: bytes, map_: bytes, part: bytes) -> None:
    with pytest.raises(codec.CodecError):
        decode(Payload(header, map_, (part,)))
    good, _, _ = coded(7, 0.5)
    for changed in (replace(good, merge_map=map_), replace(good, features=(part, *good.features[1:]))):
        with pytest.raises(codec.CodecError):
            decode(changed)


@given(st.binary(max_size=600), st.binary(max_size=600), st.binary(max_size=600), st.integers(8, 32))
@settings(max_examples=200, deadline=None)
def test_sealed_garbage_is_refused_or_decoded_in_bounds(map_: bytes, base: bytes, band: bytes, depth: int) -> None:
    """What an attacker who knows the checksums can do: a wrong picture, never a hang, a crash or unbounded memory."""
    header = codec.encode_header(codec.Header(8, 8, 5, 40, BACKBONE, depth))
    seal = [body + payload._part_crc(body, i, header) for i, body in enumerate((base, band))]
    try:
        rows, _ = decode(Payload(header, payload._seal(map_, header), tuple(seal)))
    except codec.CodecError:
        return
    assert np.isfinite(rows).all()


def test_refusing_the_largest_grid_takes_neither_time_nor_memory() -> None:
    header = codec.encode_header(codec.Header(128, 128, 32, 128 * 128, BACKBONE, 32))
    noise = np.random.default_rng(0).bytes(4000)
    count = len(pyramid.segments(128, 128))
    parts = tuple(noise + payload._part_crc(noise, i, header) for i in range(count))
    plain = prior.plain(32)
    mapping = np.arange(128 * 128, dtype=np.int64)
    pyramid.part_of(128, 128)
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(codec.CodecError):
        codec.decode_features(Payload(header, b"", parts), codec.decode_header(header), mapping, plain)
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    assert time.perf_counter() - began < 5  # a bound against hangs; the figure is measured by benchmarks/codec.py
    tracemalloc.stop()


numbers = st.one_of(st.integers(0, 40), st.integers(0, 2**16 - 1))


@given(st.integers(0, 40), numbers, numbers, numbers, numbers, st.floats(width=32), st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_sealed_but_senseless_payload_is_refused_or_bounded(
    depth: int, height: int, width: int, channels: int, rows: int, amplitude: float, map_: bytes
) -> None:
    packed = payload._HEADER.pack(payload.MAGIC, payload.VERSION, depth, height, width, channels, rows, amplitude, BACKBONE)
    header = payload._seal(packed)
    try:
        read, choice = codec.decode_protected(Payload(header, payload._seal(map_, header)), BACKBONE)
    except codec.CodecError:
        return
    assert read.height * read.width <= payload.MAX_SIDE**2
    assert (choice >= 0).sum() == read.height * read.width - read.rows


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"height": 7}, "a grid of 7 x 8"),
        ({"height": 130, "width": 130}, "which no backbone has"),
        ({"channels": 0}, "which no backbone has"),
        ({"rows": 15}, "15 rows for 8 x 8"),
        ({"rows": 65}, "65 rows for 8 x 8"),
        ({"depth": 3}, "a depth of 3 quarter bits"),
        ({"amplitude": float("nan")}, "an amplitude of nan"),
        ({"amplitude": -1.0}, "an amplitude of -1"),
    ],
)
def test_every_field_of_a_header_is_checked(change: dict[str, float], why: str) -> None:
    fields = {"height": 8, "width": 8, "channels": 5, "rows": 64, "backbone": BACKBONE, "depth": 0, "amplitude": 0.0} | change
    with pytest.raises(codec.CodecError, match=why):
        codec.decode_header(codec.encode_header(codec.Header(**fields)))  # type: ignore[arg-type]


def test_another_backbones_payload_is_refused() -> None:
    with pytest.raises(codec.CodecError, match="of backbone 00c0ffee"):
        decode(coded(0, 0.5)[0], 1)
    with pytest.raises(codec.CodecError, match="5 channels, this receiver 6"):
        decode(coded(0, 0.5)[0], channels=6)


def test_parts_of_two_payloads_do_not_mix() -> None:
    one, other = coded(0, 0.5)[0], coded(1, 0.5, depth=DEPTH + 1)[0]
    swapped = (one.features[1], one.features[0])
    for mixed in (replace(one, merge_map=other.merge_map), replace(one, header=other.header), replace(one, features=swapped)):
        with pytest.raises(codec.CodecError, match="checksum"):
            decode(mixed)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_values_that_cannot_be_coded_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="nothing can be coded"):
        features.encode_parts(np.full((64, 2), value, np.float32), np.arange(64), (8, 8), prior.plain(2), DEPTH)


def test_the_frequencies_are_whole_symmetric_and_complete() -> None:
    counts = prior.frequencies() * 2**16
    np.testing.assert_array_equal(counts, np.rint(counts))
    np.testing.assert_array_equal(counts, counts[:, ::-1])
    assert (counts >= 1).all()
    assert (counts.sum(1) == 2**16).all()


def smooth_latents(n: int) -> torch.Tensor:
    """Fields whose tokens resemble their neighbours, with a channel that does not."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.randn(n, 4, 4, 4, generator=generator), size=(16, 16), mode="bilinear")
    return torch.cat([coarse, torch.randn(n, 1, 16, 16, generator=generator)], 1)


def test_a_trained_prior_spends_what_it_was_trained_to_and_fewer_bits_than_the_plain_one(tmp_path: Path) -> None:
    fields = smooth_latents(72)
    step = np.full(5, prior.UNIT, np.int64)
    trained = training.train(fields[:64], step, steps=120, batch=8)
    ours, plain = (training.measured_bits(p, fields[64:], 18, 0.25) for p in (trained, prior.plain(5)))
    assert ours < 0.8 * plain
    prior.save(trained, tmp_path, {})
    loaded = prior.load(tmp_path, 5)
    assert loaded.digest == trained.digest != prior.plain(5).digest
    with pytest.raises(prior.PriorError, match="is of 5 channels"):
        prior.load(tmp_path, 6)
    (tmp_path / prior.FILE).write_bytes((tmp_path / prior.FILE).read_bytes()[:300])
    with pytest.raises(prior.PriorError, match="not a whole prior"):
        prior.load(tmp_path, 5)


def test_the_training_loss_is_the_share_of_a_logistic() -> None:
    mean, log2_scale, target, step = (torch.tensor(v, dtype=torch.float64) for v in (0.3, -1.0, 1.1, 0.5))
    below = torch.sigmoid((target - mean - step / 2) / 0.5)
    above = torch.sigmoid((target - mean + step / 2) / 0.5)
    torch.testing.assert_close(training.bits(mean, log2_scale, target, step), -torch.log2(above - below))
    assert torch.isfinite(training.bits(mean, log2_scale - 10, target + 50, step))
