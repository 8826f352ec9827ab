"""How fast bits cross a link of known SNR: the bound, until the coded link is there."""

from __future__ import annotations

import math

EFFICIENCY = 0.75  # share of the Shannon rate; MCS tables lie 0.4 to 2.4 dB below it


def achievable_bps(snr_db: float, bandwidth_hz: float) -> float:
    """EFFICIENCY * B * log2(1 + snr): a modelled rate of the protected digital part."""
    if not (bandwidth_hz > 0 and math.isfinite(bandwidth_hz)):
        raise ValueError(f"bandwidth_hz must be positive, got {bandwidth_hz}")
    return EFFICIENCY * bandwidth_hz * math.log2(1 + 10 ** (snr_db / 10))
