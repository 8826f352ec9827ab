from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from megen.link import digital


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


def test_the_base_graph_follows_38_212() -> None:
    fast, middle, slow = (next(m for m, (_, r) in enumerate(digital.MCS) if r / 1024 > low) for low in (0.67, 0.25, 0.0))
    assert [bool(digital.first_graph(fast, k)) for k in (308, 309)] == [False, True]
    assert [bool(digital.first_graph(middle, k)) for k in (3840, 3841)] == [False, True]
    assert not digital.first_graph(slow, 3840)


def test_a_block_holds_what_a_slot_carries_and_no_bit_more() -> None:
    for mcs in (0, 9, 20, 36):
        bits = digital.largest_block(mcs, 900.0)
        assert digital.symbols(bits, mcs) <= 900 < digital.symbols(bits + 1, mcs)
    assert digital.largest_block(0, 1.0) == 1
