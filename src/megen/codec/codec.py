"""One codec, held by both halves: merged features to a transmission, and what is received back to features.

edge server   Merged ──encode──> Transmission ~~~link~~~> Received ──decode──> Features   user equipment
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from megen import merging
from megen.codec import features, payload, symbols
from megen.codec.header import MAX_SIDE, CodecError, Header, is_grid
from megen.codec.prior import UNIT, Prior, plain
from megen.codec.pyramid import ORDERS
from megen.merging import Merged
from megen.types import (
    QUANTISER_BITS,
    ComplexArray,
    Features,
    InputError,
    Received,
    Transmission,
    check_number,
    check_quantiser_bits,
    check_type,
)

LOST = 0.5  # how far a predicted token is taken to be from the true one


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
    ) -> Transmission:
        """Quantise and entropy-code merged features, or with `analog` make I/Q symbols of them.

        The quantiser is that of `quantiser_bits`, in steps of 1/4, or the finest whose payload fits `bits_budget`. The parts'
        `order` is "band", where a lost one harms no other, "stage", where each that arrives refines the whole picture, or "layer", where
        the base is a coarse picture and a lost part leaves eight token rows of it coarse.
        Errors: InputError on values that cannot be coded, on another quantiser, order, grid or number of channels, on a budget that
        is too small, and on one with `analog`.
        """
        check_quantiser(quantiser_bits, bits_budget, analog)
        if order not in ORDERS:
            raise InputError(f"the order of parts must be one of {', '.join(ORDERS)}, got {order!r}")
        height, width = merged.grid
        prior = self.prior or plain(merged.rows.shape[1])
        if self.grid not in (None, merged.grid) or prior.channels != merged.rows.shape[1]:
            mine = f"{'any grid' if self.grid is None else self.grid} of {prior.channels} channels"
            raise InputError(f"this codec is for {mine}, the features are of {merged.grid} and {merged.rows.shape[1]}")
        header = Header(height, width, merged.rows.shape[1], len(merged.rows), self.fingerprint)
        if analog:
            iq, amplitude = symbols.modulate(merged.rows, symbols.row_gains(merged.counts))
            parts = payload.encode(merged.rows, merged.choice, merged.merge_map, replace(header, amplitude=amplitude), prior)
            return Transmission(parts, iq, payload.error_rates(parts))
        depth = features.MAX_DEPTH if bits_budget is not None else depth_of(quantiser_bits)
        if order == "layer":
            features.base_depth(depth)  # refuses what is too coarse for two layers
        header = replace(header, order=order, depth=depth)
        if bits_budget is not None:
            parts = payload.encode_within(bits_budget, merged.rows, merged.choice, merged.merge_map, header, prior)
        else:
            parts = payload.encode(merged.rows, merged.choice, merged.merge_map, header, prior)
        return Transmission(parts, None, payload.error_rates(parts, order))

    def decode(self, received: Received) -> Features:
        """What a payload's bits, and its symbols where it has some, say. Errors: CodecError."""
        header, choice = payload.decode_protected(received.payload, self.fingerprint)
        height, width = header.grid
        if self.grid not in (None, header.grid):
            raise CodecError(f"the payload has a grid of {height} x {width}, this receiver decodes {self.grid[0]} x {self.grid[1]}")
        try:
            merge_map = merging.merge_map(choice, height, width)
        except InputError as error:
            raise CodecError(str(error)) from error
        degradation = np.zeros((height * width, 4), np.float32)
        degradation[merging.layout(height, width)[1][choice >= 0], 2] = 1
        if not header.analog:
            prior = self.prior or plain(header.channels)
            rows, arrived = payload.decode_features(received.payload, header, merge_map, prior)
            degradation[:, 1] = _deviation(prior, header.depth)
            if header.order == "layer":
                degradation[~arrived, 1] = _deviation(prior, features.base_depth(header.depth))
            else:
                degradation[~arrived, 3] = LOST
            return Features(rows, merge_map, degradation)
        iq, variance = _checked(received, (header.rows * header.channels + 1) // 2)
        gains = symbols.row_gains(np.bincount(merge_map))
        rows, deviation = symbols.demodulate(iq, variance, header.amplitude, gains, header.channels)
        degradation[:, 0] = deviation[merge_map]
        return Features(rows, merge_map, degradation)


def _deviation(prior: Prior, depth: int) -> float:
    """Of what a quantiser rounds away."""
    steps = features.steps_of(prior, depth) / UNIT
    return float(np.sqrt((steps**2).mean() / 12))


def _checked(received: Received, needed: int) -> tuple[ComplexArray, NDArray[np.float64]]:
    """The symbols and variances of an analog payload. Errors: CodecError where they are too few, too many, NaN or infinite."""
    if received.symbols is None or received.variance is None or received.symbols.shape != (needed,):
        shape = (0,) if received.symbols is None else received.symbols.shape
        raise CodecError(f"an analog payload needs {needed} symbols, got {' x '.join(map(str, shape))}")
    if received.variance.shape != received.symbols.shape:
        raise CodecError(f"{needed} symbols need as many variances, got {' x '.join(map(str, received.variance.shape))}")
    if not (np.isfinite(received.symbols).all() and np.isfinite(received.variance).all() and received.variance.min(initial=0) >= 0):
        raise CodecError("an analog payload's symbols or variances hold NaN, infinity, or a variance below 0")
    return received.symbols, received.variance


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
