"""Token merging with local destinations: match, merge, unmerge. NumPy only.

A latent [c, h, w] is h*w tokens in raster order. Every 2 x 2 cell has one destination, its
top-left token; the three others are sources. A source may merge only into one of the up to eight
destinations around it, so that a merge map costs a bitmap and three bits a merged token. Merging
averages (a destination stands for itself and all that merged into it); unmerging is one gather.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from megen.types import MAX_MERGE_RATIO, FloatArray, InputError, IntArray

CELL = 2
# cells (down, right) relative to a source's own: itself first, then its neighbours
NEIGHBOURS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, -1), (-1, 0), (-1, 1), (1, -1))


def merged_count(height: int, width: int, ratio: float) -> int:
    """How many of the height*width tokens a ratio merges away.

    Errors: InputError where the ratio lies outside [0, 3/4] or the grid is not made of 2 x 2 cells.
    """
    if not 0 <= ratio <= MAX_MERGE_RATIO:  # also refuses NaN
        raise InputError(f"merge_ratio must lie in [0, {MAX_MERGE_RATIO}] for 2 x 2 cells, got {ratio}")
    if height % CELL or width % CELL or min(height, width) < CELL:
        raise InputError(f"the token grid must have even sides, got {height} x {width}")
    return int(ratio * height * width)


@functools.lru_cache(maxsize=8)
def layout(height: int, width: int) -> tuple[IntArray, IntArray, IntArray]:
    """Token numbers of the destinations [d] and sources [m], and each source's candidates [m, 8].

    A candidate that lies outside the grid is -1. Read-only arrays.
    """
    token = np.arange(height * width, dtype=np.int64).reshape(height, width)
    is_destination = np.zeros((height, width), bool)
    is_destination[::CELL, ::CELL] = True
    destinations, sources = token[is_destination], token[~is_destination]
    rows, columns = sources // width // CELL, sources % width // CELL
    candidates = np.full((len(sources), len(NEIGHBOURS)), -1, np.int64)
    for k, (down, right) in enumerate(NEIGHBOURS):
        r, c = rows + down, columns + right
        inside = (r >= 0) & (r < height // CELL) & (c >= 0) & (c < width // CELL)
        candidates[inside, k] = r[inside] * CELL * width + c[inside] * CELL
    for array in (destinations, sources, candidates):
        array.flags.writeable = False
    return destinations, sources, candidates


def match(tokens: FloatArray, height: int, width: int, ratio: float) -> IntArray:
    """The merge choice of every source, [m]: a neighbour's number 0..7, or -1 where it stays.

    The sources that lose least are merged: those with the smallest squared distance to their
    nearest candidate (ties: the earlier token). `tokens` is [h*w, c].
    """
    count = merged_count(height, width, ratio)
    _destinations, sources, candidates = layout(height, width)
    choice = np.full(len(sources), -1, np.int64)
    if count == 0:
        return choice
    if not np.isfinite(tokens).all():
        raise InputError("tokens hold NaN or infinity: nothing can be matched")
    values = tokens.astype(np.float64)
    distance = ((values[candidates] - values[sources][:, None]) ** 2).sum(-1)
    distance[candidates < 0] = np.inf
    nearest = distance.argmin(1)
    order = np.argsort(distance[np.arange(len(sources)), nearest], kind="stable")[:count]
    choice[order] = nearest[order]
    return choice


def merge_map(choice: IntArray, height: int, width: int) -> IntArray:
    """`merge_map[i]` is the sent row that fills token i, [h*w]; rows are the tokens that stay, in raster order.

    Errors: InputError where a choice leads outside the grid.
    """
    _, sources, candidates = layout(height, width)
    target = np.arange(height * width, dtype=np.int64)
    moved = choice >= 0
    target[sources[moved]] = candidates[moved, choice[moved]]
    if target.min() < 0:
        raise InputError("a merge map leads outside the grid")
    stays = np.ones(height * width, bool)
    stays[sources[moved]] = False
    row = np.cumsum(stays) - 1
    return row[target]


def merge(tokens: FloatArray, mapping: IntArray) -> tuple[FloatArray, IntArray]:
    """Average the tokens of each row: rows [n, c] and how many tokens each stands for [n]."""
    count = np.bincount(mapping)
    total = np.zeros((len(count), tokens.shape[1]), np.float64)
    np.add.at(total, mapping, tokens)
    return (total / count[:, None]).astype(np.float32), count.astype(np.int64)


def unmerge(rows: FloatArray, mapping: IntArray) -> FloatArray:
    """Fill every token with its row: `rows[mapping]`, [h*w, c]."""
    return rows[mapping]


@dataclass(frozen=True)
class Merged:
    """A latent after merging: its grid (height, width), every source's choice, the merge map, and the rows that are sent."""

    grid: tuple[int, int]
    choice: IntArray  # [m]
    merge_map: IntArray  # [h*w]
    rows: FloatArray  # [n, c]
    counts: IntArray  # [n] tokens that each row stands for


def merged(tokens: FloatArray, grid: tuple[int, int], ratio: float) -> Merged:
    """Match and merge the tokens [h*w, c] of one latent. Errors: InputError on a ratio or a grid that cannot be, or NaN."""
    choice = match(tokens, *grid, ratio)
    mapping = merge_map(choice, *grid)
    return Merged(grid, choice, mapping, *merge(tokens, mapping))
