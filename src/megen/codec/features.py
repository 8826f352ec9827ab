"""Rows of features to bits and back: predicted from known neighbours, the rest quantised and entropy-coded.

The prediction is added back inside the loop, so that encoder and decoder know the same values. A part that
was lost in transit is filled with what is predicted of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.codec import entropy, refinement
from megen.codec import prior as priors
from megen.codec.entropy import ROUNDING as ROUNDING
from megen.codec.prior import UNIT, Prior, Whole
from megen.codec.pyramid import KINDS, Stage, part_of, segments
from megen.types import FloatArray, InputError, IntArray

MIN_DEPTH, MAX_DEPTH = 1, 32  # quarter bits: 1/4 to 8 bits over a range of 8 standard deviations
LARGEST = 128  # of a normalised feature
BOUND = LARGEST * UNIT - 1  # of a reconstructed value in 1 / UNIT: it fits 16 bits
MAX_LEVEL = 2**16 - 1

# levels [n, g] of one stage and group of channels, from (kind of stage, group, tokens [n], mean [n, g], class of each level [n, g])
Levels = Callable[[int, slice, IntArray, Whole, IntArray], Whole]


# of one stage and group: kind of stage, group, levels [n, g], classes [n, g]
Block = tuple[int, slice, IntArray, IntArray]


@dataclass(frozen=True)
class _Picture:
    """What both sides fill, `values` [h*w, c] in 1 / UNIT, and what they must know to do so."""

    values: NDArray[np.float32]
    grid: tuple[int, int]
    source: IntArray  # [h*w] whose value a token has for the prediction
    stays: NDArray[np.bool_]  # [h*w] which tokens are coded
    prior: Prior
    depth: int
    scales: IntArray  # [KINDS, c] classes, where the prior has no nets
    layer: _Layer | None  # what a refinement must know of what was coded

    @classmethod
    def of(cls, mapping: IntArray, grid: tuple[int, int], prior: Prior, depth: int, order: str, scales: bytes = b"") -> _Picture:
        classes = np.zeros((KINDS, prior.channels), np.int64)
        if scales:
            classes[:] = np.frombuffer(scales, np.uint8).reshape(classes.shape)
        source, stays = _sources(mapping, grid, order)
        shape, layer = (grid[0] * grid[1], prior.channels), None
        if order == "layer":
            layer, depth = _Layer(np.zeros(shape, np.int8), np.zeros(shape, np.uint8), steps_of(prior, depth)), base_depth(depth)
        return cls(np.zeros(shape, np.float32), grid, source, stays, prior, depth, classes, layer)

    def fill(self, stages: Sequence[Stage], levels: Levels) -> None:
        """Go through the stages of one part: a token's value is mean + level * step, within `BOUND`."""
        step, prior = steps_of(self.prior, self.depth), self.prior
        for stage in stages:
            coded = self.stays[stage.tokens]
            tokens, neighbours = stage.tokens[coded], stage.neighbours[coded]
            if len(tokens):
                if prior.nets:
                    inputs = priors.context(self.values, neighbours, tokens, self.grid, base_step(self.depth))
                    earlier = np.empty((len(tokens), prior.channels))  # the token's own channels, as they become known
                else:
                    means = priors.mean_of(self.values, neighbours)
                for number, group in enumerate(prior.groups):
                    if prior.nets:
                        net = prior.nets[stage.kind][number]
                        mean, log2_scale = priors.predict(net, np.concatenate([inputs, earlier[:, : group.start]], 1))
                        classes = priors.scale_class(log2_scale, step[group])
                        finer = priors.scale_class(log2_scale, self.layer.step[group]) if self.layer else classes
                    else:
                        mean, classes = means[:, group], np.tile(self.scales[stage.kind, group], (len(tokens), 1))
                        finer = classes + refinement.LAYER
                    coarse = levels(stage.kind, group, tokens, mean, classes)
                    if self.layer:
                        self.layer.levels[tokens, group] = priors.clipped(coarse, refinement.FARTHEST)
                        self.layer.classes[tokens, group] = finer
                    change = coarse * step[group]
                    change += mean
                    known = priors.clipped(change, BOUND)
                    self.values[tokens, group] = known
                    if prior.nets:
                        earlier[:, group] = priors.clipped(known, priors.LIMIT)
            merged = stage.tokens[~coded]
            self.values[merged] = self.values[self.source[merged]]

    def refine(self, number: int, symbols: Callable[[IntArray, IntArray, IntArray], IntArray]) -> None:
        """Refine a band's tokens by `symbols(tokens, coarse levels, classes)`."""
        assert self.layer is not None
        tokens = np.flatnonzero(self.stays & (part_of(*self.grid, "layer") == number))
        coarse, classes = (kept[tokens].astype(np.int64) for kept in (self.layer.levels, self.layer.classes))
        change = refinement.change_of(symbols(tokens, coarse, classes), coarse, self.layer.step)
        self.values[tokens] = priors.clipped(self.values[tokens] + change, BOUND)


@dataclass(frozen=True)
class _Layer:
    """Coarse levels within +- 5 and the fine step's scale classes [h*w, c], and each channel's fine step."""

    levels: NDArray[np.int8]
    classes: NDArray[np.uint8]
    step: IntArray


class _Quantiser:
    """Levels of what `target` [h*w, c] differs from its prediction by; keeps them, block by block, for the range coder."""

    def __init__(self, target: Whole, step: IntArray, thresholds: NDArray[np.float64] | None) -> None:
        self.target, self.step, self.thresholds = target, step, thresholds
        self.blocks: list[Block] = []

    def __call__(self, kind: int, group: slice, tokens: IntArray, mean: Whole, classes: IntArray) -> Whole:
        wanted = (self.target[tokens, group] - mean) / self.step[group]
        rounded = entropy.rounded(wanted) if self.thresholds is None else entropy.weighed(wanted, classes, self.thresholds)
        levels: Whole = rounded.clip(-MAX_LEVEL, MAX_LEVEL)
        self.blocks.append((kind, group, levels.astype(np.int64), classes))
        return levels

    def of_part(self, picture: _Picture, stages: Sequence[Stage]) -> list[Block]:
        """The blocks of one part of a picture, which is filled by them."""
        self.blocks = []
        picture.fill(stages, self)
        return self.blocks


class _Reader:
    """Levels that a part's bits say. Errors: InputError on bits that no encoder wrote."""

    def __init__(self, part: bytes, table: NDArray[np.float64]) -> None:
        self.decoder, self.table = entropy.decoder(part), table

    def __call__(self, kind: int, group: slice, tokens: IntArray, mean: Whole, classes: IntArray) -> Whole:
        levels = entropy.get(self.decoder, classes.ravel(), self.table)
        return priors.clipped(levels, MAX_LEVEL).reshape(classes.shape).astype(np.float64)


def _predicted(kind: int, group: slice, tokens: IntArray, mean: Whole, classes: IntArray) -> Whole:
    """The levels of a lost part."""
    return np.zeros_like(mean)


def base_step(depth: int) -> int:
    """The quantiser's step in 1 / UNIT: 8 / 2^(depth / 4), for whole quarter bits from `MIN_DEPTH` to `MAX_DEPTH`."""
    if not MIN_DEPTH <= depth <= MAX_DEPTH:
        raise InputError(f"the depth must lie in [{MIN_DEPTH}, {MAX_DEPTH}] quarter bits, got {depth}")
    whole, quarter = divmod(depth, 4)
    return (8 * UNIT * (4096, 3444, 2896, 2435)[quarter] >> 12) >> whole  # 2^(-k/4) in 1 / 4096


def base_depth(depth: int) -> int:
    """The depth of the base where a refinement layer brings it to `depth`."""
    if depth < MIN_DEPTH + refinement.LAYER:
        least = (MIN_DEPTH + refinement.LAYER) / 4
        raise InputError(f"a payload in layers needs a quantiser of at least {least:g} bits, got {depth / 4:g}")
    return depth - refinement.LAYER


def steps_of(prior: Prior, depth: int) -> IntArray:
    """Each channel's step in 1 / UNIT."""
    out: IntArray = np.maximum(prior.step * base_step(depth) // UNIT, 1)
    return out


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


def _sources(mapping: IntArray, grid: tuple[int, int], order: str) -> tuple[IntArray, NDArray[np.bool_]]:
    """Whose value a token has for the prediction, and which tokens are coded.

    That of a merged token is its destination's. By band, where that lies neither in the base nor in the token's own part,
    it is its own cell's destination's, so that no band needs another.
    """
    own = own_tokens(mapping, grid)
    number = np.arange(len(own))
    if order != "band":
        return own, own == number
    part = part_of(*grid)
    y, x = np.divmod(number, grid[1])
    foreign = (part[own] != part) & (part[own] != 0)
    return np.where(foreign, (y // 2 * 2) * grid[1] + x // 2 * 2, own), own == number


def encode_parts(
    rows: FloatArray, mapping: IntArray, grid: tuple[int, int], prior: Prior, depth: int, *, order: str = "band"
) -> tuple[bytes, Iterator[bytes]]:
    """The parts of the pyramid of rows [n, c], each coded when it is asked for.

    Before them the scale class of each (kind of stage, channel), a byte each, where the prior has no nets: all is then quantised first.
    Errors: InputError on values that are NaN, infinite or beyond `LARGEST`.
    """
    if not (np.isfinite(rows).all() and np.abs(rows).max(initial=0) <= LARGEST):
        raise InputError(f"features hold NaN, infinity or values beyond {LARGEST}: nothing can be coded")
    picture = _Picture.of(mapping, grid, prior, depth, order)
    thresholds = prior.thresholds if prior.nets and not picture.layer else None  # a refinement takes it that cells are alike
    quantiser = _Quantiser(np.rint(rows.astype(np.float64) * UNIT)[mapping], steps_of(prior, picture.depth), thresholds)
    stages = segments(*grid, order)
    blocks: Iterable[list[Block]] = (quantiser.of_part(picture, part) for part in stages[: 1 if picture.layer else None])
    if prior.nets:
        return b"", _coded(picture, quantiser.target, blocks, len(stages))
    blocks = list(blocks)
    scales = _best_scales([block for part in blocks for block in part], prior)
    if picture.layer:
        for stage in stages[0]:
            picture.layer.classes[stage.tokens] = scales[stage.kind] + refinement.LAYER
    with_scales = [
        [(kind, group, levels, np.broadcast_to(scales[kind, group], levels.shape)) for kind, group, levels, _ in part] for part in blocks
    ]
    return scales.astype(np.uint8).tobytes(), _coded(picture, quantiser.target, with_scales, len(stages))


def _coded(picture: _Picture, target: Whole, blocks: Iterable[list[Block]], count: int) -> Iterator[bytes]:
    """The parts by their blocks, and in layers the bands that refine them, `count` in all."""
    for part in blocks:
        coder = entropy.encoder()
        for _, _, levels, classes in part:
            entropy.put(coder, levels.ravel(), classes.ravel(), picture.prior.weights)
        yield entropy.finished(coder)
    if picture.layer:
        for number in range(1, count):
            yield _refined(picture, target, number)


def _refined(picture: _Picture, target: Whole, number: int) -> bytes:
    """The refinement of one band."""
    coder, table = entropy.encoder(), picture.prior.refinement

    def symbols(tokens: IntArray, coarse: IntArray, classes: IntArray) -> IntArray:
        assert picture.layer is not None
        found = refinement.symbols_of(target[tokens] - picture.values[tokens], coarse, picture.layer.step)
        refinement.put(coder, found, coarse, classes, table)
        return found

    picture.refine(number, symbols)
    return entropy.finished(coder)


def _best_scales(blocks: Sequence[tuple[int, slice, IntArray, IntArray]], prior: Prior) -> IntArray:
    """The scale class [KINDS, c] that costs each kind of stage and channel the fewest bits, near that of a logistic's mean size.

    The levels do not depend on the scales here, so they are all known.
    """
    information = entropy.PRECISION - np.log2(prior.weights + 1)
    scales = np.zeros((KINDS, prior.channels), np.int64)
    for kind in {kind for kind, _, _, _ in blocks}:
        groups = [[levels for k, g, levels, _ in blocks if (k, g) == (kind, group)] for group in prior.groups]
        levels = np.concatenate([np.concatenate(group) for group in groups], 1)
        size = np.abs(levels).mean(0).clip(2.0**-8) / (2 * np.log(2))  # of a logistic: E|x| = 2 ln 2 * scale
        start = np.rint(entropy.PER_OCTAVE * (np.log2(size) - entropy.LOWEST)).astype(np.int64)
        near = (start + np.arange(-4, 5)[:, None]).clip(0, entropy.MOST)  # [9, c]
        cost = [entropy.bits(levels, np.broadcast_to(classes, levels.shape), information).sum(0) for classes in near]
        scales[kind] = near[np.argmin(cost, 0), np.arange(prior.channels)]
    return scales


class Decoder:
    """Rows of a payload's features, of which each part is decoded when it is taken.

    `scales` are those of `encode_parts` where the prior has no nets. By stage, parts are taken in their order, and nothing but None may
    follow a None. In layers, what a lost part would have refined stays coarse.
    """

    def __init__(
        self, mapping: IntArray, grid: tuple[int, int], prior: Prior, depth: int, *, order: str = "band", scales: bytes = b""
    ) -> None:
        self._mapping, self._stages = mapping, segments(*grid, order)
        self._picture = _Picture.of(mapping, grid, prior, depth, order, scales)

    def take(self, number: int, part: bytes | None) -> None:
        """Decode a part; None: it was lost, and is filled with what is predicted of it.

        The base, part 0, is the first. Errors: InputError where the bits are not ones that `encode_parts` wrote.
        """
        picture = self._picture
        try:
            if not (picture.layer and number):
                picture.fill(self._stages[number], _predicted if part is None else _Reader(part, picture.prior.weights))
            elif part is not None:
                coder, table = entropy.decoder(part), picture.prior.refinement
                picture.refine(number, lambda _, coarse, classes: refinement.get(coder, coarse, classes, table))
        except ValueError as error:
            raise InputError(f"feature part {number} holds {error}") from error

    def rows(self) -> FloatArray:
        """Rows [n, c] by what was taken."""
        values, stays = self._picture.values, self._picture.stays
        rows = np.empty((int(self._mapping.max()) + 1, values.shape[1]), np.float32)
        rows[self._mapping[stays]] = values[stays]
        rows /= UNIT
        return rows
