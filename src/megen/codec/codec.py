"""One codec, held by both halves: merged features to a transmission, and what is received back to features.

edge server   Merged ──encode──> Transmission ~~~link~~~> Received ──decode──> Features   user equipment
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from megen import merging
from megen.codec import features, payload, symbols, transform
from megen.codec.arriving import Arriving, Opened, opened
from megen.codec.header import MAX_SIDE, CodecError, Header, decode_header, is_grid
from megen.codec.prior import Prior, plain
from megen.codec.pyramid import ORDERS
from megen.merging import Merged
from megen.types import (
    QUANTISER_BITS,
    ComplexArray,
    Equalised,
    Features,
    FloatArray,
    InputError,
    OnPart,
    Payload,
    Received,
    Transmission,
    check_array,
    check_number,
    check_quantiser_bits,
    check_type,
)

MOST_COPIES = 8  # of an analog symbol


@dataclass(frozen=True)
class FeatureCodec:
    """The entropy coder's prior and the backbone's fingerprint: features of one backbone mean nothing to another.

    Without a prior, or with one that has no nets, each payload brings its own scales. `grid` (height, width) is the only
    one that both sides accept, which bounds the time of decoding; None: any. Errors: InputError on what cannot be.
    """

    prior: Prior | None
    fingerprint: int
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.prior is not None:
            check_type("prior", self.prior, Prior)
        check_number("fingerprint", self.fingerprint, 0, 2**32 - 1, whole=True)
        if self.grid is not None and not is_grid(self.grid):
            raise InputError(f"grid must be two even numbers from 2 to {MAX_SIDE}, got {self.grid!r}")

    def encode(
        self,
        merged: Merged,
        *,
        quantiser_bits: float = QUANTISER_BITS,
        bits_budget: int | None = None,
        analog: bool = False,
        order: str = "band",
        copies: int = 1,
        on_part: OnPart = lambda part: None,
    ) -> Transmission:
        """Quantise and entropy-code merged features, or with `analog` make I/Q symbols of them, which are sent `copies` times.

        The quantiser is that of `quantiser_bits`, in steps of 1/4, or the finest whose payload fits `bits_budget`; a budget that is too
        small for all tokens has the last stages left out, whose tokens the receiver predicts. The parts'
        `order` is "band", where a lost one harms no other, "stage", where each that arrives refines the whole picture, or "layer", where
        the base is a coarse picture and a lost part leaves eight token rows of it coarse. `on_part` is called with each part as soon as it
        is sure: coded, or with a budget, when all are.
        Errors: InputError on values that cannot be coded, on another quantiser, order, grid or number of channels, on a budget that
        is too small, and on one with `analog`.
        """
        check_quantiser(quantiser_bits, bits_budget, analog)
        check_copies(copies, analog)
        check_order(order, analog, None if bits_budget is not None else quantiser_bits)
        prior = self._prior_for(merged.grid, merged.rows.shape[1])
        header = Header(*merged.grid, merged.rows.shape[1], len(merged.rows), self.fingerprint)
        if analog:
            iq, amplitude = symbols.modulate(merged.rows, symbols.row_gains(merged.counts))
            parts = payload.encode(merged.rows, merged.choice, merged.merge_map, replace(header, amplitude=amplitude), prior, on_part)
            return Transmission(parts, np.tile(iq, int(copies)), payload.error_rates(parts))
        depth = features.MAX_DEPTH if bits_budget is not None else depth_of(quantiser_bits)
        header = replace(header, order=order, depth=depth)
        if bits_budget is not None:
            parts = payload.encode_within(bits_budget, merged.rows, merged.choice, merged.merge_map, header, prior)
            for part in parts.parts:
                on_part(part)
        else:
            parts = payload.encode(merged.rows, merged.choice, merged.merge_map, header, prior, on_part)
        return Transmission(parts, None, payload.error_rates(parts, decode_header(parts.header).order))

    def encode_coefficients(self, tokens: FloatArray, grid: tuple[int, int], ratio: float = 0.0, *, copies: int = 1) -> Transmission:
        """Make I/Q symbols of the transform coefficients of tokens [h*w, c], less the share `ratio` that matters least.

        Errors: InputError on NaN, another grid or number of channels, a ratio that cannot be, and without variances of the backbone.
        """
        check_copies(copies, True)
        check_array("tokens", tokens, np.float32, (grid[0] * grid[1], None))
        prior = self._prior_for(grid, tokens.shape[1])
        rows = len(tokens) - merging.merged_count(*grid, ratio)
        chosen = transform.select(prior, grid, rows * prior.channels)
        values = transform.forward(tokens, grid).ravel()[chosen.numbers]
        iq, amplitude = symbols.modulate(values[:, None], chosen.gains)
        header = Header(*grid, prior.channels, rows, self.fingerprint, amplitude=amplitude, reduction="transform")
        parts = payload.protected(header)
        return Transmission(parts, np.tile(iq, int(copies)), payload.error_rates(parts))

    def _prior_for(self, grid: tuple[int, int], channels: int) -> Prior:
        """The prior for features of a grid and so many channels. Errors: InputError where it is for others."""
        prior = self.prior or plain(channels)
        if self.grid not in (None, grid) or prior.channels != channels:
            mine = f"{'any grid' if self.grid is None else self.grid} of {prior.channels} channels"
            raise InputError(f"this codec is for {mine}, the features are of {grid} and {channels}")
        return prior

    def arriving(self, header: bytes, merge_map: bytes, count: int) -> Arriving:
        """A digital payload of `count` feature parts, to be decoded while they arrive. Errors: CodecError."""
        known = opened(Payload(header, merge_map), self.fingerprint, self.grid)
        return Arriving(header, known, self._decoding_prior(known), count)

    def decode(self, received: Received) -> Features:
        """What a payload's bits, and its symbols where it has some, say. Errors: CodecError."""
        known = opened(received.payload, self.fingerprint, self.grid)
        if not known.header.analog:
            sent = received.payload
            arriving = Arriving(sent.header, known, self._decoding_prior(known), len(sent.features))
            for number, part in enumerate(sent.features):
                arriving.take(number, part)
            return arriving.features()
        header, merge_map, degradation = known.header, known.merge_map, known.degradation
        if header.reduction == "transform":
            return self._of_coefficients(header, received)
        iq, variance = combined(received, (header.rows * header.channels + 1) // 2)
        gains = symbols.row_gains(np.bincount(merge_map))
        rows, noise = symbols.demodulate(iq, variance, header.amplitude, gains, header.channels)
        degradation[:, 0] = noise[merge_map]
        values = (rows * (1 + noise[:, None] ** 2))[merge_map]  # what the estimates shrank
        return Features(rows, merge_map, degradation, Equalised(values, noise[merge_map], float(noise[merge_map].mean())))

    def _decoding_prior(self, known: Opened) -> Prior:
        return self.prior or plain(known.header.channels)

    def _of_coefficients(self, header: Header, received: Received) -> Features:
        """What the symbols of transform coefficients say. Errors: CodecError without variances of the backbone."""
        prior = self.prior or plain(header.channels)
        try:
            if prior.channels != header.channels:
                raise InputError(f"the payload has {header.channels} channels, this receiver {prior.channels}")
            chosen = transform.select(prior, header.grid, header.rows * header.channels)
        except InputError as error:
            raise CodecError(str(error)) from error
        values, noise = symbols.values_of(*combined(received, (len(chosen.numbers) + 1) // 2), header.amplitude / chosen.gains)
        found = transform.estimates(values, np.sqrt(noise), chosen, prior)
        count = header.height * header.width
        degradation = np.zeros((count, 4), np.float32)
        degradation[:, 1] = found.error
        known = Equalised(found.values, np.full(count, found.noise, np.float32), found.unknown)
        return Features(found.linear, np.arange(count, dtype=np.int64), degradation, known)


def combined(received: Received, needed: int) -> tuple[ComplexArray, NDArray[np.float64]]:
    """The symbols and variances of an analog payload, copies by maximum ratio combining.

    Errors: CodecError where they are too few, too many, NaN, infinite or too large.
    """
    for name in ("symbols", "variance"):
        if (value := getattr(received, name)) is not None and not isinstance(value, np.ndarray):
            raise CodecError(f"{name} of an analog payload must be an array, got a {type(value).__name__}")
    if received.symbols is not None and received.variance is None:
        raise CodecError("an analog payload's symbols came without their noise variances: a link hands back both")
    shape = (0,) if received.symbols is None else received.symbols.shape
    copies = shape[0] // needed if len(shape) == 1 else 0
    if received.symbols is None or received.variance is None or shape != (copies * needed,) or not 1 <= copies <= MOST_COPIES:
        raise CodecError(
            f"an analog payload needs {needed} symbols, got {' x '.join(map(str, shape))}; up to {MOST_COPIES} whole copies can be"
        )
    if received.variance.shape != received.symbols.shape:
        raise CodecError(f"{shape[0]} symbols need as many variances, got {' x '.join(map(str, received.variance.shape))}")
    if not (np.isfinite(received.symbols).all() and np.isfinite(received.variance).all() and received.variance.min(initial=0) >= 0):
        raise CodecError("an analog payload's symbols or variances hold NaN, infinity, or a variance below 0")
    if max(np.abs(received.symbols.real).max(initial=0), np.abs(received.symbols.imag).max(initial=0)) > symbols.MOST:
        raise CodecError(f"an analog payload's symbols hold numbers beyond {symbols.MOST:g}: they are not of this payload")
    bounded = np.minimum(received.variance, symbols.MOST_NOISE)
    if copies == 1:
        return received.symbols, bounded
    variance = np.maximum(bounded.reshape(copies, needed), symbols.LEAST_NOISE)
    joint = 1 / (1 / variance).sum(0)
    return joint * (received.symbols.reshape(copies, needed) / variance).sum(0), joint


def check_order(order: str, analog: bool = False, quantiser_bits: float | None = None) -> None:
    """Refuse an order of parts that no payload can have, any but the first for symbols, and layers of too coarse a quantiser.

    Errors: InputError.
    """
    if order not in ORDERS:
        raise InputError(f"the order of parts must be one of {', '.join(ORDERS)}, got {order!r}")
    if analog and order != ORDERS[0]:
        raise InputError(f"the order of parts is of bits, and analog features have none: leave order={order!r} out")
    if order == "layer" and quantiser_bits is not None:
        features.base_depth(depth_of(quantiser_bits))


def check_copies(copies: int, analog: bool) -> None:
    """Refuse a number of copies that no payload can have. Errors: InputError."""
    check_number("copies", copies, 1, MOST_COPIES, whole=True)
    if copies != 1 and not analog:
        raise InputError("copies are of analog symbols, and features that travel as bits have none: leave copies out, or send analog")


def check_quantiser(quantiser_bits: float, bits_budget: int | None, analog: bool) -> None:
    """Refuse a quantiser that no payload can have, whatever is coded. Errors: InputError."""
    depth_of(quantiser_bits)
    if bits_budget is not None:
        check_number("bits_budget", bits_budget, 1, whole=True)
        if analog:
            raise InputError("a budget of bits picks a quantiser, and analog features have none: leave bits_budget out, or analog")


def depth_of(quantiser_bits: float) -> int:
    """The quantiser's depth in quarter bits. Errors: InputError naming the bounds."""
    check_quantiser_bits(quantiser_bits)
    return int(4 * quantiser_bits)
