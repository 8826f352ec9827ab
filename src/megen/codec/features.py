"""Rows of features to bits and back: predicted from known neighbours, the rest quantised and entropy-coded.

The prediction is added back inside the loop, so that encoder and decoder know the same values. A part that
was lost on its way is filled with what is predicted of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import constriction
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from megen.codec import prior as priors
from megen.codec.prior import CLASSES, PER_OCTAVE, REACH, UNIT, Prior, Whole
from megen.codec.pyramid import Stage, part_of, segments
from megen.types import FloatArray, IntArray

ROUNDING = 0.42  # |u| is rounded up from 1 - ROUNDING on: a little towards zero costs fewer bits than it harms
MIN_DEPTH, MAX_DEPTH = 8, 32  # quarter bits: 2 to 8 bits over a range of 8 standard deviations
LARGEST = 128  # of a normalised feature
ESCAPE_BITS = 16

_FAMILY = constriction.stream.model.Categorical(perfect=False)
_ESCAPE = constriction.stream.model.Uniform(1 << ESCAPE_BITS)
_UNIFORM = constriction.stream.model.Uniform()

# of the small matrix products: on a busy machine, threads that wait for each other took a second instead of 30 ms
_one_thread = ThreadpoolController().wrap(limits=1, user_api="blas")

# levels of a stage and group: from (class of each level [n, g]) to levels [n, g]
Levels = Callable[[Whole, IntArray], Whole]


def base_step(depth: int) -> int:
    """The quantiser's step in 1 / UNIT: 8 / 2^(depth / 4), for whole quarter bits from `MIN_DEPTH` to `MAX_DEPTH`."""
    if not MIN_DEPTH <= depth <= MAX_DEPTH:
        raise ValueError(f"the depth must lie in [{MIN_DEPTH}, {MAX_DEPTH}] quarter bits, got {depth}")
    whole, quarter = divmod(depth, 4)
    return (8 * UNIT * (4096, 3444, 2896, 2435)[quarter] >> 12) >> whole  # 2^(-k/4) in 1 / 4096


def steps_of(prior: Prior, depth: int) -> IntArray:
    """Each channel's step in 1 / UNIT."""
    out: IntArray = np.maximum(prior.step * base_step(depth) // UNIT, 1)
    return out


@_one_thread  # type: ignore[untyped-decorator]
def _walk(
    stages: Sequence[Stage],
    values: Whole,
    source: IntArray,
    stays: NDArray[np.bool_],
    grid: tuple[int, int],
    prior: Prior,
    depth: int,
    levels: Levels,
) -> None:
    """Go through the stages of one part, filling `values` [h*w, c] of its tokens with mean + level * step."""
    step, base = steps_of(prior, depth), base_step(depth)
    for stage in stages:
        coded = stays[stage.tokens]
        tokens, neighbours = stage.tokens[coded], stage.neighbours[coded]
        if len(tokens):
            inputs = priors.context(values, neighbours, tokens, *grid, base)
            for number, group in enumerate(prior.groups):
                known = np.concatenate([inputs, values[tokens, : group.start].clip(-priors.LIMIT, priors.LIMIT)], 1)
                mean, log2_scale = priors.predict(prior.nets[stage.kind][number], known)
                kinds = priors.scale_class(log2_scale, step[group])
                values[tokens, group] = mean + levels(mean, kinds) * step[group]
        merged = stage.tokens[~coded]
        values[merged] = values[source[merged]]


def own_tokens(mapping: IntArray, grid: tuple[int, int]) -> IntArray:
    """The token that each token's row was sent for, [h*w]: itself where it stays, its destination where it merged."""
    height, width = grid
    order = np.arange(height * width)
    y, x = np.divmod(order, width)
    destination = (y % 2 == 0) & (x % 2 == 0)
    stays = destination | (np.bincount(mapping)[mapping] == 1)  # a source that merged shares its row
    own = np.empty(int(mapping.max()) + 1, np.int64)
    own[mapping[stays]] = order[stays]
    return own[mapping]


def _sources(mapping: IntArray, grid: tuple[int, int]) -> tuple[IntArray, NDArray[np.bool_]]:
    """Whose value a token has for the prediction, and which tokens are coded.

    That of a merged token is its destination's where that lies in the base or in the token's own part, else its
    own cell's destination's, so that no part needs another.
    """
    own, part = own_tokens(mapping, grid), part_of(*grid)
    order = np.arange(len(own))
    y, x = np.divmod(order, grid[1])
    foreign = (part[own] != part) & (part[own] != 0)
    return np.where(foreign, (y // 2 * 2) * grid[1] + x // 2 * 2, own), own == order


def encode_parts(rows: FloatArray, mapping: IntArray, grid: tuple[int, int], prior: Prior, depth: int) -> list[bytes]:
    """Rows [n, c] as one byte string for each part of the pyramid.

    Errors: ValueError on values that are no numbers or beyond `LARGEST`.
    """
    if not (np.isfinite(rows).all() and np.abs(rows).max(initial=0) <= LARGEST):
        raise ValueError(f"features hold NaN, infinity or values beyond {LARGEST}: nothing can be coded")
    source, stays = _sources(mapping, grid)
    step = steps_of(prior, depth)
    target = np.rint(rows.astype(np.float64) * UNIT)[mapping]
    values = np.zeros_like(target)
    out = []
    for stages in segments(*grid):
        encoder = constriction.stream.queue.RangeEncoder()
        at = iter([(s.tokens[stays[s.tokens]], g) for s in stages if stays[s.tokens].any() for g in prior.groups])

        def levels(mean: Whole, kinds: IntArray) -> Whole:
            tokens, group = next(at)  # noqa: B023
            wanted = (target[tokens, group] - mean) / step[group]
            limit = REACH + (1 << ESCAPE_BITS) - 1
            got: Whole = (np.sign(wanted) * np.floor(np.abs(wanted) + ROUNDING)).clip(-limit, limit)
            _put(encoder, got.astype(np.int64).ravel(), kinds.ravel())  # noqa: B023
            return got

        _walk(stages, values, source, stays, grid, prior, depth, levels)
        out.append(encoder.get_compressed().astype("<u4").tobytes())
    return out


def _low_bits(kinds: IntArray) -> IntArray:
    """How many of a level's lowest bits travel as they are, so that the rest falls into one of the classes."""
    out: IntArray = -(-(kinds - CLASSES + 1).clip(0) // PER_OCTAVE)
    return out


def _put(coder: object, levels: IntArray, kinds: IntArray) -> None:
    low = _low_bits(kinds)
    half = (1 << low) >> 1
    high = (levels + half) >> low
    near = high.clip(-REACH, REACH)
    coder.encode((near + REACH).astype(np.int32), _FAMILY, priors.frequencies()[kinds - PER_OCTAVE * low])  # type: ignore[attr-defined]
    beyond = np.abs(high[np.abs(near) == REACH]) - REACH
    if len(beyond):
        coder.encode(beyond.astype(np.int32), _ESCAPE)  # type: ignore[attr-defined]
    fine = low > 0
    if fine.any():
        rest = levels[fine] + half[fine] - (high[fine] << low[fine])
        coder.encode(rest.astype(np.int32), _UNIFORM, (1 << low[fine]).astype(np.int32))  # type: ignore[attr-defined]


def _get(coder: object, kinds: IntArray) -> IntArray:
    low = _low_bits(kinds)
    high = coder.decode(_FAMILY, priors.frequencies()[kinds - PER_OCTAVE * low]).astype(np.int64) - REACH  # type: ignore[attr-defined]
    far, fine = np.abs(high) == REACH, low > 0
    if far.any():
        high[far] += np.sign(high[far]) * coder.decode(_ESCAPE, int(far.sum())).astype(np.int64)  # type: ignore[attr-defined]
    levels: IntArray = high << low
    if fine.any():
        rest = coder.decode(_UNIFORM, (1 << low[fine]).astype(np.int32)).astype(np.int64)  # type: ignore[attr-defined]
        levels[fine] += rest - ((1 << low[fine]) >> 1)
    return levels


def decode_parts(parts: Sequence[bytes | None], mapping: IntArray, grid: tuple[int, int], prior: Prior, depth: int) -> FloatArray:
    """Rows [n, c] from what arrived of the parts; None: lost, and filled with what is predicted of it.

    Errors: ValueError where a part's bits are not ones that `encode_parts` wrote.
    """
    source, stays = _sources(mapping, grid)
    values = np.zeros((grid[0] * grid[1], prior.channels))
    for stages, part in zip(segments(*grid), parts, strict=True):
        if part is None:
            _walk(stages, values, source, stays, grid, prior, depth, lambda mean, kinds: np.zeros_like(mean))
            continue
        if len(part) % 4:
            raise ValueError("a feature part is not made of whole words")
        decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(part, "<u4").astype(np.uint32))

        def levels(mean: Whole, kinds: IntArray) -> Whole:
            try:
                got = _get(decoder, kinds.ravel())  # noqa: B023
            except AssertionError as error:  # what constriction raises on bits that no encoder wrote
                raise ValueError("a feature part holds bits that no encoder wrote") from error
            return got.reshape(kinds.shape).astype(np.float64)

        _walk(stages, values, source, stays, grid, prior, depth, levels)
    rows = np.empty((int(mapping.max()) + 1, prior.channels))
    rows[mapping[stays]] = values[stays]
    return (rows / UNIT).astype(np.float32)
