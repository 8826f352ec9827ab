"""What an entropy coder knows of a backbone's latents: mean and scale of a token from the tokens around it.

Small networks in integer arithmetic, one for each kind of stage and group of channels. Every number in them
is a whole number below 2^53 in float64, so that any machine and any order of summation gives the same bits.
"""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from megen.codec.pyramid import KINDS, NONE
from megen.files import replacing
from megen.types import IntArray

Whole = NDArray[np.float64]  # whole numbers, exact

UNIT = 256  # latents and log2 scales are multiples of 1 / UNIT
WEIGHT = 1024  # weights are multiples of 1 / WEIGHT
LIMIT = 16 * UNIT
GROUPS = 8  # of channels, in a prior that is made now; a shipped one may have fewer
CLASSES, PER_OCTAVE, LOWEST = 24, 4, -4  # scale classes: log2(scale / step) = LOWEST + class / PER_OCTAVE
MOST = 60  # the largest class; above CLASSES the lowest bits of a level travel as they are
REACH = 24  # largest level coded in one symbol; beyond it an escape follows
FILE = "codec.safetensors"
KEPT = {"w1": np.int16, "b1": np.int32, "w2": np.int16, "b2": np.int32}


class PriorError(ValueError):
    """A file that holds no prior of this version."""


@dataclass(frozen=True)
class Net:
    """mean, log2 scale = W2 relu(W1 x + b1) + b2 in fixed point."""

    w1: Whole  # [inputs, hidden]
    b1: Whole
    w2: Whole  # [hidden, 2 * channels of the group]
    b2: Whole


@dataclass(frozen=True)
class Prior:
    """The prior of one backbone; `step` [c] is each channel's quantiser step relative to the others, in 1 / UNIT."""

    step: IntArray
    nets: tuple[tuple[Net, ...], ...]  # by kind of stage, by group

    @property
    def channels(self) -> int:
        return len(self.step)

    @property
    def groups(self) -> list[slice]:
        """Channels that each net of a kind predicts."""
        return groups(self.channels, len(self.nets[0]))

    @functools.cached_property
    def digest(self) -> int:
        """CRC-32 of all that decoding depends on."""
        arrays = [self.step, *(a for kind in self.nets for net in kind for a in (net.w1, net.b1, net.w2, net.b2))]
        return functools.reduce(lambda crc, a: zlib.crc32(a.astype("<i4").tobytes(), crc), arrays, 0)


def groups(channels: int, count: int = GROUPS) -> list[slice]:
    """Channels that are coded together, in at most `count` groups; a later one knows the earlier ones of its token."""
    edges = [channels * k // count for k in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]


def plain(channels: int) -> Prior:
    """The prior that knows nothing: the mean of the four neighbours, a scale of 1."""
    steps = np.full(channels, UNIT, np.int64)
    nets = []
    for kind in range(KINDS):
        row = []
        for group in groups(channels):
            own = group.stop - group.start
            w1, w2 = np.zeros((4 * channels + group.start + 3, 2 * own)), np.zeros((2 * own, 2 * own))
            if kind:
                for c in range(own):  # relu(m) - relu(-m)
                    for n in range(4):
                        w1[n * channels + group.start + c, (c, own + c)] = WEIGHT // 4, -WEIGHT // 4
                    w2[(c, own + c), c] = WEIGHT, -WEIGHT
            row.append(Net(w1, np.zeros(2 * own), w2, np.zeros(2 * own)))
        nets.append(tuple(row))
    return Prior(steps, tuple(nets))


def context(values: Whole, neighbours: IntArray, tokens: IntArray, height: int, width: int, step: int) -> Whole:
    """Inputs of a stage's nets [n, 4c + 3] before what is known of the token itself: neighbours, place, step."""
    around = np.where(neighbours[:, :, None] == NONE, 0.0, values[neighbours])
    y, x = np.divmod(tokens, width)
    place = np.stack([y * (2 * UNIT) // height - UNIT, x * (2 * UNIT) // width - UNIT, np.full(len(tokens), _log2(step))], 1)
    return np.concatenate([around.reshape(len(tokens), -1), place.astype(float)], 1).clip(-LIMIT, LIMIT)


def _log2(step: int) -> int:
    """log2(step / UNIT) in 1 / UNIT for whole steps, linear between powers of two: the same everywhere."""
    exponent = step.bit_length() - 1
    return UNIT * (exponent - 8) + (UNIT * (step - (1 << exponent)) >> exponent)


def predict(net: Net, inputs: Whole) -> tuple[Whole, Whole]:
    """Mean [n, g] and log2 scale [n, g], both in 1 / UNIT."""
    hidden = np.floor(np.maximum(inputs @ net.w1 + net.b1, 0) / WEIGHT)
    out = np.floor((np.minimum(hidden, 64 * LIMIT) @ net.w2 + net.b2) / WEIGHT)
    mean, scale = np.split(out, 2, axis=1)
    return mean.clip(-LIMIT, LIMIT), scale


def scale_class(log2_scale: Whole, step: IntArray) -> IntArray:
    """The class of each scale relative to its step."""
    relative = log2_scale - np.array([_log2(int(s)) for s in step])
    return np.asarray(np.floor((relative / UNIT - LOWEST) * PER_OCTAVE + 0.5).clip(0, MOST).astype(np.int64))


@functools.cache
def frequencies() -> NDArray[np.float64]:
    """Probabilities [CLASSES, 2 REACH + 1] of the levels of a logistic distribution, multiples of 2^-16 and none zero.

    Worked out in decimal arithmetic, which rounds alike everywhere.
    """
    root = Decimal(2).sqrt().sqrt()  # one class
    counts = np.empty((CLASSES, 2 * REACH + 1))
    for k in range(CLASSES):
        scale = root ** (k + LOWEST * PER_OCTAVE)
        below = [1 / (1 + (-(Decimal(edge) - Decimal("0.5")) / scale).exp()) for edge in range(1, REACH + 1)]
        above = [below[0] - (1 - below[0]), *(b - a for a, b in itertools.pairwise(below)), 1 - below[-1]]
        own = [int((p * (2**16 - 2 * REACH - 1)).to_integral_value()) + 1 for p in above]
        counts[k, REACH:] = own
        counts[k, :REACH] = own[:0:-1]
        counts[k, REACH] += 2**16 - counts[k].sum()
    return counts / 2**16


def save(prior: Prior, folder: Path, metadata: dict[str, object]) -> Path:
    """Write a prior beside a backbone's weights."""
    path = folder / FILE
    tensors = {"step": prior.step.astype(np.int32)}
    for kind, row in enumerate(prior.nets):
        for group, net in enumerate(row):
            tensors |= {f"{kind}.{group}.{name}": np.ascontiguousarray(getattr(net, name), kept) for name, kept in KEPT.items()}
    about = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "megen-codec-1", **about})
    return path


def load(folder: Path, channels: int) -> Prior:
    """The prior beside a backbone's weights, or the one that knows nothing where there is none. Errors: PriorError."""
    path = folder / FILE
    if not path.is_file():
        return plain(channels)
    try:
        with safe_open(path, framework="np") as file:
            known = (file.metadata() or {}).get("format")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if known != "megen-codec-1":
            raise KeyError("its format")
        count = max(1, sum(key.startswith("0.") and key.endswith(".w1") for key in tensors))
        nets = tuple(
            tuple(Net(*(tensors[f"{kind}.{g}.{name}"].astype(float) for name in KEPT)) for g in range(count)) for kind in range(KINDS)
        )
        prior = Prior(tensors["step"].astype(np.int64), nets)
        if [net.w2.shape[1] for net in nets[0]] != [2 * (g.stop - g.start) for g in prior.groups]:
            raise KeyError("its groups of channels")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PriorError(f"{path} is not a whole prior of this version ({error}): train or copy it again") from error
    if prior.channels != channels:
        raise PriorError(f"{path} is of {prior.channels} channels, the backbone has {channels}")
    return prior
