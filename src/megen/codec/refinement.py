"""A refinement layer: the whole picture is coded coarsely first, then each band of it is refined, none from another.

A coarse level says in which cell of the coarse quantiser a value lies, its scale how likely each part of that cell is. Where in it the
value lies is one of seven symbols, drawn as the table of levels says of a quantiser that is four times as fine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen.codec import entropy
from megen.codec.entropy import CLASSES, REACH
from megen.types import InputError, IntArray

LAYER = 8  # quarter bits that the base is coarser: its steps are four of the refinement's
FINER = 4
MOST = 3  # a symbol says -3 to 3 fine steps, away from zero where the coarse level is not
FARTHEST = 5  # of coarse levels; the cells beyond are taken to be as that one
# sixteenths of each symbol's fine step that lie in the cell of a coarse level, for a level of 0 and any other
WITHIN = np.array([[1, 12, 16, 16, 16, 12, 1], [0, 2, 16, 16, 16, 12, 1]])


def tables(levels: IntArray) -> NDArray[np.float64]:
    """The range coder's weights [CLASSES, FARTHEST + 1, 7] of the symbols, by the fine step's class and the coarse level's magnitude,
    from a prior's counts of levels.
    """
    place = FINER * np.arange(FARTHEST + 1)[:, None] + np.arange(-MOST, MOST + 1)
    share = WITHIN[np.minimum(np.arange(FARTHEST + 1), 1)]
    return entropy.weights(levels[:, REACH + place] * share >> 4)


def symbols_of(residual: NDArray[np.float64], coarse: IntArray, step: IntArray) -> IntArray:
    """The symbols [n, c] of what is left of values after their coarse levels [n, c], for fine steps [c]."""
    steps = np.where(coarse < 0, -1, 1) * residual / step
    out: IntArray = entropy.rounded(steps).clip(-MOST, MOST).astype(np.int64)
    return out


def change_of(symbols: IntArray, coarse: IntArray, step: IntArray) -> IntArray:
    """What symbols [n, c] add to coarse values."""
    return np.where(coarse < 0, -1, 1) * symbols * step


def put(coder: object, symbols: IntArray, coarse: IntArray, classes: IntArray, table: NDArray[np.float64]) -> None:
    """Code symbols [n, c] where the coarse levels, within +- `FARTHEST`, and the fine step's classes are known."""
    rows = table[np.minimum(classes, CLASSES - 1).ravel(), np.abs(coarse).ravel()]
    coder.encode((symbols.ravel() + MOST).astype(np.int32), entropy.FAMILY, rows)  # type: ignore[attr-defined]


def get(coder: object, coarse: IntArray, classes: IntArray, table: NDArray[np.float64]) -> IntArray:
    """Symbols [n, c], as `put` took them. Errors: InputError on bits that no encoder wrote."""
    rows = table[np.minimum(classes, CLASSES - 1).ravel(), np.abs(coarse).ravel()]
    try:
        symbols = coder.decode(entropy.FAMILY, rows)  # type: ignore[attr-defined]
    except AssertionError as error:  # what constriction raises on bits that no encoder wrote
        raise InputError("bits that no encoder wrote") from error
    out: IntArray = symbols.astype(np.int64).reshape(coarse.shape) - MOST
    return out
