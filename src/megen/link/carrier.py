"""Symbols that a bandwidth carries: 3GPP TS 38.101-1's resource blocks, less cyclic prefix, guard band, pilots and control."""

from __future__ import annotations

import numpy as np

OVERHEAD = 0.14  # share of the symbols that pilots and control take (3GPP TS 38.306, downlink below 6 GHz)
# bandwidth in MHz: subcarrier spacing in kHz, resource blocks (TS 38.101-1, table 5.3.2-1)
BLOCKS = {5: (15, 25), 10: (15, 52), 20: (15, 106), 40: (15, 216), 50: (15, 270), 60: (30, 162), 80: (30, 217), 100: (30, 273)}
SUBCARRIERS, SYMBOLS = 12, 14  # of a block, and in its slot of 15 kHz / spacing ms


def symbols_per_hz(bandwidth_hz: float) -> float:
    """Symbols that carry data, a second and Hz: .722 at 5 MHz, .766 at 20, .789 at 100; between them by the bandwidth's logarithm.

    A narrower bandwidth is a share of the narrowest carrier's, a wider one several of the widest's.
    """
    mhz = np.array(sorted(BLOCKS))
    share = [n * SUBCARRIERS * SYMBOLS * spacing / 15 * 1e3 * (1 - OVERHEAD) / (1e6 * m) for m, (spacing, n) in sorted(BLOCKS.items())]
    return float(np.interp(np.log(bandwidth_hz / 1e6), np.log(mhz), share))


def symbol_rate_hz(bandwidth_hz: float) -> float:
    """Symbols that carry data, a second."""
    return bandwidth_hz * symbols_per_hz(bandwidth_hz)
