"""Modulation and coding of 3GPP TS 38.214, and how often a block of it fails.

A link abstraction: what a decoder would do is read from block error curves fitted to link-level runs
(`experiments/bler/run.py`; `assets/bler.json` says when and with what).
"""

from __future__ import annotations

import json
import math
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from megen.errors import InputError

Array = NDArray[np.float64]

# (bits a symbol, 1024 * code rate): TS 38.214 table 5.1.3.1-1, then the 256-QAM rows of 5.1.3.1-2
MCS = (
    *((2, r) for r in (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
    *((4, r) for r in (340, 378, 434, 490, 553, 616, 658)),
    *((6, r) for r in (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    *((8, r) for r in (682.5, 711, 754, 797, 841, 885, 916.5, 948)),
)
_RATES = np.array([rate / 1024 for _, rate in MCS])


def efficiency(mcs: int) -> float:
    """Bits a channel use, without pilots and control."""
    order, rate = MCS[mcs]
    return order * rate / 1024


FASTEST_FIRST = sorted(range(len(MCS)), key=efficiency, reverse=True)


@lru_cache(maxsize=1 << 16)
def segments(bits: int, mcs: int) -> tuple[int, int]:
    """Code blocks of a transport block of `bits`, and bits in each, CRCs counted (TS 38.212, 7.2.1, 7.2.2 and 5.2.2)."""
    if bits < 1:
        raise InputError(f"a transport block holds at least 1 bit, got {bits}")
    whole = bits + (24 if bits > 3824 else 16)
    largest = 8448 if first_graph(mcs, whole) else 3840
    if whole <= largest:
        return 1, whole
    blocks = math.ceil(whole / (largest - 24))
    return blocks, math.ceil(whole / blocks) + 24


def first_graph(mcs: ArrayLike, block_bits: ArrayLike) -> NDArray[np.bool_]:
    """Whether blocks of so many bits, their CRC of 16 counted, use the first LDPC base graph (TS 38.212, 7.2.2)."""
    rate, size = _RATES[np.asarray(mcs)], np.asarray(block_bits)
    return np.asarray((size > 292 + 16) & (rate > 0.25) & ((size > 3824 + 16) | (rate > 0.67)))


@cache
def _curves() -> Array:
    """a, b, c, d by base graph (the second, the first) and MCS; where a graph is never used, those of the other."""
    fits = json.loads(resources.files("megen").joinpath("assets", "bler.json").read_text())["fits"]
    both = [[fit.get(name) or fit[other] for fit in fits] for name, other in (("second", "first"), ("first", "second"))]
    return np.array([[[fit[k] for k in ("a", "b", "c", "d")] for fit in graph] for graph in both])


def threshold_db(mcs: ArrayLike, block_bits: ArrayLike) -> tuple[Array, Array]:
    """SNR at which half the code blocks fail, and the curve's spread, in dB: a + b/sqrt(K) and c + d/sqrt(K) of the block's base graph."""
    a, b, c, d = np.moveaxis(_curves()[first_graph(mcs, block_bits).astype(int), np.asarray(mcs)], -1, 0)
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


def symbols(bits: int, mcs: int) -> float:
    """Symbols of one attempt of a transport block, its CRCs counted."""
    blocks, size = segments(bits, mcs)
    return blocks * size / efficiency(mcs)


@lru_cache(maxsize=1 << 10)
def largest_block(mcs: int, most_symbols: float) -> int:
    """Bits of the largest transport block that an MCS carries in so many symbols; at least 1, whatever that takes."""
    low, high = 1, max(1, int(most_symbols * efficiency(mcs)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if symbols(middle, mcs) <= most_symbols else (low, middle - 1)
    return low
