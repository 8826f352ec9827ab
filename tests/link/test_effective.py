from __future__ import annotations

import numpy as np
import pytest

from megen.link.effective import effective_snr_db, mutual_information

ORDERS = (2, 4, 6, 8)


@pytest.mark.parametrize("order", ORDERS)
def test_information_lies_between_what_is_known_of_it(order: int) -> None:
    snr_db = np.linspace(-20, 40, 61)
    bits, linear = mutual_information(order, snr_db), 10 ** (snr_db / 10)
    assert (np.diff(bits) >= -1e-9).all()
    assert (bits <= np.minimum(order, np.log2(1 + linear)) + 1e-6).all()
    assert bits[0] == pytest.approx(linear[0] / np.log(2), rel=0.01)  # the wideband slope, whatever the constellation
    assert bits[-1] == pytest.approx(order, abs=0.01)


def test_qpsk_against_a_simulation() -> None:
    rng, snr_db = np.random.default_rng(0), 2.0
    no = 10 ** (-snr_db / 10)
    noise = rng.standard_normal(400_000) * np.sqrt(no / 2)
    x = np.sqrt(0.5)
    expected = 2 * (1 - np.log2(1 + np.exp(-4 * x * (x + noise) / no)).mean())  # two antipodal parts
    assert mutual_information(2, np.array([snr_db]))[0] == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("order", ORDERS)
def test_the_effective_snr_of_like_slots_is_theirs_and_of_unlike_ones_is_below_that_of_their_capacity(order: int) -> None:
    for snr_db in (-15.0, 0.0, 7.3, 18.0):
        assert effective_snr_db(np.full(3, snr_db), order) == pytest.approx(snr_db, abs=0.02)
    slots = np.array([-3.0, 6.0, 14.0])
    by_capacity = 10 * np.log10(2 ** np.log2(1 + 10 ** (slots / 10)).mean() - 1)
    assert slots.min() < effective_snr_db(slots, order) < by_capacity + 0.02
    assert effective_snr_db(np.array([-50.0, -45.0]), order) == pytest.approx(-47.5)
