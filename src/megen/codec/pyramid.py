"""In which order tokens are coded, and which known ones each is predicted from. NumPy only.

A pyramid of grids: the base is every eighth token, refined to every fourth; below it lie bands of eight
token rows, each refined to every second (the destinations of merging) and then to every token. A refinement
has two stages: the middle of four known tokens, then what lies between two of them. A band is predicted from
the base and from itself alone, so a lost band harms no other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from megen.types import IntArray

TOP = 8  # spacing of the coarsest grid, and height of a band
KINDS = 7  # base, then middle and edge of each of three refinements
NONE = -1


@dataclass(frozen=True)
class Stage:
    """Tokens that are coded together: `kind` 0..6, tokens [n], and what they are predicted from [n, 4] (NONE: nothing)."""

    kind: int
    tokens: IntArray
    neighbours: IntArray


@functools.lru_cache(maxsize=8)
def segments(height: int, width: int) -> tuple[tuple[Stage, ...], ...]:
    """The stages of each independently lost part: the base first, then the bands from the top."""
    kind_of, spacing_of = _kinds(height, width)
    rows = np.arange(height * width) // width
    in_base = spacing_of >= TOP // 2
    band = rows // TOP
    parts = []
    for part in range(-1, -(-height // TOP)):
        own = in_base if part < 0 else (band == part) & ~in_base
        stages = []
        for kind in range(KINDS):
            tokens = np.flatnonzero(own & (kind_of == kind))
            if not len(tokens):
                continue
            known = in_base & (kind_of < kind) if part < 0 else in_base | ((band == part) & (kind_of < kind))
            stages.append(Stage(kind, tokens, _neighbours(tokens, kind, known, height, width)))
        parts.append(tuple(stages))
    return tuple(parts)


@functools.lru_cache(maxsize=8)
def part_of(height: int, width: int) -> IntArray:
    """The segment of every token, [h*w]."""
    out = np.zeros(height * width, np.int64)
    for number, stages in enumerate(segments(height, width)):
        for stage in stages:
            out[stage.tokens] = number
    return out


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


def _neighbours(tokens: IntArray, kind: int, known: np.ndarray, height: int, width: int) -> IntArray:
    if kind == 0:
        return np.full((len(tokens), 4), NONE)
    half = (4, 2, 1)[(kind - 1) // 2]
    offsets = ((-1, -1), (-1, 1), (1, -1), (1, 1)) if kind % 2 else ((0, -1), (0, 1), (-1, 0), (1, 0))
    opposite = (3, 2, 1, 0) if kind % 2 else (1, 0, 3, 2)
    y, x = np.divmod(tokens, width)
    found = np.full((len(tokens), 4), NONE)
    for k, (down, right) in enumerate(offsets):
        r, c = y + half * down, x + half * right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        number = np.where(inside, r * width + c, 0)
        found[:, k] = np.where(inside & known[number], number, NONE)
    # an unknown one takes the value of the one across, and where that is unknown too, of any that is known
    filled = np.where(found == NONE, found[:, opposite], found)
    for k in range(4):
        filled = np.where(filled == NONE, found[:, [k]], filled)
    return filled
