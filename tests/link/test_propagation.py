from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import exp1, j0

from megen.link import fading, propagation


def test_path_loss_by_hand() -> None:
    # 38.901 table 7.4.1-1 at 100 m, 3.5 GHz: d3D = 100.36 m, breakpoint 4 * 9 * 0.5 * f / c = 210.1 m
    d3 = np.hypot(100, 8.5)
    los = 32.4 + 21 * np.log10(d3) + 20 * np.log10(3.5)
    assert propagation.umi_los_db(100, 3.5e9) == pytest.approx(los)
    assert propagation.umi_nlos_db(100, 3.5e9) == pytest.approx(22.4 + 35.3 * np.log10(d3) + 21.3 * np.log10(3.5))
    assert propagation.reference_db(250) == pytest.approx(35.3 + 37.6 * np.log10(250))


def test_path_loss_grows_and_is_never_less_without_sight() -> None:
    d = np.geomspace(10, 5000, 400)
    for carrier_hz in (0.7e9, 3.5e9, 28e9):
        los, nlos = propagation.umi_los_db(d, carrier_hz), propagation.umi_nlos_db(d, carrier_hz)
        assert (np.diff(los) > -0.2).all()  # the two slopes of the standard meet within a fraction of a dB
        assert (nlos >= los).all()


def test_the_reference_systems_snr() -> None:
    budget = propagation.LinkBudget()
    assert budget.noise_dbm() == pytest.approx(-94)
    near, far = budget.snr_db(propagation.reference_db(np.array([200.0, 300.0])))
    assert near == pytest.approx(2.2, abs=0.1)
    assert far == pytest.approx(-4.4, abs=0.1)


@pytest.mark.parametrize(("distance_m", "carrier_hz"), [(5, 3.5e9), (6000, 3.5e9), (np.nan, 3.5e9), (100, 1e8)])
def test_places_where_the_model_does_not_hold_are_refused(distance_m: float, carrier_hz: float) -> None:
    with pytest.raises(ValueError, match=r"38\.901"):
        propagation.umi_los_db(distance_m, carrier_hz)


def test_an_unknown_model_and_a_budget_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of umi-los"):
        propagation.path_loss_db("moon", 100, 3.5e9)
    with pytest.raises(ValueError, match="noise_figure_db must lie in"):
        propagation.LinkBudget(noise_figure_db=float("nan"))


def test_rayleigh_moments() -> None:
    power = np.abs(fading.rayleigh((400_000,), np.random.default_rng(2))) ** 2
    assert power.mean() == pytest.approx(1, rel=0.01)  # exponential: mean 1, second moment 2
    assert (power**2).mean() == pytest.approx(2, rel=0.03)


def test_rician_moments() -> None:
    k = 10**0.6
    gains = fading.rician(fading.rayleigh((400_000,), np.random.default_rng(2)), 6.0)
    assert gains.mean() == pytest.approx(np.sqrt(k / (k + 1)), rel=0.01)
    power = np.abs(gains) ** 2
    assert power.mean() == pytest.approx(1, rel=0.01)
    assert power.var() == pytest.approx((2 * k + 1) / (k + 1) ** 2, rel=0.02)


def test_jakes_correlation_is_j0() -> None:
    doppler, slot_s = fading.doppler_hz(10, 3.5e9), 1e-3
    gain = fading.jakes(doppler, np.random.default_rng(1), (20_000,))
    lags = np.arange(0, 40, 4) * slot_s
    h = gain(lags)
    found = (h * h[0].conj()).mean(1).real
    np.testing.assert_allclose(found, j0(2 * np.pi * doppler * lags), atol=0.03)
    assert (np.abs(h[0]) ** 2).mean() == pytest.approx(1, rel=0.03)
    assert (np.abs(h[0]) ** 4).mean() == pytest.approx(2, rel=0.1)  # 32 waves: 2 - 1/32, and the draw


def test_ergodic_rayleigh_capacity() -> None:
    snr = 10.0
    power = np.abs(fading.rayleigh((500_000,), np.random.default_rng(5))) ** 2
    closed = np.exp(1 / snr) * exp1(1 / snr) / np.log(2)
    assert np.log2(1 + snr * power).mean() == pytest.approx(closed, rel=5e-3)
    assert quad(lambda x: np.log2(1 + snr * x) * np.exp(-x), 0, 60)[0] == pytest.approx(closed, rel=1e-6)
