"""Policies to hold MEG-CVPO against, as tables [S, A]: rules, and the best that observes a part of the state (`cvpo/tabular.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from megen.control.cmdp import CMDP, evaluate
from megen.control.cvpo import tabular
from megen.errors import InputError

Array = NDArray[np.float64]
ROUNDS = 150  # of exact policy iterations
LAST_SHARE = 0.02
TOLERANCE = 1e-3  # of a cost over its limit, relative
OBSERVED = {
    "backlog-blind": ("channel", "prompt", "phase"),
    "channel-blind": ("prompt", "phase", "backlog"),
    "fixed-mixture": (),
}


def random(cmdp: CMDP) -> Array:
    """Every decision alike."""
    return np.full((cmdp.states, cmdp.actions), 1 / cmdp.actions)


def fixed(cmdp: CMDP, decision: int) -> Array:
    """One decision always. Errors: InputError on a number that is none."""
    if not 0 <= decision < cmdp.actions:
        raise InputError(f"decisions are numbers from 0 to {cmdp.actions - 1}, got {decision}")
    return np.tile(np.eye(cmdp.actions)[decision], (cmdp.states, 1))


def best_fixed(cmdp: CMDP) -> tuple[Array, int]:
    """The one decision of most reward among those that keep the limits, or of least excess where none does."""
    ranks = []
    for a in range(cmdp.actions):
        evaluation = evaluate(cmdp, fixed(cmdp, a))
        excess = float(max(evaluation.costs / cmdp.limits - 1, default=-1.0))
        ranks.append((excess <= 0, evaluation.reward if excess <= 0 else -excess, a))
    best = max(ranks)[2]
    return fixed(cmdp, best), best


def greedy(cmdp: CMDP) -> Array:
    """Per slot: the decision of most reward whose own expected costs keep the limits, or the one of least first cost where none does."""
    feasible: NDArray[np.bool_] = np.all(cmdp.costs <= cmdp.limits[:, None, None], axis=0)
    best = np.where(feasible, cmdp.rewards, -np.inf).argmax(1)
    least = cmdp.costs[0].argmin(1) if len(cmdp.costs) else best
    out: Array = np.eye(cmdp.actions)[np.where(feasible.any(1), best, least)]
    return out


def blind(cmdp: CMDP, observed: Sequence[str]) -> Array:
    """The best policy found that observes the named axes alone."""
    return tabular.run(cmdp, ROUNDS, observed=observed, last_share=LAST_SHARE)[0]


def myopic(cmdp: CMDP) -> Array:
    """Sees all, foresees nothing: this request's reward less its own costs, at multipliers that keep the limits in the long run.

    Multipliers by dual ascent on the exact long-run costs, with steps that fall; decisions by a soft maximum that hardens. The
    last policy that keeps the limits is taken, or the one of least excess: where a request is late whatever is decided, this
    policy makes it good and slow, and no multiplier keeps it from that.
    """
    relative = cmdp.costs / cmdp.limits[:, None, None]
    multipliers, best, least = np.ones(len(cmdp.limits)), random(cmdp), np.inf
    for i in range(ROUNDS):
        lagrangian = cmdp.rewards / cmdp.reward_scale - np.tensordot(multipliers, relative, 1)
        policy = softmax(lagrangian / (0.3 * (1 - i / ROUNDS) + 0.003), axis=1)
        excess = evaluate(cmdp, policy).costs / cmdp.limits - 1
        largest = max(TOLERANCE, *excess.tolist())
        if largest <= least:
            best, least = policy, largest
        multipliers = np.maximum(multipliers + 2 * (1 - i / ROUNDS) * np.clip(excess, -0.5, 0.5), 0.0)
    return best
