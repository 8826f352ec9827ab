"""In which order tokens are coded, and which known ones each is predicted from. NumPy only.

A pyramid of grids: the base is every eighth token, refined to every fourth; it is refined to every second (the
destinations of merging) and then to every token. A refinement has two stages: the middle of four known tokens, then what
lies between two of them. The base is one part. The rest is cut into parts in one of three orders:

    band    eight token rows each, predicted from the base and from itself alone: a lost one harms no other
    stage   the four stages of the whole grid, each predicted from all before it: fewer bits, and every one that
            arrives refines the whole picture, but what follows a lost one is lost too
    layer   the base is the whole pyramid, coarsely quantised, and each part refines eight token rows of it
            (`refinement.py`): a lost one leaves them coarse; about a sixth more bits
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.types import IntArray

TOP = 8  # spacing of the coarsest grid, and height of a band
KINDS = 7  # coarsest grid, then middle and edge of each of three refinements
BASE_KINDS, REFINING_KINDS = (0, 1, 2), (3, 4, 5, 6)
ORDERS = ("band", "stage", "layer")  # of the parts
NONE = -1

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Stage:
    """Tokens that are coded together: `kind` 0..6, tokens [n], and what they are predicted from [n, 4] (NONE: nothing)."""

    kind: int
    tokens: IntArray
    neighbours: IntArray


@functools.lru_cache(maxsize=8)
def segments(height: int, width: int, order: str = "band") -> tuple[tuple[Stage, ...], ...]:
    """The stages of each part in coding order: the base first, then the bands from the top or the four stages below the base.

    In layers the base has all stages, and the bands that refine it have none.

    By stage too, a stage is cut into bands of eight token rows, so that no more memory is needed.
    """
    kind_of, spacing_of = _kinds(height, width)
    in_base = spacing_of >= TOP // 2
    band_of = np.arange(height * width) // width // TOP
    bands = range(-(-height // TOP))
    everywhere = np.ones(height * width, bool)

    shape = (kind_of, height, width)
    base = _stages(in_base, BASE_KINDS, in_base, *shape)
    if order == "band":
        return base, *(_stages(band_of == band, REFINING_KINDS, in_base | (band_of == band), *shape) for band in bands)
    every = tuple(s for k in range(KINDS) for band in bands for s in _stages(band_of == band, (k,), everywhere, *shape))
    if order == "layer":
        return every, *(() for _ in bands)
    return base, *(tuple(s for band in bands for s in _stages(band_of == band, (k,), everywhere, *shape)) for k in REFINING_KINDS)


@functools.lru_cache(maxsize=8)
def part_of(height: int, width: int, order: str = "band") -> IntArray:
    """The part of every token, [h*w]."""
    if order == "layer":
        return 1 + np.arange(height * width) // width // TOP
    out = np.zeros(height * width, np.int64)
    for number, stages in enumerate(segments(height, width, order)):
        for stage in stages:
            out[stage.tokens] = number
    return out


def _stages(inside: Mask, kinds: Sequence[int], visible: Mask, kind_of: IntArray, height: int, width: int) -> tuple[Stage, ...]:
    """The tokens `inside`, kind by kind, predicted from the `visible` ones of an earlier kind."""
    stages = []
    for kind in kinds:
        tokens = np.flatnonzero(inside & (kind_of == kind))
        if len(tokens):
            stages.append(Stage(kind, tokens, _neighbours(tokens, kind, visible & (kind_of < kind), height, width)))
    return tuple(stages)


def _kinds(height: int, width: int) -> tuple[IntArray, IntArray]:
    y, x = np.divmod(np.arange(height * width), width)
    kind = np.zeros(height * width, np.int64)
    spacing = np.full(height * width, TOP)
    for level, half in enumerate((4, 2, 1)):
        for number, here in (
            (1 + 2 * level, (y % (2 * half) == half) & (x % (2 * half) == half)),
            (2 + 2 * level, ((y % (2 * half) == half) != (x % (2 * half) == half)) & (y % half == 0) & (x % half == 0)),
        ):
            kind[here], spacing[here] = number, half
    return kind, spacing


def _neighbours(tokens: IntArray, kind: int, visible: Mask, height: int, width: int) -> IntArray:
    if kind == 0:
        return np.full((len(tokens), 4), NONE)
    half = (4, 2, 1)[(kind - 1) // 2]
    offsets = ((-1, -1), (-1, 1), (1, -1), (1, 1)) if kind % 2 else ((0, -1), (0, 1), (-1, 0), (1, 0))
    opposite = (3, 2, 1, 0) if kind % 2 else (1, 0, 3, 2)
    y, x = np.divmod(tokens, width)
    seen = np.full((len(tokens), 4), NONE)
    for k, (down, right) in enumerate(offsets):
        r, c = y + half * down, x + half * right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        number = np.where(inside, r * width + c, 0)
        seen[:, k] = np.where(inside & visible[number], number, NONE)
    # an unknown one takes the value of the one across, and where that is unknown too, of any that is known
    filled = np.where(seen == NONE, seen[:, opposite], seen)
    for k in range(4):
        filled = np.where(filled == NONE, seen[:, [k]], filled)
    return filled
