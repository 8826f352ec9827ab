"""The range coder's probabilities as whole numbers, and levels to bits and back.

Every symbol has a whole frequency out of 2^24. `constriction` is given those less one: its own conversion then adds
that one back and rounds nothing, so that no floating-point result decides a decoded number.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np
from numpy.typing import NDArray

from megen.errors import InputError
from megen.types import IntArray

PRECISION = 24  # frequencies sum to 2^PRECISION
REACH = 24  # largest level coded in one symbol; beyond it an escape follows
ESCAPE_BITS = 16
CLASSES, PER_OCTAVE, LOWEST = 24, 4, -4  # scale classes: log2(scale / step) = LOWEST + class / PER_OCTAVE
ROUNDING = 0.42  # |u| is rounded up from 1 - ROUNDING on: a little towards zero costs fewer bits than it harms
PRICE = 0.08  # of a bit, in squared steps of error, where an encoder weighs the one against the other
MOST = 60  # the largest class; from CLASSES on the lowest bits of a level travel as they are

FAMILY = constriction.stream.model.Categorical(perfect=False)
_ESCAPE = constriction.stream.model.Uniform(1 << ESCAPE_BITS)
_UNIFORM = constriction.stream.model.Uniform()


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of values in steps, a half and a little more rounded towards zero."""
    out: NDArray[np.float64] = np.sign(values) * np.floor(np.abs(values) + ROUNDING)
    return out


def thresholds(counts: IntArray) -> NDArray[np.float64]:
    """From which fraction on a value's magnitude is rounded up [CLASSES, REACH + 1], by scale class and whole part.

    The larger level is taken where the squared error that it saves is worth its bits:
    (x - l)^2 - (l + 1 - x)^2 >= PRICE (bits(l + 1) - bits(l)).
    """
    spent = -np.log2(counts[:, REACH:] / counts.sum(1, keepdims=True))
    more = np.diff(spent, axis=1, append=spent[:, -1:])  # an escape's bits do not depend on the level
    out: NDArray[np.float64] = np.clip((1 + PRICE * more) / 2, 0.5, 1)
    return out


def weighed(values: NDArray[np.float64], classes: IntArray, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of values in steps [...] of scale classes [...], rounded by their `thresholds`."""
    size = np.abs(values)
    whole = np.floor(size)
    place = np.minimum(classes, CLASSES - 1) * (REACH + 1) + np.minimum(whole, REACH).astype(np.int64)
    whole += size - whole >= thresholds.ravel()[place]
    return np.copysign(whole, values)


def frequencies(counts: IntArray) -> IntArray:
    """Counts [..., n] to frequencies [..., n] of at least 1 and sum 2^24.

    The cumulative frequency of symbol i is floor(c_i (2^24 - n) / c_n) + i, with c_i the sum of the counts before it.
    """
    n = counts.shape[-1]
    cumulative = np.concatenate([np.zeros((*counts.shape[:-1], 1), np.int64), np.cumsum(counts, -1, dtype=np.int64)], -1)
    edges = cumulative * ((1 << PRECISION) - n) // cumulative[..., -1:] + np.arange(n + 1)
    out: IntArray = np.diff(edges, axis=-1)
    return out


def weights(counts: IntArray) -> NDArray[np.float64]:
    """What `constriction` turns into exactly `frequencies(counts)`: it scales by 2^24 - n over their sum, here 1, and adds 1."""
    out: NDArray[np.float64] = (frequencies(counts) - 1).astype(np.float64)
    return out


def categorical(counts: Sequence[int] | IntArray) -> object:
    """The model of one symbol that is drawn with the given counts."""
    model: object = constriction.stream.model.Categorical(weights(np.asarray(counts, np.int64)), perfect=False)
    return model


def encoder() -> object:
    """A range coder of 32-bit words and a 64-bit state."""
    out: object = constriction.stream.queue.RangeEncoder()
    return out


def finished(coder: object) -> bytes:
    """What was coded: 32-bit words, least significant byte first."""
    out: bytes = coder.get_compressed().astype("<u4").tobytes()  # type: ignore[attr-defined]
    return out


def decoder(body: bytes) -> object:
    """A range decoder of what `finished` gave. Errors: InputError."""
    if len(body) % 4:
        raise InputError(f"{len(body)} bytes are not whole words of 4")
    out: object = constriction.stream.queue.RangeDecoder(np.frombuffer(body, "<u4").astype(np.uint32))
    return out


def low_bits(classes: IntArray) -> IntArray:
    """How many of a level's lowest bits travel as they are, so that the rest falls into one of the first `CLASSES`."""
    out: IntArray = -(-np.maximum(classes - CLASSES + 1, 0) // PER_OCTAVE)
    return out


def put(coder: object, levels: IntArray, classes: IntArray, table: NDArray[np.float64]) -> None:
    """Code levels [n] of scale classes [n]; `table` [CLASSES, 2 REACH + 1] holds the `weights` of each class."""
    low = low_bits(classes)
    half = (1 << low) >> 1
    high = (levels + half) >> low
    near = high.clip(-REACH, REACH)
    coder.encode((near + REACH).astype(np.int32), FAMILY, table[classes - PER_OCTAVE * low])  # type: ignore[attr-defined]
    beyond = np.abs(high[np.abs(near) == REACH]) - REACH
    if len(beyond):
        coder.encode(beyond.astype(np.int32), _ESCAPE)  # type: ignore[attr-defined]
    fine = low > 0
    if fine.any():
        rest = levels[fine] + half[fine] - (high[fine] << low[fine])
        coder.encode(rest.astype(np.int32), _UNIFORM, (1 << low[fine]).astype(np.int32))  # type: ignore[attr-defined]


def get(coder: object, classes: IntArray, table: NDArray[np.float64]) -> IntArray:
    """Levels [n] of scale classes [n], as `put` took them. Errors: InputError on bits that no encoder wrote."""
    low, fine = low_bits(classes), classes >= CLASSES
    any_fine = bool(fine.any())
    try:
        rows = table[classes - PER_OCTAVE * low if any_fine else classes]
        levels: IntArray = coder.decode(FAMILY, rows).astype(np.int64) - REACH  # type: ignore[attr-defined]
        far = np.abs(levels) == REACH
        if far.any():
            levels[far] += np.sign(levels[far]) * coder.decode(_ESCAPE, int(far.sum())).astype(np.int64)  # type: ignore[attr-defined]
        if any_fine:
            levels <<= low
            rest = coder.decode(_UNIFORM, (1 << low[fine]).astype(np.int32)).astype(np.int64)  # type: ignore[attr-defined]
            levels[fine] += rest - ((1 << low[fine]) >> 1)
    except AssertionError as error:  # what constriction raises on bits that no encoder wrote
        raise InputError("bits that no encoder wrote") from error
    return levels


def bits(levels: IntArray, classes: IntArray, information: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that `put` spends on each level; `information` [CLASSES, 2 REACH + 1] is -log2 of each probability."""
    low = low_bits(classes)
    near = ((levels + ((1 << low) >> 1)) >> low).clip(-REACH, REACH)
    out: NDArray[np.float64] = information[classes - PER_OCTAVE * low, near + REACH] + ESCAPE_BITS * (np.abs(near) == REACH) + low
    return out
