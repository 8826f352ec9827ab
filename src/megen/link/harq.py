"""Parts of a payload over the digital link: transport blocks of a slot's worth, block errors, retransmissions.

Retransmissions are combined by Chase: the SNRs of a bit's copies add. Where they differ over a block, their mutual information is
averaged (`link/effective.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.errors import InputError
from megen.link import adaptation, digital
from megen.link.adaptation import Choice, OuterLoop
from megen.link.carrier import symbol_rate_hz
from megen.link.effective import effective_snr_db
from megen.link.fading import Forecast

Array = NDArray[np.float64]

SLOT_S = 1e-3
MAX_ATTEMPTS = 4
MOST_ERRORS = 0.3  # of first attempts, where a transmission names no limit: throughput peaks below it, with fading as without
ROUND_TRIP_S = 4e-3  # from the end of a block to the earliest start of its retransmission


@dataclass
class Block:
    """A transport block: which part it is of, how it is sent, and what became of it so far."""

    part: int
    sent: Choice
    attempts: int = 0
    linear: float = 0.0  # SNR of all attempts together
    residual: float = 1.0  # expected loss after the attempts made, given the channel
    delivered: bool = False
    ended_s: float = 0.0


@dataclass(frozen=True)
class Reception:
    """What became of the parts of a payload."""

    delivered: tuple[bool, ...]  # of each part
    blocks: tuple[Block, ...]
    airtime_s: float  # all symbols sent, pilots and control counted
    latency_s: float  # until the last block was decoded or given up
    outer_loop: OuterLoop


def transmit(
    bits: Sequence[int],
    limits: Sequence[float],
    snr_db: Callable[[Array], Array],
    forecast: Callable[[float], Forecast],
    bandwidth_hz: float,
    rng: np.random.Generator,
    outer_loop: OuterLoop | None = None,
) -> Reception:
    """Send parts of a payload, in order, as transport blocks with up to `MAX_ATTEMPTS` attempts each.

    `snr_db(times)` is the channel's, `forecast(time)` what the sender expects of it then. `limits` are the largest error rates of the
    first attempts of each part's blocks. Lost blocks go again in rounds. Errors: InputError on a bandwidth that is not positive.
    """
    if not (bandwidth_hz > 0 and math.isfinite(bandwidth_hz)):
        raise InputError(f"bandwidth_hz must be positive, got {bandwidth_hz}")
    loop, rate_hz = outer_loop or OuterLoop(), symbol_rate_hz(bandwidth_hz)
    blocks: list[Block] = []
    now_s = airtime_s = 0.0
    for part, (left, limit) in enumerate(zip(bits, limits, strict=True)):
        while left:
            block = Block(part, adaptation.choose(forecast(now_s), left, limit, rate_hz * SLOT_S, loop.offset_db(limit)))
            seconds = _attempt(block, snr_db, now_s, rate_hz, rng)
            loop = loop.after(limit, block.sent.expected, not block.delivered)
            now_s, airtime_s, left = now_s + seconds, airtime_s + seconds, left - block.sent.bits
            blocks.append(block)
    for _ in range(MAX_ATTEMPTS - 1):
        for block in blocks:
            if not block.delivered:
                now_s = max(now_s, block.ended_s + ROUND_TRIP_S)
                seconds = _attempt(block, snr_db, now_s, rate_hz, rng)
                now_s, airtime_s = now_s + seconds, airtime_s + seconds
    lost = {block.part for block in blocks if not block.delivered}
    return Reception(tuple(i not in lost for i in range(len(bits))), tuple(blocks), airtime_s, now_s, loop)


def _attempt(block: Block, snr_db: Callable[[Array], Array], now_s: float, rate_hz: float, rng: np.random.Generator) -> float:
    """Send a block once more; how long that takes."""
    sent = block.sent
    copy_s = digital.symbols(sent.bits, sent.mcs) / rate_hz
    block.linear += _linear_snr(snr_db, now_s, copy_s, sent.repetition, digital.MCS[sent.mcs][0])
    block.attempts += 1
    failure = float(digital.transport_error(sent.mcs, sent.bits, 10 * math.log10(block.linear)))
    # given that it failed before with less: P(fails now | failed before)
    block.delivered = not rng.random() < min(1.0, failure / max(block.residual, 1e-300))
    block.residual = failure
    block.ended_s = now_s + sent.repetition * copy_s
    return sent.repetition * copy_s


def _linear_snr(snr_db: Callable[[Array], Array], now_s: float, copy_s: float, repetition: float, order: int) -> float:
    """One SNR for a block of `repetition` copies: the copies of a bit add up, what differs between bits is averaged as information."""
    count = max(1, math.ceil(copy_s / SLOT_S - 1e-9))
    positions = (np.arange(count) + 0.5) / count
    copies = np.arange(math.ceil(repetition - 1e-9))
    shares = np.minimum(1.0, repetition - copies)  # of the bits that a copy holds; of the last one, the first ones
    times = now_s + copy_s * (copies[:, None] + positions * shares[:, None])
    linear = 10 ** (snr_db(times.ravel()).reshape(times.shape) / 10)
    sums = (linear * shares[:, None]).sum(0)
    return float(10 ** (effective_snr_db(10 * np.log10(np.maximum(sums, 1e-12)), order) / 10))
