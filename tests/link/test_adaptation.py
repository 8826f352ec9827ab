from __future__ import annotations

import math

import numpy as np
import pytest

from megen.link import adaptation, digital, fading
from megen.link.adaptation import OuterLoop
from megen.link.fading import Forecast

SLOT = 700.0  # symbols


def at(snr_db: float) -> Forecast:
    return Forecast(10 ** (snr_db / 10))


def test_the_choice_is_that_of_most_throughput_within_the_limit() -> None:
    for snr_db, limit in ((-4.0, 0.1), (3.0, 0.3), (11.0, 0.01), (20.0, 0.3)):
        got = adaptation.choose(at(snr_db), 4000, limit, SLOT)
        assert got.repetition == 1
        assert got.expected == pytest.approx(float(digital.transport_error(got.mcs, got.bits, snr_db)))
        assert got.expected <= limit
        assert digital.symbols(got.bits, got.mcs) <= SLOT
        brought = got.bits * (1 - got.expected) / digital.symbols(got.bits, got.mcs)
        for mcs in range(len(digital.MCS)):
            bits = min(4000, digital.largest_block(mcs, SLOT))
            failed = float(digital.transport_error(mcs, bits, snr_db))
            assert failed > limit or bits * (1 - failed) / digital.symbols(bits, mcs) <= brought + 1e-9


def test_below_the_slowest_scheme_symbols_grow_smoothly() -> None:
    shares = []
    for snr_db in np.arange(-16.0, -7.0, 0.25):
        got = adaptation.choose(at(float(snr_db)), 140, 0.01, SLOT)
        assert got.mcs == digital.FASTEST_FIRST[-1]
        assert 1 < got.repetition < adaptation.MAX_REPETITION
        per_symbol = got.bits / (got.repetition * digital.symbols(got.bits, got.mcs))
        shares.append(per_symbol / math.log2(1 + 10 ** (snr_db / 10)))  # of Shannon's bound
    assert max(shares) / min(shares) < 1.12  # whole repetitions alone: 1.7
    assert adaptation.choose(at(-40.0), 140, 0.01, SLOT).repetition == adaptation.MAX_REPETITION


@pytest.mark.parametrize(("steady", "scattered"), [(10.0, 0.0), (6.0, 3.0), (0.1, 10.0)])
def test_an_error_in_the_mean_over_the_gain_against_draws_of_it(steady: float, scattered: float) -> None:
    rng = np.random.default_rng(0)
    gain = np.abs(math.sqrt(steady) + math.sqrt(scattered) * fading.rayleigh((200_000,), rng)) ** 2
    for mcs in (0, 8, 15):
        expected = digital.transport_error(mcs, 600, 10 * np.log10(gain)).mean()
        got = adaptation.mean_error(np.array([mcs]), np.array([600]), Forecast(steady, scattered))[0]
        assert got == pytest.approx(expected, abs=0.003)


def test_old_knowledge_is_trusted_less() -> None:
    known, mean = 13.0, 10.0
    fresh, old, useless = (fading.forecast("rayleigh", 40.0, age_s, known, mean) for age_s in (0.0, 2e-3, 0.4))
    assert (fresh.steady, fresh.scattered) == pytest.approx((10**1.3, 0))
    assert old.steady < fresh.steady
    assert useless.scattered == pytest.approx(10.0, rel=0.02)
    assert fading.forecast("awgn", 40.0, 0.4, known, mean) == fresh
    speeds = [adaptation.choose(f, 4000, 0.1, SLOT) for f in (fresh, old, useless)]
    assert digital.efficiency(speeds[0].mcs) > digital.efficiency(speeds[1].mcs) > digital.efficiency(speeds[2].mcs)


@pytest.mark.parametrize("kind", ["rayleigh", "rician"])
def test_the_forecast_is_what_fading_does(kind: str) -> None:
    rng, age_s, doppler = np.random.default_rng(1), 3e-3, 40.0
    now, later = (np.empty(20_000) for _ in range(2))
    for i in range(len(now)):
        gain = fading.gain_of(kind, doppler, rng)
        now[i], later[i] = np.abs(gain(np.array([0.0, age_s]))) ** 2
    strong = now > np.quantile(now, 0.9)
    expected = [fading.forecast(kind, doppler, age_s, 10 * math.log10(g), 0.0) for g in now[strong]]
    assert later[strong].mean() == pytest.approx(np.mean([f.steady + f.scattered for f in expected]), rel=0.05)


def test_an_offset_moves_as_more_or_fewer_are_lost_than_expected() -> None:
    loop = OuterLoop().after(0.3, 0.1, lost=False)
    assert loop.offset_db(0.3) == pytest.approx(0.05)
    assert loop.offset_db(0.01) == 0
    loop = loop.after(0.3, 0.1, lost=True).after(0.01, 0.01, lost=True)
    assert loop.offset_db(0.3) == pytest.approx(-0.4)
    assert loop.offset_db(0.01) == pytest.approx(-0.495)
    for _ in range(100):
        loop = loop.after(0.3, 0.0, lost=True)
    assert loop.offset_db(0.3) == -adaptation.MOST_DB
