from __future__ import annotations

import math

import numpy as np
import pytest

from megen.channel import analog, rate


def test_symbols_have_unit_power_and_come_back() -> None:
    features = np.random.default_rng(0).normal(3, 7, (101, 5)).astype(np.float32)
    symbols, amplitude = analog.modulate(features)
    assert len(symbols) == math.ceil(features.size / 2)
    assert np.mean(np.abs(symbols) ** 2) == pytest.approx(1, rel=2e-3)  # the odd one travels beside a zero
    np.testing.assert_allclose(analog.demodulate(symbols, amplitude, features.shape), features, rtol=1e-5, atol=1e-5)


def test_all_zero_features_cross() -> None:
    symbols, amplitude = analog.modulate(np.zeros((4, 2), np.float32))
    np.testing.assert_array_equal(analog.demodulate(symbols, amplitude, (4, 2)), 0)


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 10.0])
def test_mmse_error_is_1_over_1_plus_snr(snr_db: float) -> None:
    rng = np.random.default_rng(1)
    symbols = (rng.standard_normal(200_000) + 1j * rng.standard_normal(200_000)) / np.sqrt(2)
    no = analog.noise_variance(snr_db)
    gains = analog.fade(len(symbols), "awgn", 1, rng)
    error = np.abs(analog.mmse(analog.transmit(symbols, gains, no, rng), gains, no) - symbols) ** 2
    assert error.mean() == pytest.approx(1 / (1 + 1 / no), rel=0.02)


def test_rayleigh_moments_and_blocks() -> None:
    gains = analog.fade(400_000, "rayleigh", 2, np.random.default_rng(2))
    power = np.abs(gains[::2]) ** 2
    np.testing.assert_array_equal(gains[::2], gains[1::2])
    assert power.mean() == pytest.approx(1, rel=0.01)  # exponential: mean 1, second moment 2
    assert (power**2).mean() == pytest.approx(2, rel=0.03)
    assert np.abs(gains).mean() == pytest.approx(math.sqrt(math.pi) / 2, rel=0.01)
    assert abs(gains.mean()) < 0.01


def test_rayleigh_mmse_error_against_the_integral() -> None:
    rng, no = np.random.default_rng(3), 0.1
    symbols = (rng.standard_normal(300_000) + 1j * rng.standard_normal(300_000)) / np.sqrt(2)
    gains = analog.fade(len(symbols), "rayleigh", 1, rng)
    error = np.abs(analog.mmse(analog.transmit(symbols, gains, no, rng), gains, no) - symbols) ** 2
    x = np.linspace(0, 40, 400_001)
    expected = np.trapezoid(no / (x + no) * np.exp(-x), x)
    assert error.mean() == pytest.approx(expected, rel=0.02)


def test_more_snr_is_less_error_and_bad_values_are_refused() -> None:
    assert analog.noise_variance(20) < analog.noise_variance(10) < analog.noise_variance(0) == 1
    for bad in (math.nan, 1000.0, -100.0):
        with pytest.raises(ValueError, match="snr_db must lie in"):
            analog.noise_variance(bad)
    with pytest.raises(ValueError, match="awgn or rayleigh"):
        analog.fade(1, "rician", 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="NaN"):
        analog.modulate(np.full((2, 2), np.nan, np.float32))


def test_the_rate_stays_below_shannon() -> None:
    for snr_db in (-6.0, 0.0, 24.0):
        assert 0 < rate.achievable_bps(snr_db, 1e6) < 1e6 * math.log2(1 + 10 ** (snr_db / 10))
    with pytest.raises(ValueError, match="bandwidth_hz must be positive"):
        rate.achievable_bps(0, 0)
