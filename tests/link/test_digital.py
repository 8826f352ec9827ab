from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from megen.link import digital

GOOD: Callable[[np.ndarray], np.ndarray] = lambda t: np.full(np.shape(t), 15.0)  # noqa: E731


def steady(snr_db: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda t: np.full(np.shape(t), snr_db)


def run(bits: list[int], snr_db: float, believed_db: float, seed: int, olla_db: float = 0.0) -> digital.Reception:
    rng = np.random.default_rng(seed)
    return digital.transmit(bits, [0.1] * len(bits), steady(snr_db), lambda t: believed_db, 1e6, rng, olla_db)


def test_segments_follow_38_212() -> None:
    assert digital.segments(100, 10) == (1, 116)
    assert digital.segments(3824, 20) == (1, 3840)
    assert digital.segments(8424, 20) == (1, 8448)
    assert digital.segments(8425, 20) == (2, math.ceil(8449 / 2) + 24)
    assert digital.segments(5000, 0)[0] == 2  # below rate 1/4 the second base graph, at most 3840 bits
    with pytest.raises(ValueError, match="at least 1 bit"):
        digital.segments(0, 0)


def test_errors_fall_with_snr_and_rise_with_the_rate() -> None:
    snr = np.linspace(-12, 30, 200)
    for mcs in range(len(digital.MCS)):
        curve = digital.block_error(mcs, 2048, snr)
        assert (np.diff(curve) <= 0).all()
        assert curve[0] > 0.99
        assert curve[-1] < 1e-6
    by_rate = sorted(range(len(digital.MCS)), key=digital.efficiency)
    centres = [float(digital.threshold_db(m, 2048)[0]) for m in by_rate]
    assert all(b > a - 0.6 for a, b in itertools.pairwise(centres))  # 64-QAM at the rate of 16-QAM needs a little more


def test_every_mcs_lies_above_shannons_bound_and_not_far() -> None:
    for mcs in range(len(digital.MCS)):
        centre, spread = (float(v) for v in digital.threshold_db(mcs, 3584))
        gap_db = centre + 1.28 * spread - 10 * math.log10(2 ** digital.efficiency(mcs) - 1)
        assert 0.2 < gap_db < 3.0, (mcs, gap_db)


def test_the_chosen_mcs_meets_its_target_and_the_next_does_not() -> None:
    for snr_db in (-4.0, 3.0, 11.0, 20.0):
        mcs, repetition = digital.choose(snr_db, 4000, 0.1)
        assert repetition == 1
        assert digital.transport_error(mcs, 4000, snr_db) <= 0.1
        faster = [m for m in range(len(digital.MCS)) if digital.efficiency(m) > digital.efficiency(mcs)]
        assert all(digital.transport_error(m, 4000, snr_db) > 0.1 for m in faster)
    assert digital.choose(-14.0, 4000, 0.1)[1] > 2  # below the slowest: repetition


def test_mean_attempts_against_the_closed_form() -> None:
    bits, snr_db = 4000, 5.0
    mcs, repetition = digital.choose(snr_db + 0.6, bits, 0.1)  # a little too bold
    # 1 + P1 + P2 + ..., each P of the SNR so far: the k-th attempt is made where all before it failed
    *tails, residual = (float(digital.transport_error(mcs, bits, snr_db + 10 * math.log10(k))) for k in range(1, digital.MAX_ATTEMPTS + 1))
    expected = 1 + sum(tails)
    got = [run([bits], snr_db, snr_db + 0.6, seed) for seed in range(4000)]
    assert repetition == 1
    assert expected > 1.05
    assert np.mean([g.attempts[0] for g in got]) == pytest.approx(expected, rel=0.02)
    assert np.mean([not g.delivered[0] for g in got]) == pytest.approx(residual, abs=0.005)


def test_a_link_that_is_worse_than_believed_costs_attempts_and_says_what_is_lost() -> None:
    fine, poor, hopeless = (run([4000] * 8, 12.0 - x, 12.0, 0) for x in (0.0, 2.5, 30.0))
    assert all(fine.delivered)
    assert np.mean(poor.attempts) > np.mean(fine.attempts)
    assert poor.airtime_s > fine.airtime_s
    assert poor.latency_s >= poor.airtime_s
    assert not any(hopeless.delivered)
    assert set(hopeless.attempts) == {digital.MAX_ATTEMPTS}


def test_the_outer_loop_settles_at_its_target() -> None:
    rng, olla_db, lost = np.random.default_rng(0), 0.0, []
    for k in range(3000):  # the sender believes 2 dB too much
        got = digital.transmit([4000], [0.1], steady(8.0), lambda t: 10.0, 1e6, rng, olla_db)
        olla_db = got.olla_db
        if k > 300:
            lost.append(got.attempts[0] > 1)
    assert np.mean(lost) == pytest.approx(digital.TARGET_BLER, abs=0.03)
    assert olla_db == pytest.approx(-2, abs=1.2)


def test_a_transmission_takes_its_bits_over_its_rate() -> None:
    got = run([8000, 8000], 25.0, 25.0, 0)
    mcs = got.mcs[0]
    blocks, size = digital.segments(8000, mcs)
    assert got.airtime_s == pytest.approx(2 * blocks * size / digital.efficiency(mcs) / (1 - digital.OVERHEAD) / 1e6)
    with pytest.raises(ValueError, match="bandwidth_hz must be positive"):
        digital.transmit([1], [0.1], GOOD, lambda t: 10.0, 0.0, np.random.default_rng(0))
