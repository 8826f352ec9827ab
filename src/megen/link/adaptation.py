"""Link adaptation: the modulation and coding of most throughput within an error rate, for a channel that was measured a while ago.

What is known is old: the gain has moved on since. An error rate is therefore taken in the mean over what the gain may be now. An
outer loop for each limit of the error rate corrects what that model gets wrong: as many blocks are lost as it says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import i0e

from megen.link import digital
from megen.link.fading import Forecast
from megen.types import IntArray

Array = NDArray[np.float64]

MAX_REPETITION = 16.0
STEP_DB = 0.5  # of the outer loop: by the error rate up, and after an error by all of it down
MOST_DB = 10.0  # of an offset
NODES, REACH = 128, 6.0  # of the mean over the gain, and how many deviations of its amplitude that spans


@dataclass(frozen=True)
class OuterLoop:
    """Offsets in dB to the SNR that the sender reckons with, one for each limit of the error rate: (limit, offset) pairs."""

    offsets_db: tuple[tuple[float, float], ...] = ()

    def offset_db(self, limit: float) -> float:
        """The offset of a limit; 0 where nothing was sent within it yet."""
        return dict(self.offsets_db).get(limit, 0.0)

    def after(self, limit: float, expected: float, lost: bool) -> OuterLoop:
        """What a first attempt changes: in the mean nothing where as many are lost as were expected to be."""
        offset_db = self.offset_db(limit) + STEP_DB * (expected - lost)
        kept = [(other, db) for other, db in self.offsets_db if other != limit]
        return OuterLoop(tuple(sorted([*kept, (limit, max(-MOST_DB, min(MOST_DB, offset_db)))])))


def mean_error(mcs: IntArray, bits: IntArray, forecast: Forecast, gain_db: float = 0.0) -> Array:
    """Error rate of transport blocks [m] of `bits` each in the mean over what the gain may be, `gain_db` added to it."""
    blocks, size = np.array([digital.segments(int(n), int(m)) for n, m in zip(bits, mcs, strict=True)]).T
    if not forecast.scattered:
        known_db = 10 * math.log10(max(forecast.steady, 1e-12)) + gain_db
        return np.asarray(1 - (1 - digital.block_error(mcs, size, known_db)) ** blocks)
    snr_db, weight = _gains(forecast)
    failed = digital.block_error(mcs[:, None], size[:, None], snr_db + gain_db)
    return np.asarray((1 - (1 - failed) ** blocks[:, None]) @ weight)


@lru_cache(maxsize=4096)
def _gains(forecast: Forecast) -> tuple[Array, Array]:
    """SNRs in dB and their weights: amplitude x of density 2x/s exp(-(x^2 + m^2)/s) I0(2xm/s), m^2 steady and s scattered."""
    middle, spread = math.sqrt(forecast.steady), math.sqrt(forecast.scattered)
    low, high = max(0.0, middle - REACH * spread), middle + REACH * spread
    x = low + (high - low) * (np.arange(NODES) + 0.5) / NODES
    density = x * np.exp(-((x - middle) ** 2) / forecast.scattered) * i0e(2 * x * middle / forecast.scattered)
    return 20 * np.log10(x), density / density.sum()


@dataclass(frozen=True)
class Choice:
    """How a transport block is sent: MCS, how often it is repeated, its bits, and the error rate that is expected of the first attempt."""

    mcs: int
    repetition: float
    bits: int
    expected: float


@lru_cache(maxsize=4096)
def choose(forecast: Forecast, bits: int, limit: float, slot_symbols: float, offset_db: float = 0.0) -> Choice:
    """The next transport block of a part of which `bits` are left; it holds a slot's worth at most.

    Of the MCS whose first attempt fails no more often than `limit`, the one that brings the most bits a symbol in the mean. Where there is
    none the slowest is repeated, by a whole number or not, as rate matching in a circular buffer does (TS 38.212, 5.4.2).
    """
    every = np.array(digital.FASTEST_FIRST)
    sizes = np.array([min(bits, digital.largest_block(mcs, slot_symbols)) for mcs in digital.FASTEST_FIRST])
    failed = mean_error(every, sizes, forecast, offset_db)
    if (failed <= limit).any():
        used = np.array([digital.symbols(size, mcs) for size, mcs in zip(sizes.tolist(), digital.FASTEST_FIRST, strict=True)])
        best = int(np.argmax(np.where(failed <= limit, sizes * (1 - failed) / used, 0)))
        return Choice(int(every[best]), 1.0, int(sizes[best]), float(failed[best]))
    slowest, size = every[-1:], sizes[-1:]
    low_db, high_db = 0.0, 10 * math.log10(MAX_REPETITION)
    if mean_error(slowest, size, forecast, offset_db + high_db)[0] <= limit:
        while high_db - low_db > 0.01:
            middle_db = (low_db + high_db) / 2
            good = mean_error(slowest, size, forecast, offset_db + middle_db)[0] <= limit
            low_db, high_db = (low_db, middle_db) if good else (middle_db, high_db)
    expected = float(mean_error(slowest, size, forecast, offset_db + high_db)[0])
    return Choice(int(slowest[0]), 10 ** (high_db / 10), int(size[0]), expected)
