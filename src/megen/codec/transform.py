"""Features as transform coefficients on a link that carries them as they are: what is left out are coefficients, not tokens.

tokens [h*w, c] ──cosine transform of each channel──> coefficients [c, h, w] ──the first K in order──× gain──> values [K]

Both sides know each coefficient's variance in the backbone's latents (`Prior.variance`), so nothing is signalled but K.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.codec.prior import UNIT, VARIANCE_PER_OCTAVE, Prior, log2_steps
from megen.types import FloatArray, InputError, IntArray

Array = NDArray[np.float64]

CLIPPED = 2.0  # times the geometric mean deviation: a value with more noise, as in a deep fade, is weakened to it


@functools.lru_cache(maxsize=8)
def basis(size: int) -> Array:
    """The orthonormal cosine transform of type II, [size, size]: a row a frequency."""
    frequency, place = np.arange(size)[:, None], np.arange(size)
    rows: Array = np.cos(np.pi * (2 * place + 1) * frequency / (2 * size)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    rows.flags.writeable = False
    return rows


def forward(tokens: FloatArray, grid: tuple[int, int]) -> Array:
    """Tokens [h*w, c] to coefficients [c, h, w]."""
    planes = tokens.astype(np.float64).T.reshape(-1, *grid)
    out: Array = basis(grid[0]) @ planes @ basis(grid[1]).T
    return out


def inverse(coefficients: Array) -> FloatArray:
    """Coefficients [c, h, w] to tokens [h*w, c]."""
    channels, height, width = coefficients.shape
    planes = basis(height).T @ coefficients @ basis(width)
    return np.ascontiguousarray(planes.reshape(channels, -1).T, np.float32)


@dataclass(frozen=True)
class Selection:
    """Which coefficients cross, in which order, and how strongly: [K] numbers of coefficients, gains and variances.

    A coefficient of variance v whose errors weigh w in the picture has the gain (w / v)^(1/8), and its place by v sqrt(w). That is
    halfway from white noise, which the flow map takes away best, to the least weighted error of a linear estimate, (w / v)^(1/4).
    """

    numbers: IntArray
    gains: Array
    variance: Array


def select(prior: Prior, grid: tuple[int, int], count: int) -> Selection:
    """The first `count` coefficients, spread in time so that a fade meets all kinds of them.

    Errors: InputError where the prior has no variances of that grid.
    """
    if prior.variance is None or prior.variance.shape[1:] != grid:
        raise InputError(f"the codec file has no variances of coefficients on a grid of {grid[0]} x {grid[1]}: merge tokens instead")
    unit = UNIT // VARIANCE_PER_OCTAVE
    log2_variance = prior.variance.astype(np.int64) * unit  # all in 1 / UNIT
    log2_step = log2_steps(prior)[:, None, None]  # an error weighs 1 / step^2
    order = np.argsort(-(log2_variance - log2_step).ravel(), kind="stable")[:count]
    numbers = order[spread(count)]
    log2_gain = -(log2_variance + 2 * log2_step).ravel()[numbers] / (8 * UNIT)
    return Selection(numbers, np.exp2(log2_gain), np.exp2(log2_variance.ravel()[numbers] / UNIT))


def spread(count: int) -> IntArray:
    """A permutation of `count` places: steps of about 0.618 `count`, the first that has no divisor in common with it."""
    stride = max(1, count * 618 // 1000)
    while math.gcd(stride, count) > 1:
        stride += 1
    return np.arange(count, dtype=np.int64) * stride % count


@dataclass(frozen=True)
class Estimates:
    """What arrived of the coefficients, as tokens [h*w, c]: linear estimates, and the values themselves with noise.

    `error` is the root mean square error of the estimates, `noise` the geometric mean deviation of what was sent, and `unknown` that
    with the deviation of what was not sent.
    """

    linear: FloatArray
    values: FloatArray
    error: float
    noise: float
    unknown: float


def estimates(values: Array, noise: Array, chosen: Selection, prior: Prior) -> Estimates:
    """Values [K] of deviation `noise` [K] as coefficients, unknown ones 0: their MMSE estimates v / (v + noise^2), and unshrunk."""
    assert prior.variance is not None
    shape, known = prior.variance.shape, chosen.variance
    middle = float(np.exp(np.log(np.maximum(noise, 1e-12)).mean()))
    linear, plain = np.zeros(prior.variance.size), np.zeros(prior.variance.size)
    linear[chosen.numbers] = values * known / (known + noise**2)
    plain[chosen.numbers] = values * np.minimum(1, CLIPPED * middle / np.maximum(noise, 1e-12))
    left = np.exp2(prior.variance.ravel() / VARIANCE_PER_OCTAVE)
    log_deviation = np.log(left) / 2
    left[chosen.numbers] = known * noise**2 / (known + noise**2)
    log_deviation[chosen.numbers] = np.log(np.maximum(noise, 1e-12))
    error, unknown = float(np.sqrt(left.mean())), float(np.exp(log_deviation.mean()))
    return Estimates(inverse(linear.reshape(shape)), inverse(plain.reshape(shape)), error, middle, unknown)
