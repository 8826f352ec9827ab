"""What the report of one image holds beside the request: seconds, joules, bits, the channel, and what decided the pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

import torch

from megen.backbone import Backbone
from megen.cost.energy import ES_W, UE_DECODE_W, energy_j
from megen.link import Connection, Link, PerfectLink, RadioLink
from megen.provenance import provenance
from megen.report import Channel, Energy, Latency, MadeBy, PayloadBits, Quality

if TYPE_CHECKING:
    from megen.types import Delivery, Transmission

MODELLED_ENERGY = ("energy_j.es", "energy_j.radio", "energy_j.ue", "energy_j.total")
MODELLED_LINK = ("latency_s.transmit", "latency_s.total", "channel.rate_bps", "channel.attempts", "channel.residual_bler")


class Accounts(TypedDict):
    """Fields of a report."""

    latency_s: Latency
    energy_j: Energy
    payload_bits: PayloadBits
    channel: Channel
    quality: Quality
    modelled: tuple[str, ...]


def accounts(
    seconds: dict[str, float],
    sent: Transmission,
    delivery: Delivery,
    link: Link,
    backlog_s: float = 0.0,
    powers_w: tuple[float, float] = (ES_W, UE_DECODE_W),
) -> Accounts:
    """Seconds by stage, the queue of `backlog_s` first, energies by the powers of both machines, bits and the channel of one image."""
    bits = sent.payload.bits()
    stages = {k: seconds.get(k, 0.0) for k in ("text", "denoise", "merge", "code", "decode")}  # a transform merges nothing
    latency = Latency(queue=backlog_s, transmit=delivery.latency_s, **stages)
    used = not isinstance(link, PerfectLink)
    rate_bps = bits["total"] / delivery.latency_s if used and sent.symbols is None and delivery.latency_s > 0 else None
    return Accounts(
        latency_s=latency,
        energy_j=energy_j(latency.es, latency.transmit, rate_bps, latency.decode, powers_w),
        payload_bits=PayloadBits(**bits),
        channel=_channel(link, sent, delivery, rate_bps),
        quality=Quality(),
        modelled=(*MODELLED_ENERGY, *(MODELLED_LINK if used else ())),
    )


def _channel(link: Link, sent: Transmission, delivery: Delivery, rate_bps: float | None) -> Channel:
    link = link.link if isinstance(link, Connection) else link
    channel = Channel(
        "none" if isinstance(link, PerfectLink) else type(link).__name__,
        rate_bps=rate_bps,
        analog_symbols=0 if sent.symbols is None else len(sent.symbols),
        attempts=delivery.attempts,
        parts=delivery.parts,
        parts_lost=delivery.parts_lost,
        residual_bler=delivery.parts_lost / delivery.parts if delivery.parts else 0.0,
    )
    if not isinstance(link, RadioLink):
        return replace(channel, parameters=_parameters(link))
    trace, own = link.trace, type(link) is not RadioLink  # one that is derived of it may fade as it likes
    return replace(
        channel,
        parameters=_parameters(link) if own else {},
        link=channel.link if own else "digital" if sent.symbols is None else "analog",
        fading=None if own else link.fading if trace is None else "trace",
        snr_db=link.snr_db if trace is None else None,
        bandwidth_hz=link.bandwidth_hz,
        speed_m_s=link.speed_m_s,
        carrier_hz=link.carrier_hz,
        csi_delay_s=link.csi_delay_s,
        csi_error=link.csi_error,
        trace_sha256=None if trace is None else trace.sha256,
    )


def _parameters(link: Link) -> dict[str, object]:
    """Fields of a link that is a dataclass, as JSON can hold them."""
    values = {name: getattr(link, name) for name in getattr(link, "__dataclass_fields__", ())}
    return {name: value if isinstance(value, str | int | float | None) else repr(value) for name, value in values.items()}


def made_by(backbone: Backbone) -> MadeBy:
    """Versions, weights, device, threads and precision: another thread count gives other last bits."""
    origin = provenance()
    digest = getattr(backbone, "digest", "unknown")
    precision = str(getattr(backbone, "precision", torch.float32)).removeprefix("torch.")
    return MadeBy(
        origin["version"],
        origin["commit"],
        origin["command"],
        torch.__version__,
        digest,
        str(backbone.device),
        torch.get_num_threads(),
        precision,
    )
