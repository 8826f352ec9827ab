"""What an entropy coder knows of a backbone's latents: mean and scale of a token from the tokens around it.

Small networks in integer arithmetic, one for each kind of stage and group of channels. Every sum in them fits 32 bits,
which a prior is checked for, and is exact in float64 too: any machine and any order of summation gives the same numbers.
Where nobody trained one, the mean of the neighbours predicts, and the payload brings its own scales.
"""

from __future__ import annotations

import decimal
import functools
import itertools
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from megen.codec import entropy, refinement
from megen.codec.entropy import CLASSES, LOWEST, MOST, PER_OCTAVE, REACH
from megen.codec.pyramid import KINDS, NONE
from megen.files import replacing
from megen.types import InputError, IntArray

Whole = NDArray[np.float64]  # whole numbers, exact

UNIT = 256  # latents and log2 scales are multiples of 1 / UNIT
WEIGHT = 1024  # weights are multiples of 1 / WEIGHT
LIMIT = 16 * UNIT  # of what a net is given and of the mean that it predicts
ACTIVATION = 2**15 - 1  # of a hidden unit
INT32 = 2**31 - 1
LARGEST_STEP = 4 * UNIT  # of a channel's relative step
GROUPS = 8  # of channels, in a prior that is made now; a bundled one may have fewer
VARIANCE_PER_OCTAVE, WIDEST_VARIANCE = 8, 20  # classes of a coefficient's variance, from 2^-20 to 2^20
TOTAL = 2**16  # counts of a class of levels sum to it
FILE, FORMAT, OLDER = "codec.safetensors", "megen-codec-3", "megen-codec-1"  # the older one has no table of levels
KEPT = {"w1": np.int16, "b1": np.int32, "w2": np.int16, "b2": np.int32}

# m * n * k of a product that OpenBLAS still gives to one thread: on a busy machine, threads that wait for each other
# took a second instead of 30 ms, and a limit on threads is the process's, not ours to set
_ONE_THREAD = 2**19 - 1


class PriorError(InputError):
    """A prior that cannot be decoded with: a file that holds none of this version, or sums that could overflow 32 bits."""


@functools.cache
def logistic_levels() -> IntArray:
    """Counts [CLASSES, 2 REACH + 1] out of 2^16 of the levels of a logistic distribution, symmetric and none zero.

    A table that a codec file keeps. Worked out in decimal arithmetic of 28 digits, which rounds alike everywhere.
    """
    counts = np.empty((CLASSES, 2 * REACH + 1), np.int64)
    with decimal.localcontext(decimal.Context(prec=28, rounding=decimal.ROUND_HALF_EVEN)):
        root = decimal.Decimal(2).sqrt().sqrt()  # one class
        for k in range(CLASSES):
            scale = root ** (k + LOWEST * PER_OCTAVE)
            below = [1 / (1 + (-(decimal.Decimal(edge) - decimal.Decimal("0.5")) / scale).exp()) for edge in range(1, REACH + 1)]
            above = [below[0] - (1 - below[0]), *(b - a for a, b in itertools.pairwise(below)), 1 - below[-1]]
            half = [int((p * (TOTAL - 2 * REACH - 1)).to_integral_value()) + 1 for p in above]
            counts[k, REACH:] = half
            counts[k, :REACH] = half[:0:-1]
            counts[k, REACH] += TOTAL - counts[k].sum()
    counts.flags.writeable = False
    return counts


@dataclass(frozen=True)
class Net:
    """mean, log2 scale = W2 min(relu(W1 x + b1), 2^15 - 1) + b2 in fixed point. Errors: PriorError where a sum could overflow."""

    w1: Whole  # [inputs, hidden]
    b1: Whole
    w2: Whole  # [hidden, 2 * channels of the group]
    b2: Whole

    def __post_init__(self) -> None:
        hidden, outputs = self.w1.shape[1], self.w2.shape[1]
        if (self.b1.shape, self.w2.shape[0], self.b2.shape) != ((hidden,), hidden, (outputs,)):
            raise PriorError(f"a net of {hidden} hidden units and {outputs} outputs whose layers do not fit each other")
        for layer, weights, bias, largest in ((1, self.w1, self.b1, LIMIT), (2, self.w2, self.b2, ACTIVATION)):
            reach = bound(weights, bias, largest).max(initial=0)
            if not reach <= INT32:
                raise PriorError(f"a sum in layer {layer} of a net could reach {reach:.0f}, beyond 32 bits ({INT32}): train it again")


def bound(weights: Whole, bias: Whole, largest: int) -> Whole:
    """The largest magnitude of each unit's sum, for inputs up to `largest`."""
    out: Whole = np.abs(weights).sum(0) * largest + np.abs(bias)
    return out


@dataclass(frozen=True)
class Prior:
    """The prior of one backbone; `step` [c] is each channel's quantiser step relative to the others, in 1 / UNIT.

    Without nets the mean of the neighbours predicts and a payload brings its own scales. Errors: PriorError.
    """

    step: IntArray
    nets: tuple[tuple[Net, ...], ...] = ()  # by kind of stage, by group
    levels: IntArray = field(default_factory=logistic_levels)  # counts [CLASSES, 2 REACH + 1], each row of sum 2^16
    variance: IntArray | None = None  # of each cosine-transform coefficient [c, h, w], log2 in 1 / VARIANCE_PER_OCTAVE

    def __post_init__(self) -> None:
        if not len(self.step) or self.step.min() < 1 or self.step.max() > LARGEST_STEP:
            raise PriorError(f"a channel's relative step must lie in [1, {LARGEST_STEP}]")
        if self.levels.shape != (CLASSES, 2 * REACH + 1) or self.levels.min() < 1 or (self.levels.sum(1) != TOTAL).any():
            raise PriorError(f"the table of levels must hold {CLASSES} rows of {2 * REACH + 1} counts from 1 on, each of sum {TOTAL}")
        farthest = WIDEST_VARIANCE * VARIANCE_PER_OCTAVE
        if self.variance is not None and (
            self.variance.ndim != 3 or len(self.variance) != self.channels or np.abs(self.variance).max(initial=0) > farthest
        ):
            raise PriorError(f"variances of coefficients must be [{self.channels}, height, width] classes within +- {farthest}")
        expected = [(4 * self.channels + g.start + 3, 2 * (g.stop - g.start)) for g in self.groups]
        if self.nets and [[(n.w1.shape[0], n.w2.shape[1]) for n in row] for row in self.nets] != [expected] * KINDS:
            raise PriorError(f"the nets do not have the inputs and outputs of {self.channels} channels in {len(expected)} groups")

    @property
    def channels(self) -> int:
        return len(self.step)

    @property
    def groups(self) -> list[slice]:
        """Channels that each net of a kind predicts."""
        return groups(self.channels, len(self.nets[0]) if self.nets else GROUPS)

    @functools.cached_property
    def weights(self) -> NDArray[np.float64]:
        """The table of levels as the range coder takes it."""
        return entropy.weights(self.levels)

    @functools.cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """What an encoder rounds levels by, where it knows their scales."""
        return entropy.thresholds(self.levels)

    @functools.cached_property
    def refinement(self) -> NDArray[np.float64]:
        """The tables of a refinement's symbols."""
        return refinement.tables(self.levels)

    @functools.cached_property
    def digest(self) -> int:
        """CRC-32 of all that decoding depends on: steps, nets, table of levels, variances."""
        arrays = [self.step, *(a for kind in self.nets for net in kind for a in (net.w1, net.b1, net.w2, net.b2)), self.levels]
        arrays += [] if self.variance is None else [self.variance]
        return functools.reduce(lambda crc, a: zlib.crc32(a.astype("<i4").tobytes(), crc), arrays, 0)


def groups(channels: int, count: int = GROUPS) -> list[slice]:
    """Channels that are coded together, in at most `count` groups; a later one knows the earlier ones of its token."""
    edges = [channels * k // count for k in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]


def plain(channels: int) -> Prior:
    """The prior that nobody trained: the mean of the four neighbours, and each payload's own scales."""
    return Prior(np.full(channels, UNIT, np.int64))


def context(values: NDArray[np.float32], neighbours: IntArray, tokens: IntArray, grid: tuple[int, int], step: int) -> Whole:
    """Inputs of a stage's nets [n, 4c + 3] before what is known of the token itself: neighbours, place, step."""
    height, width = grid
    y, x = np.divmod(tokens, width)
    place = np.stack([y * (2 * UNIT) // height - UNIT, x * (2 * UNIT) // width - UNIT, np.full(len(tokens), _log2(step))], 1)
    return np.concatenate([around(values, neighbours).reshape(len(tokens), -1), place.astype(float)], 1)


def around(values: NDArray[np.float32], neighbours: IntArray) -> Whole:
    """The four neighbours' values [n, 4, c], clipped to `LIMIT`; 0 where there is none."""
    out: Whole = clipped(values[neighbours], LIMIT).astype(np.float64)
    out[neighbours == NONE] = 0
    return out


def clipped(values: NDArray[Any], largest: int) -> NDArray[Any]:
    """Values within +- `largest`; `ndarray.clip` looks its dtype's limits up first, which takes longer than a stage's work."""
    out: NDArray[Any] = np.minimum(np.maximum(values, -largest), largest)
    return out


def mean_of(values: NDArray[np.float32], neighbours: IntArray) -> Whole:
    """The mean of the four neighbours [n, c], a half rounded up: the prediction without nets."""
    out: Whole = np.floor((around(values, neighbours).sum(1) + 2) / 4)
    return out


def _log2(step: int) -> int:
    """log2(step / UNIT) in 1 / UNIT for whole steps, linear between powers of two: the same everywhere."""
    exponent = step.bit_length() - 1
    return UNIT * (exponent - 8) + (UNIT * (step - (1 << exponent)) >> exponent)


def _product(inputs: Whole, weights: Whole) -> Whole:
    """inputs @ weights, in pieces that stay on one thread."""
    piece = max(2, _ONE_THREAD // weights.size)
    out = np.empty((len(inputs), weights.shape[1]))
    for start in range(0, len(inputs), piece):
        rows = inputs[start : start + piece]
        if len(rows) == 1:  # a product with a vector goes to several threads much earlier
            out[start] = (np.repeat(rows, 2, 0) @ weights)[0]
        else:
            np.matmul(rows, weights, out=out[start : start + piece])
    return out


def predict(net: Net, inputs: Whole) -> tuple[Whole, Whole]:
    """Mean [n, g] and log2 scale [n, g], both in 1 / UNIT."""
    hidden = _product(inputs, net.w1)
    hidden += net.b1
    np.maximum(hidden, 0, out=hidden)
    np.minimum(hidden, (ACTIVATION + 1) * WEIGHT - 1, out=hidden)
    hidden *= 1 / WEIGHT  # a power of two: exact
    np.floor(hidden, out=hidden)
    out = _product(hidden, net.w2)
    out += net.b2
    out *= 1 / WEIGHT
    np.floor(out, out=out)
    half = out.shape[1] // 2
    return clipped(out[:, :half], LIMIT), out[:, half:]


def scale_class(log2_scale: Whole, step: IntArray) -> IntArray:
    """The class of each scale relative to its step: round(4 (log2 scale - log2 step + 4)), a half rounded up, in [0, 60]."""
    width = UNIT // PER_OCTAVE
    relative = log2_scale - (_log2_of(tuple(step.tolist())) + LOWEST * UNIT - width // 2)
    relative *= 1 / width
    return np.asarray(np.minimum(np.maximum(np.floor(relative), 0), MOST).astype(np.int64))


def log2_steps(prior: Prior) -> IntArray:
    """log2 of each channel's relative step [c], in 1 / UNIT."""
    return np.array([_log2(int(step)) for step in prior.step], np.int64)


@functools.lru_cache(maxsize=64)
def _log2_of(steps: tuple[int, ...]) -> Whole:
    return np.array([_log2(step) for step in steps], float)


def save(prior: Prior, folder: Path, metadata: dict[str, object]) -> Path:
    """Write a prior beside a backbone's weights."""
    path = folder / FILE
    tensors = {"step": prior.step.astype(np.int32), "levels": prior.levels.astype(np.int32)}
    if prior.variance is not None:
        tensors["variance"] = prior.variance.astype(np.int16)
    for kind, row in enumerate(prior.nets):
        for group, net in enumerate(row):
            tensors |= {f"{kind}.{group}.{name}": np.ascontiguousarray(getattr(net, name), dtype) for name, dtype in KEPT.items()}
    about = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {**about, "format": FORMAT})
    return path


def load(folder: Path, channels: int) -> Prior:
    """The prior beside a backbone's weights, or the plain one where there is none. Errors: PriorError."""
    path = folder / FILE
    if not path.is_file():
        return plain(channels)
    try:
        with safe_open(path, framework="np") as file:
            version = (file.metadata() or {}).get("format")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if version not in (FORMAT, OLDER):
            raise KeyError("its format")
        broken = [key for key, t in tensors.items() if t.dtype.kind != "i"]
        if broken or not (tensors["step"] > 0).all():
            raise InputError(f"{(broken or ['step'])[0]} must hold {'whole' if broken else 'positive'} numbers")
        count = sum(key.startswith("0.") and key.endswith(".w1") for key in tensors)
        kinds = range(KINDS if count else 0)
        nets = tuple(tuple(Net(*(tensors[f"{kind}.{g}.{name}"].astype(float) for name in KEPT)) for g in range(count)) for kind in kinds)
        levels = tensors["levels"].astype(np.int64) if version == FORMAT else logistic_levels()
        if "variance" in tensors and tensors["variance"].dtype != np.int16:
            raise InputError(f"variance must hold int16, got {tensors['variance'].dtype}")
        variance = tensors["variance"].astype(np.int64) if "variance" in tensors else None
        prior = Prior(tensors["step"].astype(np.int64), nets, levels, variance)
    except PriorError as error:
        raise PriorError(f"{path} cannot be decoded with: {error}") from error
    except (SafetensorError, OSError, KeyError, ValueError, IndexError) as error:
        raise PriorError(f"{path} is not a whole prior of this version ({error}): train or copy it again") from error
    if prior.channels != channels:
        raise PriorError(f"{path} is of {prior.channels} channels, the backbone has {channels}")
    return prior
