"""Transform coefficients on the analog link: which cross, how strongly, and what is made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from megen import codec, merging
from megen.codec import CodecError, FeatureCodec, Prior, PriorError, prior, transform
from megen.codec.codec import combined
from megen.codec.header import decode_header
from megen.link import RadioLink
from megen.training.prior import variances
from megen.types import InputError, Payload, Received
from tests.codec.helpers import BACKBONE

GRID, CHANNELS = (8, 6), 3
RNG = np.random.default_rng(4)
CLASSES = np.rint(16 - 4 * np.hypot(*np.mgrid[:8, :6]) + np.array([24, 0, -9])[:, None, None]).astype(np.int64)
PRIOR = Prior(np.array([256, 100, 700]), variance=CLASSES)


def tokens(seed: int, scale: float = 1.0) -> np.ndarray:
    """Tokens whose coefficients have the prior's variances."""
    normal = np.random.default_rng(seed).standard_normal(CLASSES.shape)
    return scale * transform.inverse(normal * 2.0 ** (CLASSES / 16))


def test_the_transform_is_orthonormal_and_of_cosines() -> None:
    for size in (2, 6, 8):
        rows = transform.basis(size)
        np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=1e-12)
        np.testing.assert_allclose(rows[0], size**-0.5)
        signs = [int((np.diff(np.sign(row)) != 0).sum()) for row in rows]
        assert signs == list(range(size))  # a row crosses zero as often as its frequency says
    values = tokens(0)
    np.testing.assert_allclose(transform.inverse(transform.forward(values, GRID)), values, atol=1e-5)
    assert (transform.forward(values, GRID) ** 2).sum() == pytest.approx((values.astype(float) ** 2).sum())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 96, 100, 1024, 8192, 32768])
def test_values_are_spread_over_time_and_none_is_lost(count: int) -> None:
    places = transform.spread(count)
    assert sorted(places) == list(range(count))
    if count > 8:
        first = places[: count // 4]
        assert np.histogram(first, 4, (0, count))[0].min() > len(first) / 8  # each quarter of the airtime has all kinds


def test_the_first_coefficients_are_those_that_matter_most() -> None:
    whole = transform.select(PRIOR, GRID, CLASSES.size)
    step = np.repeat(PRIOR.step, GRID[0] * GRID[1])[whole.numbers] / 256
    np.testing.assert_allclose(whole.variance, 2.0 ** (CLASSES.ravel()[whole.numbers] / 8))
    np.testing.assert_allclose(whole.gains, (step**-2 / whole.variance) ** 0.125, rtol=0.02)  # log2 of a step is linear between powers
    for count in (CLASSES.size // 2, 7):
        fewer = transform.select(PRIOR, GRID, count)
        left = ~np.isin(whole.numbers, fewer.numbers)
        matters = whole.variance / step
        assert matters[left].max() <= matters[~left].min() * 1.02


def test_estimates_are_as_far_off_as_they_say() -> None:
    chosen = transform.select(PRIOR, GRID, 100)
    noise = RNG.uniform(0.2, 2, 100)
    errors, said = [], 0.0
    for seed in range(200):
        own = tokens(seed)
        values = transform.forward(own, GRID).ravel()[chosen.numbers] + noise * np.random.default_rng([1, seed]).standard_normal(100)
        found = transform.estimates(values, noise, chosen, PRIOR)
        errors.append(((found.linear - own) ** 2).mean())
        said = found.error
    assert np.sqrt(np.mean(errors)) == pytest.approx(said, rel=0.03)
    assert found.noise == pytest.approx(np.exp(np.log(noise).mean()))
    kept = transform.forward(found.values, GRID).ravel()
    np.testing.assert_allclose(kept[chosen.numbers], values * np.minimum(1, 2 * found.noise / noise), atol=1e-4)
    assert np.abs(np.delete(kept, chosen.numbers)).max() < 1e-4  # what did not cross


def test_without_noise_all_coefficients_give_the_tokens_back() -> None:
    own, held = tokens(3), FeatureCodec(PRIOR, BACKBONE)
    sent = held.encode_coefficients(own, GRID)
    assert sent.symbols is not None
    assert (np.abs(sent.symbols) ** 2).mean() == pytest.approx(1, rel=1e-6)
    assert len(sent.symbols) == own.size // 2
    features = held.decode(Received(sent.payload, sent.symbols, np.zeros(len(sent.symbols))))
    np.testing.assert_allclose(features.rows, own, atol=1e-5)
    assert features.equalised is not None
    assert features.equalised.unknown < 1e-5
    assert not features.degradation[:, [0, 2, 3]].any()
    assert decode_header(sent.payload.header).reduction == "transform"


def test_airtime_buys_quality() -> None:
    held, link, errors = FeatureCodec(PRIOR, BACKBONE), RadioLink(3.0), []
    for options in ({"ratio": 0.75}, {"ratio": 0.5}, {}, {"copies": 2}, {"copies": 8}):
        off = []
        for seed in range(10):
            received = link.send(held.encode_coefficients(tokens(seed), GRID, **options), np.random.default_rng(seed)).received
            assert received.symbols is not None
            off.append(((held.decode(received).rows - tokens(seed)) ** 2).mean())
        errors.append(np.mean(off))
    assert errors == sorted(errors, reverse=True)


def test_copies_are_joined_by_maximum_ratio() -> None:
    symbols = RNG.standard_normal((3, 5)) + 1j * RNG.standard_normal((3, 5))
    variance = RNG.uniform(0.1, 2, (3, 5))
    value, joint = combined(Received(Payload(b"", b""), symbols.ravel(), variance.ravel()), 5)
    np.testing.assert_allclose(joint, 1 / (1 / variance).sum(0))
    np.testing.assert_allclose(value, np.average(symbols, axis=0, weights=1 / variance))
    for count in (0, 4, 6, 45):
        with pytest.raises(CodecError, match=f"needs 5 symbols, got {count}; up to 8 whole copies"):
            combined(Received(Payload(b"", b""), np.ones(count, complex), np.ones(count)), 5)


def test_what_cannot_cross_is_refused() -> None:
    held = FeatureCodec(PRIOR, BACKBONE)
    with pytest.raises(InputError, match="no variances of coefficients on a grid of 8 x 8: merge tokens"):
        held.encode_coefficients(np.zeros((64, 3), np.float32), (8, 8))
    with pytest.raises(InputError, match="no variances"):
        FeatureCodec(None, BACKBONE).encode_coefficients(tokens(0), GRID)
    with pytest.raises(InputError, match="tokens must be an array of"):
        held.encode_coefficients(tokens(0)[:12], GRID)
    with pytest.raises(InputError, match="NaN or infinity"):
        held.encode_coefficients(tokens(0) * np.float32(np.nan), GRID)
    with pytest.raises(InputError, match=r"copies must lie in \[1, 8\]"):
        held.encode_coefficients(tokens(0), GRID, copies=9)
    sent = held.encode_coefficients(tokens(0), GRID)
    other = FeatureCodec(replace(PRIOR, variance=None), BACKBONE)
    with pytest.raises(CodecError, match="no variances"):
        other.decode(Received(sent.payload, sent.symbols, np.ones(72)))
    with pytest.raises(CodecError, match="has 3 channels, this receiver 2"):
        FeatureCodec(Prior(np.array([256, 256]), variance=CLASSES[:2]), BACKBONE).decode(Received(sent.payload, sent.symbols, np.ones(72)))


def test_variances_are_measured_saved_and_checked(tmp_path: object) -> None:
    latents = torch.from_numpy(np.stack([tokens(seed).T.reshape(3, *GRID) for seed in range(400)]))
    found = variances(latents)
    assert np.abs(found - CLASSES).max() <= 3  # a mean of 400 squares is off by 7 %, a class by 9
    assert variances(torch.zeros(2, 3, *GRID)).max() == -160
    folder = tmp_path
    prior.save(PRIOR, folder, {})  # type: ignore[arg-type]
    back = prior.load(folder, 3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(back.variance, CLASSES)
    assert back.digest == PRIOR.digest != replace(PRIOR, variance=None).digest
    for wrong in (CLASSES[:2], CLASSES * 100, CLASSES[0]):
        with pytest.raises(PriorError, match=r"variances of coefficients must be \[3, height, width\] classes within \+- 160"):
            replace(PRIOR, variance=wrong)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("way", ["transform", "merging"])
def test_symbols_as_large_as_numbers_can_be_are_decoded_or_refused(way: str) -> None:
    """Whatever finite numbers come in, finite features come out, or a CodecError where no link leaves such symbols."""
    held = FeatureCodec(PRIOR, BACKBONE)
    merged = merging.merged(tokens(0), GRID, 0.25)
    sent = held.encode_coefficients(tokens(0), GRID) if way == "transform" else held.encode(merged, analog=True)
    assert sent.symbols is not None
    for value, variance in ((1e18, 0.0), (1.0, 1e308), (1e18 - 1e18j, 1e308), (-1e18j, 1.0), (0.0, 0.0), (1e308, 1.0), (1e308, 1e308)):
        received = Received(sent.payload, np.full(len(sent.symbols), value, complex), np.full(len(sent.symbols), variance))
        if abs(value) > 1e19:
            with pytest.raises(codec.CodecError, match=r"beyond 1e\+18"):
                held.decode(received)
            continue
        got = held.decode(received)
        assert got.rows.shape[1] == 3
        assert got.equalised is not None
        for numbers in (got.rows, got.degradation, got.equalised.values, got.equalised.deviation):
            assert np.isfinite(numbers).all()


def test_a_packed_payload_of_coefficients_comes_back() -> None:
    held = FeatureCodec(PRIOR, BACKBONE)
    sent = held.encode_coefficients(tokens(2), GRID, 0.3, copies=2)
    assert sent.symbols is not None
    received = Received(sent.payload, sent.symbols, np.full(len(sent.symbols), 0.1))
    again = held.decode(codec.unpack(codec.pack(received)))
    np.testing.assert_array_equal(again.rows, held.decode(received).rows)
