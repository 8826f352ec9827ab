"""Energy of one generation, modelled as power x time; edge server, radio and user equipment stay apart."""

from __future__ import annotations

from megen.report import Energy

ES_W = 30.0  # assumed: two busy server cores with their share of the package
UE_DECODE_W = 4.0  # assumed: no phone decode power is published; 2 to 6 W is plausible
RADIO_W = 3.06  # measured 5G low-band downlink floor (SIGCOMM'21 5G artifact)
RADIO_W_PER_MBPS = 0.0115  # its slope, same source


def energy_j(
    es_s: float, transmit_s: float, rate_bps: float | None, ue_s: float, powers_w: tuple[float, float] = (ES_W, UE_DECODE_W)
) -> Energy:
    """Joules from seconds of work and of transmission, and the powers of edge server and user equipment."""
    radio_w = RADIO_W + RADIO_W_PER_MBPS * (rate_bps or 0.0) / 1e6
    return Energy(powers_w[0] * es_s, radio_w * transmit_s, powers_w[1] * ue_s)
