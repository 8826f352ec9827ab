"""Policies to hold MEG-CVPO against, as tables [S, A]: rules, and the best that sees a part of the state (`tabular.run`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from megen.control import tabular
from megen.control.kernel import COSTS, Kernel, evaluate

Array = NDArray[np.float64]
ROUNDS = 150  # of exact policy iterations
LAST_SHARE = 0.02
TOLERANCE = 1e-3  # of a cost over its limit, relative
BLIND = {
    "backlog-blind": ("channel", "prompt", "phase"),
    "channel-blind": ("prompt", "phase", "backlog"),
    "fixed-mixture": (),
}


def random(kernel: Kernel) -> Array:
    """Every decision alike."""
    return np.full((kernel.states, kernel.actions), 1 / kernel.actions)


def fixed(kernel: Kernel, decision: int) -> Array:
    """One decision always. Errors: ValueError on a number that is none."""
    if not 0 <= decision < kernel.actions:
        raise ValueError(f"decisions are numbers from 0 to {kernel.actions - 1}, got {decision}")
    return np.tile(np.eye(kernel.actions)[decision], (kernel.states, 1))


def best_fixed(kernel: Kernel) -> tuple[Array, int]:
    """The one decision of most reward among those that keep the limits, or of least excess where none does."""
    found = []
    for a in range(kernel.actions):
        got = evaluate(kernel, fixed(kernel, a))
        excess = float((got.costs / kernel.limits - 1).max())
        found.append((excess <= 0, got.reward if excess <= 0 else -excess, a))
    best = max(found)[2]
    return fixed(kernel, best), best


def greedy(kernel: Kernel) -> Array:
    """Per slot: the decision of most reward whose own expected costs keep the limits, or the one least late where none does."""
    keeps: NDArray[np.bool_] = np.all(kernel.costs <= kernel.limits[:, None, None], axis=0)
    best = np.where(keeps, kernel.rewards, -np.inf).argmax(1)
    least = kernel.costs[0].argmin(1)
    out: Array = np.eye(kernel.actions)[np.where(keeps.any(1), best, least)]
    return out


def blind(kernel: Kernel, sees: Sequence[str]) -> Array:
    """The best policy found that sees the named axes alone."""
    return tabular.run(kernel, ROUNDS, sees=sees, last_share=LAST_SHARE)[0]


def myopic(kernel: Kernel) -> Array:
    """Sees all, foresees nothing: what this request earns less its own priced costs, at prices that keep the limits in the long run.

    Prices by dual ascent on the exact long-run costs, with steps that fall; decisions by a soft maximum that hardens. The
    last policy that keeps the limits is taken, or the one of least excess: where a request is late whatever is decided, this
    policy makes it good and slow, and no price keeps it from that.
    """
    unit = kernel.reward_unit
    relative = kernel.costs / kernel.limits[:, None, None]
    prices, kept, least = np.ones(COSTS), random(kernel), np.inf
    for i in range(ROUNDS):
        policy = softmax((kernel.rewards / unit - np.tensordot(prices, relative, 1)) / (0.3 * (1 - i / ROUNDS) + 0.003), axis=1)
        excess = evaluate(kernel, policy).costs / kernel.limits - 1
        if max(excess.max(), TOLERANCE) <= least:
            kept, least = policy, max(float(excess.max()), TOLERANCE)
        prices = np.maximum(prices + 2 * (1 - i / ROUNDS) * np.clip(excess, -0.5, 0.5), 0.0)
    return kept
