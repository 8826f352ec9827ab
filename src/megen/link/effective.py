"""What a block that spans several slots meets: one effective SNR, from the mutual information of its constellation.

The mean of the information of all slots is that of one SNR without fading (mutual information effective SNR mapping). A mean of
capacities is more favourable than any constellation is: one slot cannot carry more bits a symbol than its constellation has.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOWEST_DB, HIGHEST_DB, STEP_DB = -30.0, 50.0, 0.25
NODES = 32  # of the integral over the noise, per dimension


def mutual_information(order: int, snr_db: Array) -> Array:
    """Bits a symbol of square QAM with `order` bits, all points equally likely, in white Gaussian noise.

    I = m - 1/M sum_i E_n log2 sum_j exp((n^2 - (x_i - x_j + n)^2) / no), twice: for the real and the imaginary part of M = 2^m points.
    """
    points = 2 ** (order // 2)
    levels = np.arange(points) * 2.0 - (points - 1)
    levels /= np.sqrt(2 * (levels**2).mean())  # both parts together have unit power
    node, weight = np.polynomial.hermite.hermgauss(NODES)  # of the weight exp(-u^2): n = sqrt(no) u
    out = np.empty(len(snr_db))
    for k, deviation in enumerate(10 ** (-np.asarray(snr_db, float) / 20)):
        noise = deviation * node
        apart = levels[:, None, None] - levels[None, :, None] + noise  # [i, j, nodes]
        exponent = (noise**2 - apart**2) / deviation**2
        largest = exponent.max(1)
        inner = largest + np.log(np.exp(exponent - largest[:, None]).sum(1))
        out[k] = order - 2 * (inner / np.log(2) @ weight).mean() / np.sqrt(np.pi)
    return out


@cache
def _table(order: int) -> tuple[Array, Array]:
    """SNRs in dB and the information at each, as far as it rises."""
    snr_db = np.arange(LOWEST_DB, HIGHEST_DB, STEP_DB)
    bits = np.maximum.accumulate(mutual_information(order, snr_db))
    rising = np.flatnonzero(order - bits > 1e-9)
    return snr_db[rising], bits[rising]


def effective_snr_db(snr_db: Array, order: int) -> float:
    """The one SNR at which a constellation carries the mean information of slots with `snr_db` [n].

    Slots that all lie above or below the table have their own mean.
    """
    known_db, bits = _table(order)
    if len(snr_db) == 1 or snr_db.min() >= known_db[-1] or snr_db.max() <= known_db[0]:
        return float(snr_db.mean())
    return float(np.interp(np.interp(snr_db, known_db, bits).mean(), bits, known_db))
