"""A shield for single requests: of a policy's choice, the best decision that misses the deadline with probability alpha at most.

Split conformal prediction (Vovk et al. 2005): on held-out requests the score is what a request's service took beyond its
prediction; the margin is its ceil((n + 1)(1 - alpha))-th smallest of n. A decision is let through where backlog, predicted service and
margin end before the deadline. Scores are kept apart by SNR class, prompt class and decision, as a policy chooses by them: the
promise holds within each, for requests of the same process that find a backlog that leaves them a decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control.kernel import Kernel, evaluate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shield:
    """Predicted service and decoding, and the margin on it, in s."""

    predicted_s: Array  # [C, P, A]
    margin_s: Array  # [C, P, A]
    alpha: float


def margin(scores: Array, alpha: float) -> float:
    """The split-conformal quantile of scores [n]. Errors: ValueError where alpha is out of range or n too small for it."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    rank = math.ceil((len(scores) + 1) * (1 - alpha))
    if rank > len(scores):
        raise ValueError(f"{len(scores)} requests are too few for alpha {alpha:g}: take at least {math.ceil(1 / alpha) - 1}")
    return float(np.sort(scores)[rank - 1])


def calibrate(kernel: Kernel, requests: int, alpha: float, rng: np.random.Generator) -> Shield:
    """A shield from `requests` held-out requests of every SNR class, prompt class and decision. Errors: ValueError as `margin`."""
    predicted = kernel.service_s.mean(-1) + kernel.decode_s
    drawn = rng.integers(kernel.service_s.shape[-1], size=(*predicted.shape, requests))
    scores = np.take_along_axis(kernel.service_s, drawn, -1) + kernel.decode_s - predicted[..., None]
    margins = np.array([margin(row, alpha) for row in scores.reshape(-1, requests)])
    return Shield(predicted, margins.reshape(predicted.shape), alpha)


def allowed(kernel: Kernel, shield: Shield) -> NDArray[np.bool_]:
    """Which decisions the shield lets through in each state [S, A]."""
    c, p, f, w = kernel.shape
    service = shield.predicted_s + shield.margin_s
    ends = kernel.backlog_s[:, None] + service[:, :, None, None]  # [C, P, 1, W, A]
    return np.broadcast_to(ends <= kernel.deadline_s, (c, p, f, w, kernel.actions)).reshape(kernel.states, kernel.actions)


def shielded(kernel: Kernel, policy: Array, shield: Shield) -> Array:
    """The policy [S, A] with what is not let through moved to the best decision that is, or to the soonest where none is."""
    passed = allowed(kernel, shield)
    c, p, f, w = kernel.shape
    soonest = np.broadcast_to(shield.predicted_s.argmin(-1)[:, :, None, None], (c, p, f, w)).reshape(-1)
    chosen = passed.any(1, keepdims=True)
    return within(policy, np.where(chosen, passed, np.eye(kernel.actions, dtype=bool)[soonest]), kernel.rewards)


def within(shares: Array, allowed: NDArray[np.bool_], rewards: Array) -> Array:
    """Shares [..., A] with what is not allowed moved to the allowed decision of most reward; one at least is allowed."""
    kept = np.where(allowed, shares, 0.0)
    best = np.where(allowed, rewards, -np.inf).argmax(-1)
    out: Array = kept + (1 - kept.sum(-1, keepdims=True)) * np.eye(shares.shape[-1])[best]
    return out


def coverage(kernel: Kernel, policy: Array, shield: Shield) -> tuple[float | None, float]:
    """Share of requests on time under a shielded policy [S, A], of those whose backlog leaves a decision (None where there
    are none); and their share of all. Exact."""
    choice = allowed(kernel, shield).any(1)
    weight = evaluate(kernel, policy).occupancy * choice
    on_time = 1 - (policy * kernel.late).sum(1)
    reached = float(weight.sum())
    return (float(weight @ on_time) / reached if reached > 0 else None), reached
