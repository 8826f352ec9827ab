"""The M-step on tables: fit q under a bound on KL(pi_old || pi)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from megen.errors import InputError

Array = NDArray[np.float64]
DOUBLINGS = 100  # of the mixture's weight: far past any that is needed


def m_step_policy(q: Array, old: Array, weight: Array, epsilon: float) -> tuple[Array, float]:
    """The M-step without function approximation: (q + alpha old) / (1 + alpha), and the least alpha >= 0 whose mean
    KL(old || new) is at most `epsilon`. Errors: InputError where there is none, as for an epsilon of 0."""

    def divergence(alpha: float) -> float:
        new = (q + alpha * old) / (1 + alpha)
        return float(weight @ np.where(old > 0, old * np.log(np.maximum(old, 1e-300) / np.maximum(new, 1e-300)), 0.0).sum(1))

    if divergence(0.0) <= epsilon:
        return q, 0.0
    for most in 4.0 ** np.arange(DOUBLINGS):
        if divergence(most) <= epsilon:
            alpha = float(brentq(lambda a: divergence(a) - epsilon, 0.0, most, xtol=1e-9))
            return (q + alpha * old) / (1 + alpha), alpha
    raise InputError(f"no step keeps a divergence of {epsilon:g}: it must be positive")
