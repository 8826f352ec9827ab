from __future__ import annotations

import math

import numpy as np
import pytest

from megen.codec import symbols as iq
from megen.link import RadioLink, analog, fading
from megen.types import InputError


def test_symbols_have_unit_power_and_come_back() -> None:
    rows = np.random.default_rng(0).normal(3, 7, (101, 5)).astype(np.float32)
    gains = iq.row_gains(np.random.default_rng(1).integers(1, 9, 101))
    symbols, amplitude = iq.modulate(rows, gains)
    assert len(symbols) == math.ceil(rows.size / 2)
    assert np.mean(np.abs(symbols) ** 2) == pytest.approx(1, rel=2e-3)  # the odd one travels beside a zero
    back, deviation = iq.demodulate(symbols, np.full(len(symbols), 1e-12), amplitude, gains, 5)
    np.testing.assert_allclose(back, rows, rtol=1e-4, atol=1e-4)
    assert (deviation < 1e-3).all()


def test_all_zero_rows_cross() -> None:
    symbols, amplitude = iq.modulate(np.zeros((4, 2), np.float32), np.ones(4))
    np.testing.assert_array_equal(iq.demodulate(symbols, np.zeros(4), amplitude, np.ones(4), 2)[0], 0)


def test_rows_that_stand_for_more_tokens_get_the_power_that_degrades_least() -> None:
    counts = np.array([1, 1, 4, 9])
    gains = iq.row_gains(counts)
    assert np.square(gains).mean() == pytest.approx(1)

    def error(power: np.ndarray) -> float:
        return float((counts / power).sum())

    best = error(gains**2)
    for other in (np.ones(4), counts / counts.mean()):
        assert best < error(other)
    rng = np.random.default_rng(0)
    for _ in range(50):
        power = rng.random(4) + 0.1
        assert best <= error(power / power.mean()) + 1e-9


def test_the_deviation_is_the_error() -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((4000, 8)).astype(np.float32)
    counts = rng.integers(1, 5, 4000)
    gains = iq.row_gains(counts)
    symbols, amplitude = iq.modulate(rows, gains)
    no = analog.noise_variance(8.0)
    ones = np.ones(len(symbols), complex)
    equalised = analog.equalise(analog.transmit(symbols, ones, no, rng), ones, no)
    got, deviation = iq.demodulate(*equalised, amplitude, gains, 8)
    for count in (1, 4):
        here = counts == count
        unshrunk = got[here] * (1 + deviation[here, None] ** 2)
        assert np.sqrt(np.square(unshrunk - rows[here]).mean()) == pytest.approx(deviation[here].mean(), rel=0.03)


@pytest.mark.parametrize("snr_db", [-6.0, 0.0, 10.0])
def test_the_error_of_what_is_received_is_that_of_linear_mmse(snr_db: float) -> None:
    """1 / (1 + SNR) of a value of unit variance."""
    rng = np.random.default_rng(1)
    rows, ones = rng.standard_normal((50_000, 8)).astype(np.float32), np.ones(50_000)
    symbols, amplitude = iq.modulate(rows, ones)
    no, gains = analog.noise_variance(snr_db), np.ones(len(symbols), complex)
    back, _ = iq.demodulate(*analog.equalise(analog.transmit(symbols, gains, no, rng), gains, no), amplitude, ones, 8)
    assert np.square(back - rows).mean() == pytest.approx(1 / (1 + 1 / no), rel=0.02)


@pytest.mark.parametrize(("snr_db", "csi_error"), [(20.0, 0.01), (0.0, 0.02), (12.0, 0.0)])
def test_the_errors_of_gain_estimates_are_told_as_noise(snr_db: float, csi_error: float) -> None:
    """x (h / h' - 1) + n / h' has the variance (no + csi_error) / |h'|^2 for unit symbols, where h' is the estimate of h = 1."""
    rng = np.random.default_rng(6)
    symbols = np.exp(2j * np.pi * rng.random(200_000))
    link = RadioLink(snr_db, csi_error=csi_error)
    received, variance = link.send_symbols(symbols, link.gain(rng), 0.0, rng)
    share = np.square(np.abs(received - symbols)) / variance
    assert share.mean() == pytest.approx(1, rel=0.15 if csi_error else 0.02)  # one error a slot: a few hundred draws
    assert variance.mean() == pytest.approx(analog.noise_variance(snr_db) + csi_error, rel=0.1)
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="csi_error must lie in"):
            RadioLink(csi_error=bad)


def test_rayleigh_error_against_the_integral() -> None:
    rng, no = np.random.default_rng(3), 0.1
    rows, ones = rng.standard_normal((75_000, 8)).astype(np.float32), np.ones(75_000)
    symbols, amplitude = iq.modulate(rows, ones)
    gains = fading.rayleigh((len(symbols),), rng)
    back, _ = iq.demodulate(*analog.equalise(analog.transmit(symbols, gains, no, rng), gains, no), amplitude, ones, 8)
    x = np.linspace(0, 40, 400_001)
    expected = np.trapezoid(no / (x + no) * np.exp(-x), x)
    assert np.square(back - rows).mean() == pytest.approx(expected, rel=0.02)


def test_more_snr_is_less_error_and_bad_values_are_refused() -> None:
    assert analog.noise_variance(20) < analog.noise_variance(10) < analog.noise_variance(0) == 1
    for bad in (math.nan, math.inf, 1000.0, -100.0):
        with pytest.raises(ValueError, match="snr_db must lie in"):
            analog.noise_variance(bad)
    with pytest.raises(ValueError, match="NaN"):
        iq.modulate(np.full((2, 2), np.nan, np.float32), np.ones(2))
