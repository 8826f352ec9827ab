"""A payload that is decoded while it arrives: when its last part is there, little is left to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from megen import merging
from megen.codec import features
from megen.codec.header import CodecError, Header
from megen.codec.payload import decode_protected, opened_part
from megen.codec.prior import UNIT, Prior
from megen.codec.pyramid import part_of, segments
from megen.types import Features, FloatArray, InputError, IntArray, Payload

LOST = 0.5  # how far a predicted token is taken to be from the true one


@dataclass(frozen=True)
class Opened:
    """What header and merge map of a payload say: the row of each token [h*w], and which tokens merged in `degradation` [h*w, 4]."""

    header: Header
    merge_map: IntArray
    degradation: FloatArray


def opened(payload: Payload, fingerprint: int, grid: tuple[int, int] | None) -> Opened:
    """Header and map of a payload of one backbone, and of one grid where it is given. Errors: CodecError."""
    header, choice = decode_protected(payload, fingerprint)
    height, width = header.grid
    if grid not in (None, header.grid):
        raise CodecError(f"the payload has a grid of {height} x {width}, this receiver decodes {grid[0]} x {grid[1]}")
    try:
        merge_map = merging.merge_map(choice, height, width)
    except InputError as error:
        raise CodecError(str(error)) from error
    degradation = np.zeros((height * width, 4), np.float32)
    degradation[merging.layout(height, width)[1][choice >= 0], 2] = 1
    return Opened(header, merge_map, degradation)


class Arriving:
    """The features of a digital payload, part by part, `count` parts in all.

    Errors: CodecError on a payload that the prior cannot decode.
    """

    def __init__(self, first: bytes, known: Opened, prior: Prior, count: int) -> None:
        header = known.header
        if header.analog:
            raise CodecError("the payload is analog: its features are symbols, and no parts")
        if prior.channels != header.channels:
            raise CodecError(f"the payload has {header.channels} channels, this receiver {prior.channels}")
        if header.scales:
            prior = replace(prior, nets=())
        elif not prior.nets:
            raise CodecError("the payload was coded with a trained prior, this receiver has none: copy the codec file of its backbone")
        expected = len(segments(*header.grid, header.order))
        if count != expected:
            raise CodecError(f"the payload has {count} feature parts, expected {expected}")
        self._first, self._known, self._prior = first, known, prior
        self._bodies: dict[int, bytes | None] = {}
        self._arrived = np.zeros(expected, bool)  # and decoded
        self._decoder = features.Decoder(known.merge_map, header.grid, prior, header.depth, order=header.order, scales=header.scales)

    def take(self, number: int, part: bytes) -> None:
        """Take in feature part `number`, from 0 on and in any order; an empty one was lost. Errors: CodecError."""
        if number not in range(len(self._arrived)):
            raise CodecError(f"the payload has no feature part {number}")
        if not self._arrived[number]:  # what was decoded stays
            self._bodies[number] = opened_part(part, number, self._first)
            self._decode()

    def _decode(self) -> None:
        """Decode what can be: nothing before the base is there; by stage a part is predicted from all before it."""
        if self._bodies.get(0) is None:
            return
        for number in range(len(self._arrived)):
            body = self._bodies.get(number)
            if body is None and self._known.header.order == "stage":
                return
            if body is not None and not self._arrived[number]:
                self._fill(number, body)
                self._arrived[number] = True

    def _fill(self, number: int, body: bytes | None) -> None:
        try:
            self._decoder.take(number, body)
        except ValueError as error:
            raise CodecError(str(error)) from error

    def features(self) -> Features:
        """The features by all that arrived; what did not is predicted. By stage, what follows a lost part counts as lost too.

        Errors: CodecError where the base was lost, from which all else is predicted.
        """
        if self._bodies.get(0) is None:
            raise CodecError("the base of the features was lost: nothing can be predicted from it")
        for number in np.flatnonzero(~self._arrived).tolist():
            self._fill(number, None)
        header, mapping = self._known.header, self._known.merge_map
        own = part_of(*header.grid, header.order)[features.own_tokens(mapping, header.grid)]
        lost, degradation = ~self._arrived[own], self._known.degradation.copy()
        degradation[:, 1] = deviation(self._prior, header.depth)
        if header.order == "layer":
            degradation[lost, 1] = deviation(self._prior, features.base_depth(header.depth))
        else:
            degradation[lost, 3] = LOST
        return Features(self._decoder.rows(), mapping, degradation)


def deviation(prior: Prior, depth: int) -> float:
    """Of what a quantiser rounds away."""
    steps = features.steps_of(prior, depth) / UNIT
    return float(np.sqrt((steps**2).mean() / 12))
