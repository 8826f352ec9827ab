"""Links: one without noise and time, and a radio whose SNR drives both the rate and the distortion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from megen.link import analog, fading, harq
from megen.link.adaptation import OuterLoop
from megen.link.carrier import symbol_rate_hz
from megen.link.trace import Trace
from megen.types import (
    ChannelState,
    ComplexArray,
    Delivery,
    InputError,
    Payload,
    Received,
    RunError,
    Transmission,
    check_number,
    check_type,
)

BANDWIDTH_HZ = (1e4, 2e9)


class NotDeliveredError(RunError):
    """The link lost what no receiver can do without, after `latency_s`."""

    def __init__(self, message: str, latency_s: float) -> None:
        super().__init__(message)
        self.latency_s = latency_s


@runtime_checkable
class Link(Protocol):
    """Whatever carries a transmission. Errors of `send`: NotDeliveredError.

    One that can be observed also has `state() -> ChannelState`: what a policy observes before it decides.
    """

    def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
        """Carry one transmission; all randomness is `rng`'s."""
        ...


@dataclass(frozen=True)
class PerfectLink:
    """No noise, no loss, no time."""

    def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
        """Everything arrives as it was."""
        symbols = transmission.symbols
        variance = None if symbols is None else np.zeros(len(symbols))
        return Delivery(Received(transmission.payload, symbols, variance))


@dataclass(frozen=True)
class RadioLink:
    """Bytes by the modulation and coding of 3GPP TS 38.214 with HARQ, symbols as y = h x + n, over one fading channel.

    `snr_db` is the mean SNR per complex channel use. The receiver knows the channel's gains, the sender those of `csi_delay_s`
    before. Symbols are equalised by estimates of the gains, one a slot, whose mean square error relative to the mean gain is `csi_error`:
    that of p pilots is 1 / (p snr). A `trace` of SNRs stands in for SNR and fading. Errors: InputError on a link that cannot be.
    """

    snr_db: float = 10.0
    bandwidth_hz: float = 1e6
    fading: str = "awgn"
    speed_m_s: float = 1.0
    carrier_hz: float = 3.5e9
    csi_delay_s: float = 4e-3
    csi_error: float = 0.0
    trace: Trace | None = None

    def __post_init__(self) -> None:
        analog.noise_variance(self.snr_db)
        if self.fading not in fading.FADINGS:
            raise InputError(f"fading must be {', '.join(fading.FADINGS)}, got {self.fading!r}")
        fading.doppler_hz(self.speed_m_s, self.carrier_hz)
        check_number("bandwidth_hz", self.bandwidth_hz, *BANDWIDTH_HZ, mend="; 20 MHz are 2e7")
        check_number("csi_delay_s", self.csi_delay_s, 0, 1)
        check_number("csi_error", self.csi_error, 0, 1)
        if self.trace is not None:
            check_type("trace", self.trace, Trace)

    def state(self) -> ChannelState:
        """What a policy can observe: the mean SNR, or that of the trace as it begins, an outage as the lowest SNR."""
        snr_db = self.snr_db if self.trace is None else float(np.clip(self.trace.at(0.0), *analog.SNR_DB))
        return ChannelState(snr_db, self.bandwidth_hz)

    def gain(self, rng: np.random.Generator) -> fading.Gain:
        """The channel's complex gain over time relative to `snr_db`."""
        if self.trace is not None:
            recorded = self.trace
            return lambda time_s: (10 ** ((recorded.at(time_s) - self.snr_db) / 20)).astype(np.complex128)
        return fading.gain_of(self.fading, fading.doppler_hz(self.speed_m_s, self.carrier_hz), rng)

    def send(self, transmission: Transmission, rng: np.random.Generator, outer_loop: tuple[tuple[float, float], ...] = ()) -> Delivery:
        """Carry one transmission: its bytes first, then its symbols.

        `outer_loop` is the link adaptation's state that the last transmission left (`Delivery.outer_loop`). Errors: NotDeliveredError
        where header, map or base were lost.
        """
        gain = self.gain(rng)
        delivery = self._send_bytes(transmission, gain, rng, OuterLoop(outer_loop))
        if transmission.symbols is None:
            return delivery
        symbols, variance = self.send_symbols(transmission.symbols, gain, delivery.latency_s, rng)
        airtime_s = len(symbols) / symbol_rate_hz(self.bandwidth_hz)
        received = replace(delivery.received, symbols=symbols, variance=variance)
        return replace(delivery, received=received, latency_s=delivery.latency_s + airtime_s)

    def connect(self) -> Connection:
        """The same link for one transmission after another: its link adaptation goes on where the last one left it."""
        return Connection(self)

    def _send_bytes(self, transmission: Transmission, gain: fading.Gain, rng: np.random.Generator, outer_loop: OuterLoop) -> Delivery:
        payload = transmission.payload
        snr_db = self._snr_db(gain)
        bits = [8 * (len(payload.header) + len(payload.merge_map)), *(8 * len(part) for part in payload.features)]
        present = [i for i, n in enumerate(bits) if n]  # a part without tokens has no block
        reception = harq.transmit(
            [bits[i] for i in present],
            [transmission.error_rates[i] if i < len(transmission.error_rates) else harq.MOST_ERRORS for i in present],
            snr_db,
            lambda time_s: self._forecast(float(snr_db(np.array([time_s - self.csi_delay_s]))[0])),
            self.bandwidth_hz,
            rng,
            outer_loop,
        )
        lost = {i for i, delivered in zip(present, reception.delivered, strict=True) if not delivered}
        if lost & {0, 1}:
            what = "the header" if 0 in lost else "the base of the features"
            times = f"{harq.MAX_ATTEMPTS} times at {self.state().snr_db:g} dB"
            raise NotDeliveredError(f"the link lost {what} {times}: raise the SNR or reduce the distance", reception.latency_s)
        attempts = float(np.mean([block.attempts for block in reception.blocks]))
        received = Received(_without(payload, lost))
        return Delivery(received, reception.latency_s, attempts, len(present), len(lost), reception.outer_loop.offsets_db)

    def _forecast(self, snr_db: float) -> fading.Forecast:
        """What a sender expects that knows the SNR of `csi_delay_s` before."""
        kind = self.fading if self.trace is None else "trace"
        return fading.forecast(kind, fading.doppler_hz(self.speed_m_s, self.carrier_hz), self.csi_delay_s, snr_db, self.snr_db)

    def send_symbols(
        self, symbols: ComplexArray, gain: fading.Gain, start_s: float, rng: np.random.Generator
    ) -> tuple[ComplexArray, NDArray[np.float64]]:
        """Symbols from `start_s` on, each slot at its gain: equalised, and the variance of their noise."""
        per_slot = max(1, int(symbol_rate_hz(self.bandwidth_hz) * harq.SLOT_S))
        slot = np.arange(-(-len(symbols) // per_slot), dtype=np.float64)
        gains = np.repeat(gain(start_s + slot * harq.SLOT_S), per_slot)[: len(symbols)]
        no = analog.noise_variance(self.snr_db)
        received, estimates = analog.transmit(symbols, gains, no, rng), gains
        if self.csi_error:
            off = rng.standard_normal((2, len(slot))) * np.sqrt(self.csi_error / 2)
            estimates = gains + np.repeat(off[0] + 1j * off[1], per_slot)[: len(symbols)]
        return analog.equalise(received, estimates, no + self.csi_error)  # to the receiver the gains' errors are noise

    def _snr_db(self, gain: fading.Gain) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        return lambda time_s: np.asarray(self.snr_db + 10 * np.log10(np.maximum(np.abs(gain(time_s)) ** 2, 1e-12)))


@dataclass
class Connection:
    """A radio link that keeps what its link adaptation learned of the transmissions before."""

    link: RadioLink
    outer_loop: tuple[tuple[float, float], ...] = ()

    def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
        """As `RadioLink.send`. Errors: NotDeliveredError, after which the adaptation is as before."""
        delivery = self.link.send(transmission, rng, self.outer_loop)
        self.outer_loop = delivery.outer_loop
        return delivery

    def state(self) -> ChannelState:
        """What a policy can observe."""
        return self.link.state()


def _without(payload: Payload, lost: set[int]) -> Payload:
    """The payload with its lost feature parts empty."""
    return replace(payload, features=tuple(b"" if i in lost else part for i, part in enumerate(payload.features, 1)))
