from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megen import codec, merging
from megen.codec import FeatureCodec, features, header, payload, prior, pyramid
from megen.codec.header import Header, decode_header, encode_header
from megen.types import Payload, Received
from tests.codec.helpers import BACKBONE, DEPTH, codec_of, coded, decode, merged_of, sealed

ORDERS = st.sampled_from(pyramid.ORDERS)
GOOD = coded(merged_of(7, 0.5))
SCALES = bytes([20] * pyramid.KINDS * 5)  # of five channels


@given(st.integers(0, 2**20), st.floats(0, 0.75), st.sampled_from([2, 4, 8, 10, 32]), st.integers(1, 32), ORDERS)
@settings(max_examples=60, deadline=None)
def test_decoding_gives_what_was_encoded(seed: int, ratio: float, side: int, depth: int, order: str) -> None:
    merged, depth = merged_of(seed, ratio, side, 8), max(depth, 9) if order == "layer" else depth
    sent = coded(merged, depth, order)
    read, choice = payload.decode_protected(sent, BACKBONE)
    rows, arrived = decode(sent)
    np.testing.assert_array_equal(choice, merged.choice)
    # a value is rounded up from 1 - ROUNDING of a step on, after it was rounded to 1 / UNIT
    bound = (1 - features.ROUNDING) * features.base_step(depth) / prior.UNIT + 1 / prior.UNIT
    assert np.abs(rows - merged.rows).max() <= bound
    assert arrived.all()
    assert (read.rows, read.order) == (len(merged.rows), order)


def test_bits_are_the_bytes_that_the_decoder_gets() -> None:
    sent = coded(merged_of(0, 0.5, 32, 32))
    sizes = {"header": len(sent.header), "merge_map": len(sent.merge_map), "features": sum(map(len, sent.features))}
    assert sent.bits() == {k: 8 * v for k, v in sizes.items()} | {"total": 8 * sum(sizes.values())}
    assert coded(merged_of(0, 0.0)).merge_map == b""


def test_a_map_of_4096_tokens_half_merged_takes_at_most_9500_bits() -> None:
    rng = np.random.default_rng(0)
    _, _, candidates = merging.layout(64, 64)
    choice = np.full(len(candidates), -1, np.int64)
    inside = np.flatnonzero((candidates >= 0).all(1))
    moved = rng.choice(inside, 2048, replace=False)
    choice[moved] = rng.integers(0, 8, 2048)  # the worst case: every neighbour alike
    assert 8 * len(payload.encode_map(choice, b"")) <= 9500


@pytest.mark.parametrize("order", pyramid.ORDERS)
def test_a_finer_quantiser_takes_more_bits_and_errs_less(order: str) -> None:
    bits, errors = [], []
    merged = merged_of(3, 0.25, 32, 32)
    for depth in (9, 14, 20, 26, 32) if order == "layer" else (1, 4, 8, 14, 20, 26, 32):
        sent = coded(merged, depth, order)
        bits.append(sent.bits()["features"])
        errors.append(float(np.square(decode(sent)[0] - merged.rows).mean()))
    assert bits == sorted(bits)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("quantiser_bits", [0.0, 0.2, 8.25, 5.1])
def test_another_quantiser_is_refused(quantiser_bits: float) -> None:
    with pytest.raises(ValueError, match=r"quantiser_bits must (lie in \[0.25, 8\]|be a multiple of 0.25)"):
        codec_of().encode(merged_of(0, 0.0), quantiser_bits=quantiser_bits)


def test_another_order_is_refused() -> None:
    with pytest.raises(ValueError, match="the order of parts must be one of band, stage, layer, got 'rows'"):
        codec_of().encode(merged_of(0, 0.0), order="rows")


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_lost_band_is_filled_and_harms_no_other(ratio: float) -> None:
    merged = merged_of(5, ratio, 32, 32)
    sent, mapping = coded(merged), merged.merge_map
    whole, _ = decode(sent)
    for lost in range(1, len(sent.features)):
        parts = [b"" if i == lost else part for i, part in enumerate(sent.features)]
        filled, arrived = decode(replace(sent, features=tuple(parts)))
        assert np.isfinite(filled).all()
        rows = mapping[arrived]
        np.testing.assert_array_equal(filled[rows], whole[rows])
        assert 0 < (~arrived).sum() < 32 * 32 / 3
        assert (filled[mapping[~arrived]] != whole[mapping[~arrived]]).any()
    with pytest.raises(codec.CodecError, match="the base of the features was lost"):
        decode(replace(sent, features=(b"", *sent.features[1:])))


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_by_stage_every_prefix_gives_a_whole_picture_that_the_next_part_refines(ratio: float) -> None:
    y, x = np.mgrid[:32, :32].reshape(2, -1, 1) / 6
    tokens = np.sin(y + x + np.arange(5)).astype(np.float32)
    merged = merging.merged(tokens, (32, 32), ratio)
    sent, errors, shares = coded(merged, 28, "stage"), [], []
    for count in range(1, len(sent.features) + 1):
        parts = tuple(part if i < count else b"" for i, part in enumerate(sent.features))
        rows, arrived = decode(replace(sent, features=parts))
        errors.append(float(np.square(rows - merged.rows)[merged.merge_map].mean()))
        shares.append(float(arrived.mean()))
        for late in range(count + 1, len(sent.features)):  # what follows a lost one says nothing
            more = tuple(part if i < count or i == late else b"" for i, part in enumerate(sent.features))
            np.testing.assert_array_equal(decode(replace(sent, features=more))[0], rows)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]
    assert shares == sorted(shares)
    assert shares[-1] == 1


@given(st.integers(0, 2), st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_noticed(part: int, data: st.DataObject) -> None:
    parts = [GOOD.header, GOOD.merge_map, *GOOD.features]
    at = data.draw(st.integers(0, len(parts[part]) - 1))
    flip = data.draw(st.integers(1, 255))
    parts[part] = parts[part][:at] + bytes([parts[part][at] ^ flip]) + parts[part][at + 1 :]
    with pytest.raises(codec.CodecError):
        decode(Payload(parts[0], parts[1], tuple(parts[2:])))


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(min_size=1, max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_codec_error(first: bytes, choice: bytes, part: bytes) -> None:
    with pytest.raises(codec.CodecError):
        decode(Payload(first, choice, (part,)))
    for changed in (replace(GOOD, merge_map=choice), replace(GOOD, features=(part, *GOOD.features[1:]))):
        with pytest.raises(codec.CodecError):
            decode(changed)


@given(st.binary(max_size=600), st.binary(max_size=600), st.binary(max_size=600), st.integers(1, 32))
@settings(max_examples=200, deadline=None)
def test_sealed_garbage_is_refused_or_decoded_in_bounds(choice: bytes, base: bytes, band: bytes, depth: int) -> None:
    """What an attacker who knows the checksums can do: a wrong picture, never a hang, a crash or unbounded memory."""
    first = encode_header(Header(8, 8, 5, 40, BACKBONE, depth, scales=SCALES))
    try:
        rows, _ = decode(sealed(first, [base, band], choice))
    except codec.CodecError:
        return
    assert np.abs(rows).max() <= features.BOUND / prior.UNIT


def test_reconstructed_values_are_clipped_inside_the_loop() -> None:
    first = encode_header(Header(8, 8, 5, 64, BACKBONE, 1, scales=bytes([prior.MOST] * pyramid.KINDS * 5)))
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(30):
        try:
            rows, _ = decode(sealed(first, [rng.bytes(400), rng.bytes(4000)]))
        except codec.CodecError:
            continue
        largest = max(largest, float(np.abs(rows).max()))
    assert largest == features.BOUND / prior.UNIT


@pytest.mark.parametrize("order", pyramid.ORDERS)
@pytest.mark.parametrize("channels", [32, 256])
def test_the_largest_grid_takes_little_memory(order: str, channels: int) -> None:
    scales = bytes([30] * pyramid.KINDS * channels)
    first = encode_header(Header(128, 128, channels, 128 * 128, BACKBONE, 32, order=order, scales=scales))
    noise = np.random.default_rng(0).bytes(4000)
    sent = sealed(first, [noise] * len(pyramid.segments(128, 128, order)))
    pyramid.part_of(128, 128, order)
    tracemalloc.start()
    began = time.perf_counter()
    with contextlib.suppress(codec.CodecError):
        decode(sent)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
    assert time.perf_counter() - began < 60  # a bound against hangs; the figure is measured by experiments/codec


def test_a_receiver_of_one_grid_refuses_another() -> None:
    sent = coded(merged_of(0, 0.0))
    assert FeatureCodec(None, BACKBONE, (8, 8)).decode(Received(sent)).rows.shape == (64, 5)
    with pytest.raises(codec.CodecError, match="a grid of 8 x 8, this receiver decodes 8 x 10"):
        FeatureCodec(None, BACKBONE, (8, 10)).decode(Received(sent))


numbers = st.one_of(st.integers(0, 40), st.integers(0, 2**16 - 1))


@given(st.integers(0, 40), st.integers(0, 2), numbers, numbers, numbers, numbers, st.floats(width=32), st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_sealed_but_senseless_payload_is_refused_or_bounded(
    depth: int, order: int, height: int, width: int, channels: int, rows: int, amplitude: float, choice: bytes
) -> None:
    packed = header.LAYOUT.pack(header.MAGIC, header.VERSION, depth, order, 0, 0, 0, height, width, channels, rows, amplitude, BACKBONE)
    first = header.seal(packed)
    try:
        read, moved = payload.decode_protected(Payload(first, header.seal(choice, first)), BACKBONE)
    except codec.CodecError:
        return
    assert read.height * read.width <= header.MAX_SIDE**2
    assert (moved >= 0).sum() == read.height * read.width - read.rows


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"height": 7}, "a grid of 7 x 8"),
        ({"height": 130, "width": 130}, "which no backbone has"),
        ({"channels": 0}, "which no backbone has"),
        ({"rows": 15}, "15 rows for 8 x 8"),
        ({"rows": 65}, "65 rows for 8 x 8"),
        ({"depth": 33}, "a depth of 33 quarter bits"),
        ({"amplitude": float("nan")}, "an amplitude of nan"),
        ({"amplitude": -1.0}, "an amplitude of -1"),
        ({"amplitude": 1e30}, "an amplitude of 1e.30: at most 1048576"),
        ({"scales": SCALES[1:]}, "34 scales, expected 35"),
        ({"scales": bytes([61]) + SCALES[1:]}, "expected 35 of at most 60"),
    ],
)
def test_every_field_of_a_header_is_checked(change: dict[str, float | bytes], why: str) -> None:
    fields = {"height": 8, "width": 8, "channels": 5, "rows": 64, "backbone": BACKBONE, "depth": 0, "amplitude": 0.0} | change
    with pytest.raises(codec.CodecError, match=why):
        decode_header(encode_header(Header(**fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("height", "width", "channels", "why"),
    [(130, 2, 5, "a grid of 130 x 2 x 5, which no backbone has"), (2, 2, 300, "channels 1 to 256")],
)
@pytest.mark.parametrize("analog", [False, True])
def test_what_decoding_refuses_is_not_encoded(height: int, width: int, channels: int, why: str, analog: bool) -> None:
    with pytest.raises(codec.CodecError, match=why):
        codec_of().encode(merged_of(0, 0.0, height, width, channels), analog=analog)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((None, -1), "fingerprint must lie in"),
        ((None, 2**40), "fingerprint must lie in"),
        ((None, "flat"), "fingerprint must lie in"),
        ((None, 1.5), "fingerprint must lie in"),
        (("scenes", 1), "prior must be a Prior"),
        ((None, 1, (130, 2)), "grid must be two even numbers from 2 to 128"),
        ((None, 1, "8x8"), "grid must be two even numbers from 2 to 128"),
    ],
)
def test_a_codec_checks_itself(fields: tuple[object, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FeatureCodec(*fields)  # type: ignore[arg-type]


def test_features_of_another_codec_are_refused_before_they_are_coded() -> None:
    merged = merged_of(0, 0.0)
    with pytest.raises(ValueError, match="this codec is for any grid of 6 channels, the features are of"):
        codec_of(prior.plain(6)).encode(merged)
    with pytest.raises(ValueError, match=r"this codec is for \(8, 10\) of 5 channels"):
        FeatureCodec(None, BACKBONE, (8, 10)).encode(merged)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"bits_budget": float("nan")}, "bits_budget must be a whole number of at least 1, got nan"),
        ({"bits_budget": 0}, "bits_budget must be a whole number"),
        ({"bits_budget": "30000"}, "bits_budget must be a whole number"),
        ({"bits_budget": 30_000, "analog": True}, "leave bits_budget out, or analog"),
        ({"quantiser_bits": float("nan")}, r"quantiser_bits must lie in \[0.25, 8\], got nan"),
        ({"quantiser_bits": "5"}, "quantiser_bits must lie in"),
    ],
)
def test_a_quantiser_that_cannot_be_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        codec_of().encode(merged_of(0, 0.0), **options)  # type: ignore[arg-type]


def test_symbols_of_another_shape_are_refused() -> None:
    sent = codec_of().encode(merged_of(0, 0.0, channels=2), analog=True)
    assert sent.symbols is not None
    pairs = np.stack([sent.symbols, sent.symbols], 1)
    with pytest.raises(codec.CodecError, match="needs 64 symbols, got 64 x 2"):
        codec_of().decode(Received(sent.payload, pairs, np.ones(pairs.shape)))
    with pytest.raises(codec.CodecError, match="symbols stand in one row, got 64 x 2"):
        codec.pack(Received(sent.payload, pairs, np.ones(pairs.shape)))


def test_another_backbones_payload_is_refused() -> None:
    sent = coded(merged_of(0, 0.5))
    with pytest.raises(codec.CodecError, match="of backbone 00c0ffee"):
        FeatureCodec(None, 1).decode(Received(sent))
    with pytest.raises(codec.CodecError, match="5 channels, this receiver 6"):
        decode(sent, prior.plain(6))


def test_parts_of_two_payloads_do_not_mix() -> None:
    one, other = coded(merged_of(0, 0.5)), coded(merged_of(1, 0.5), DEPTH + 1)
    swapped = (one.features[1], one.features[0])
    for mixed in (replace(one, merge_map=other.merge_map), replace(one, header=other.header), replace(one, features=swapped)):
        with pytest.raises(codec.CodecError, match="checksum"):
            decode(mixed)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_values_that_cannot_be_coded_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="nothing can be coded"):
        features.encode_parts(np.full((64, 2), value, np.float32), np.arange(64), (8, 8), prior.plain(2), DEPTH)


@pytest.fixture
def symbols_received() -> Received:
    sent = codec_of().encode(merged_of(0, 0.5), analog=True)
    assert sent.symbols is not None
    return Received(sent.payload, sent.symbols, np.full(len(sent.symbols), 0.1))


@pytest.mark.parametrize(
    ("broken", "value", "why"),
    [("symbols", np.nan, "hold NaN, infinity"), ("variance", np.nan, "hold NaN, infinity"), ("symbols", -2e18j, "beyond 1e.18")],
)
def test_symbols_that_no_payload_has_are_refused(symbols_received: Received, broken: str, value: complex, why: str) -> None:
    assert np.isfinite(codec_of().decode(symbols_received).rows).all()
    changed = getattr(symbols_received, broken).copy()
    changed[3] = value
    with pytest.raises(codec.CodecError, match=why):
        codec_of().decode(replace(symbols_received, **{broken: changed}))


def test_threads_that_code_at_once_agree_and_leave_the_process_its_threads() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    merged = [merged_of(seed, 0.25, 16, 16) for seed in range(6)]
    alone = [coded(m) for m in merged]
    together: list[Payload | None] = [None] * 6

    def work(number: int) -> None:
        for _ in range(5):
            together[number] = coded(merged[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert [pool["num_threads"] for pool in threadpoolctl.threadpool_info()] == before


def test_a_lost_refinement_leaves_its_rows_coarse_and_all_others_as_they_are() -> None:
    merged = merged_of(5, 0.25, 32, 32)
    sent = coded(merged, 20, "layer")
    whole = codec_of().decode(Received(sent))
    for lost in (1, 3):
        left = replace(sent, features=tuple(b"" if i == lost else part for i, part in enumerate(sent.features)))
        got = codec_of().decode(Received(left))
        coarse = np.flatnonzero(got.degradation[:, 1] != whole.degradation[:, 1])
        shown, before = got.rows[got.merge_map], whole.rows[whole.merge_map]
        fine = np.setdiff1d(np.arange(32 * 32), coarse)
        np.testing.assert_array_equal(shown[fine], before[fine])
        assert set(range(8 * 32 * (lost - 1), 8 * 32 * lost)) & set(coarse.tolist())
        assert not got.degradation[:, 3].any()  # nothing is predicted
        assert np.abs(shown[coarse] - merged.rows[merged.merge_map][coarse]).max() <= 0.6 * features.base_step(12) / prior.UNIT


def test_layers_cost_a_tenth_and_too_coarse_ones_are_refused() -> None:
    merged = merged_of(5, 0.0, 32, 32)
    assert coded(merged, 20, "layer").bits()["features"] <= 1.2 * coded(merged, 20, "stage").bits()["features"]
    with pytest.raises(ValueError, match=r"in layers needs a quantiser of at least 2\.25 bits, got 2"):
        coded(merged, 8, "layer")
    with pytest.raises(ValueError, match="no payload in layers has a depth of 8"):
        Header(8, 8, 5, 64, BACKBONE, 8, order="layer")
    budget = coded(merged, 12, "layer").bits()["total"]
    assert codec_of().encode(merged, bits_budget=budget, order="layer").payload.bits()["total"] <= budget


def test_error_rates_protect_what_others_are_predicted_from() -> None:
    merged = merged_of(0, 0.0, 32, 32)
    assert codec_of().encode(merged).error_rates == (0.003, 0.01, 0.3, 0.3, 0.3, 0.3)
    assert codec_of().encode(merged, order="stage").error_rates == (0.003, 0.01, 0.01, 0.01, 0.01, 0.3)
    assert codec_of().encode(merged, order="layer").error_rates == (0.003, 0.003, 0.3, 0.3, 0.3, 0.3)
    assert codec_of().encode(merged, analog=True).error_rates == (0.003,)
