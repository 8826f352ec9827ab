"""What learners see of a state: numbers for a network, or some of its axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megen.control.cmdp import AXES, CMDP
from megen.errors import InputError

Array = NDArray[np.float64]
TENTS = 8  # steps of the tent basis up to the deadline


def features(cmdp: CMDP) -> Array:
    """What a policy sees of every state [S, d]: SNR over 10 dB, backlog over the deadline, phase; SNR class and prompt class one-hot;
    and tent basis features of the backlog, an eighth of the deadline apart, as misses begin at a sharp edge."""
    c, p, f, w = cmdp.shape
    ci, pi, fi, wi = np.unravel_index(np.arange(cmdp.states), (c, p, f, w))
    waiting = cmdp.backlog_s[wi] / cmdp.deadlines_s[pi]
    tents = np.maximum(0.0, 1 - np.abs(TENTS * np.minimum(waiting, 1)[:, None] - np.arange(TENTS + 1)))
    numbers = np.stack([cmdp.snr_db[ci] / 10, waiting, fi.astype(float)], 1)
    return np.hstack([numbers, np.eye(c)[ci], np.eye(p)[pi], tents])


def observation_index(cmdp: CMDP, observed_axes: Sequence[str]) -> NDArray[np.int64]:
    """The number of what a policy that observes some axes sees in each state [S]: states that look alike share one.

    Errors: InputError on an axis that is not one of `AXES`.
    """
    if unknown := set(observed_axes) - set(AXES):
        raise InputError(f"a policy may observe {', '.join(AXES)}, got {', '.join(sorted(unknown))}")
    places = np.unravel_index(np.arange(cmdp.states), cmdp.shape)
    shape = tuple(n if axis in observed_axes else 1 for axis, n in zip(AXES, cmdp.shape, strict=True))
    return np.ravel_multi_index(tuple(p if n > 1 else np.zeros_like(p) for p, n in zip(places, shape, strict=True)), shape)
