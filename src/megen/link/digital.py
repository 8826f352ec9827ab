"""The digital link: modulation and coding of 3GPP TS 38.214, block errors, HARQ, link adaptation.

A link abstraction: what a decoder would do is drawn from block error curves fitted to link-level runs
(`experiments/bler/run.py`; `assets/bler.json` says when and with what). Retransmissions are combined by
Chase: their SNRs add. A transport block that spans several slots has the SNR of their mean capacity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from megen.errors import InputError

Array = NDArray[np.float64]

SLOT_S = 1e-3
MAX_ATTEMPTS = 4
MAX_REPETITION = 16
TARGET_BLER = 0.1
OLLA_STEP_DB = 0.5
ROUND_TRIP_S = 4e-3  # from the end of a block to the earliest start of its retransmission
OVERHEAD = 0.14  # share of the symbols that pilots and control take (3GPP TS 38.306, downlink below 6 GHz)
# (bits a symbol, 1024 * code rate): TS 38.214 table 5.1.3.1-1, then the 256-QAM rows of 5.1.3.1-2
MCS = (
    *((2, r) for r in (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
    *((4, r) for r in (340, 378, 434, 490, 553, 616, 658)),
    *((6, r) for r in (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    *((8, r) for r in (682.5, 711, 754, 797, 841, 885, 916.5, 948)),
)


def efficiency(mcs: int) -> float:
    """Bits a channel use, without pilots and control."""
    order, rate = MCS[mcs]
    return order * rate / 1024


FASTEST_FIRST = sorted(range(len(MCS)), key=efficiency, reverse=True)


def segments(bits: int, mcs: int) -> tuple[int, int]:
    """Code blocks of a transport block of `bits`, and bits in each, CRCs counted (TS 38.212, 7.2.1, 7.2.2 and 5.2.2)."""
    if bits < 1:
        raise InputError(f"a transport block holds at least 1 bit, got {bits}")
    rate = MCS[mcs][1] / 1024
    second_graph = bits <= 292 or rate <= 0.25 or (bits <= 3824 and rate <= 0.67)
    largest = 3840 if second_graph else 8448
    whole = bits + (24 if bits > 3824 else 16)
    if whole <= largest:
        return 1, whole
    blocks = math.ceil(whole / (largest - 24))
    return blocks, math.ceil(whole / blocks) + 24


@cache
def _curves() -> Array:
    text = resources.files("megen").joinpath("assets", "bler.json").read_text()
    return np.array([[fit[k] for k in ("a", "b", "c", "d")] for fit in json.loads(text)["fits"]])


def threshold_db(mcs: ArrayLike, block_bits: ArrayLike) -> tuple[Array, Array]:
    """SNR at which half the code blocks fail, and the curve's spread, in dB: a + b/sqrt(K) and c + d/sqrt(K)."""
    a, b, c, d = np.moveaxis(_curves()[np.asarray(mcs)], -1, 0)
    root = 1 / np.sqrt(np.asarray(block_bits, float))
    return np.asarray(a + b * root), np.asarray(np.maximum(c + d * root, 0.01))


def block_error(mcs: ArrayLike, block_bits: ArrayLike, snr_db: ArrayLike) -> Array:
    """Error rate of one code block of K bits: Q((snr - threshold) / spread). Vectorised."""
    centre, spread = threshold_db(mcs, block_bits)
    return np.asarray(ndtr(-(np.asarray(snr_db, float) - centre) / spread))


def transport_error(mcs: int, bits: int, snr_db: ArrayLike) -> Array:
    """Error rate of a transport block: one of its code blocks fails."""
    blocks, size = segments(bits, mcs)
    return np.asarray(1 - (1 - block_error(mcs, size, snr_db)) ** blocks)


def airtime_s(bits: int, mcs: int, repetition: int, bandwidth_hz: float) -> float:
    """How long one attempt of a transport block takes, pilots and control counted."""
    blocks, size = segments(bits, mcs)
    return repetition * blocks * size / efficiency(mcs) / (1 - OVERHEAD) / bandwidth_hz


def choose(snr_db: float, bits: int, target: float) -> tuple[int, int]:
    """The fastest MCS whose transport block fails no more often than `target`, and how often it is repeated.

    Below the slowest MCS the block is sent several times and combined, up to `MAX_REPETITION`.
    """
    blocks, size = np.array([segments(bits, mcs) for mcs in FASTEST_FIRST]).T
    kept = np.flatnonzero(1 - (1 - block_error(FASTEST_FIRST, size, snr_db)) ** blocks <= target)
    if len(kept):
        return FASTEST_FIRST[int(kept[0])], 1
    for repetition in range(2, MAX_REPETITION + 1):
        if transport_error(0, bits, snr_db + 10 * math.log10(repetition)) <= target:
            return 0, repetition
    return 0, MAX_REPETITION


@dataclass(frozen=True)
class Reception:
    """What became of the parts of a payload."""

    delivered: tuple[bool, ...]
    attempts: tuple[int, ...]
    mcs: tuple[int, ...]  # of the first attempt
    repetition: tuple[int, ...]
    residual_bler: tuple[float, ...]  # expected loss after the last attempt made, given the channel
    airtime_s: float  # all symbols sent, pilots and control counted
    latency_s: float  # until the last part was decoded or given up
    olla_db: float


def transmit(
    bits: Sequence[int],
    targets: Sequence[float],
    snr_db: Callable[[Array], Array],
    known_snr_db: Callable[[float], float],
    bandwidth_hz: float,
    rng: np.random.Generator,
    olla_db: float = 0.0,
) -> Reception:
    """Send parts of a payload, in order, each as one transport block with up to `MAX_ATTEMPTS` attempts.

    `snr_db(times)` is the channel's, `known_snr_db(time)` what the sender believes; the outer loop's offset `olla_db`
    is added to it, falls after a lost first attempt and rises after one that arrived, so that `TARGET_BLER` are lost.
    `targets` are the first attempts' error rates that each part is sent for. Lost parts go again in rounds.
    """
    if not (bandwidth_hz > 0 and math.isfinite(bandwidth_hz)):
        raise InputError(f"bandwidth_hz must be positive, got {bandwidth_hz}")
    n = len(bits)
    attempts, linear, first, loss = [0] * n, np.zeros(n), [(0, 1)] * n, [1.0] * n
    delivered, pending, now, airtime = [False] * n, list(range(n)), 0.0, 0.0
    for attempt in range(MAX_ATTEMPTS):
        began = now
        for i in pending:
            if attempt == 0:
                first[i] = choose(known_snr_db(now) + olla_db, bits[i], targets[i])
            mcs, repetition = first[i]
            seconds = airtime_s(bits[i], mcs, repetition, bandwidth_hz)
            slots = now + SLOT_S * np.arange(max(1, math.ceil(seconds / SLOT_S)), dtype=np.float64)
            capacity = np.log2(1 + 10 ** (snr_db(slots) / 10)).mean()
            linear[i] += repetition * (2**capacity - 1)
            attempts[i] += 1
            failure = float(transport_error(mcs, bits[i], 10 * np.log10(linear[i])))
            # given that it failed before with less: P(fails now | failed before)
            lost = bool(rng.random() < min(1.0, failure / max(loss[i], 1e-300)))
            loss[i] = failure
            delivered[i] = not lost
            now, airtime = now + seconds, airtime + seconds
            if attempt == 0:
                olla_db += OLLA_STEP_DB * (-(1 - TARGET_BLER) if lost else TARGET_BLER)
        pending = [i for i in pending if not delivered[i]]
        if not pending:
            break
        if attempt < MAX_ATTEMPTS - 1:
            now = max(now, began + ROUND_TRIP_S + SLOT_S)
    return Reception(
        tuple(delivered),
        tuple(attempts),
        tuple(m for m, _ in first),
        tuple(r for _, r in first),
        tuple(loss),
        airtime,
        now,
        olla_db,
    )
