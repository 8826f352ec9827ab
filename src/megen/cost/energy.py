"""Energy of one generation, modelled as power x time; ES, radio and UE stay apart."""

from __future__ import annotations

ES_W = 30.0  # assumed: two busy server cores with their share of the package
UE_DECODE_W = 4.0  # assumed: no phone decode power is published; 2 to 6 W is plausible
RADIO_W = 3.06  # measured 5G low-band downlink floor (SIGCOMM'21 5G artifact)
RADIO_W_PER_MBPS = 0.0115  # its slope, same source


def energy_j(es_s: float, transmit_s: float, rate_bps: float | None, ue_s: float) -> dict[str, float]:
    """Joules of edge server, radio and user equipment, and their total. All modelled."""
    parts = {
        "es": ES_W * es_s,
        "radio": (RADIO_W + RADIO_W_PER_MBPS * (rate_bps or 0.0) / 1e6) * transmit_s,
        "ue": UE_DECODE_W * ue_s,
    }
    return {**parts, "total": sum(parts.values())}
