"""A shield for single requests: of a policy's choice, the best decision that misses the deadline with probability alpha at most.

Split conformal prediction (Vovk et al. 2005): on held-out requests the score is what a request's service took beyond its
prediction; the margin is its ceil((n + 1)(1 - alpha))-th smallest of n. A decision is let through where backlog, predicted service and
margin end before the deadline. Scores are kept apart by SNR class, prompt class and decision, as a policy chooses by them: the
promise holds within each, for requests that find a backlog that leaves them a decision, in the mean over held-out sets of that size.
Held out is one transmission of each prompt of half of the quality grid (of any number of steps); the other half tests the promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control.cmdp import CMDP, evaluate
from megen.errors import InputError

Array = NDArray[np.float64]
REQUESTS = 256  # where there are no measured ones


@dataclass(frozen=True)
class Shield:
    """Predicted service and decoding, and the margin on it, in s."""

    predicted_s: Array  # [C, P, A]
    margin_s: Array  # [C, P, A]
    alpha: float


def margin(scores: Array, alpha: float) -> Array:
    """The split-conformal quantile of the last axis of scores [..., n]. Errors: InputError where alpha is not in [1 / (n + 1), 1)."""
    count = scores.shape[-1]
    if not 1 / (count + 1) <= alpha < 1:
        least = f"[1/{count + 1}, 1) with {count} held-out requests"
        raise InputError(f"alpha must lie in {least}, got {alpha:g}: for less, measure a quality grid of more prompts")
    rank = math.ceil((count + 1) * (1 - alpha) - 1e-9)
    out: Array = np.sort(scores, -1)[..., rank - 1]
    return out


def calibrate(cmdp: CMDP, alpha: float) -> Shield:
    """A shield from the held-out requests of every SNR class, prompt class and decision. Errors: InputError as `margin`."""
    return Shield(cmdp.service_s.mean(-1) + cmdp.decodings_s, margin(_scores(cmdp, 0), alpha), alpha)


def _scores(cmdp: CMDP, half: int) -> Array:
    """What held-out services took beyond the prediction [C, P, A, n]; of a CMDP without them its equiprobable values, repeated."""
    if cmdp.deviation_s is not None:
        held_out: Array = cmdp.deviation_s[half]
        return held_out
    deviations = cmdp.service_s - cmdp.service_s.mean(-1, keepdims=True)
    return np.tile(deviations, math.ceil(REQUESTS / deviations.shape[-1]))


def allowed(cmdp: CMDP, shield: Shield) -> NDArray[np.bool_]:
    """Which decisions the shield lets through in each state [S, A]."""
    service_s = shield.predicted_s + shield.margin_s
    passed = cmdp.backlog_s[:, None] + service_s[:, :, None] <= cmdp.deadlines_s[:, None, None]  # [C, P, W, A]
    return cmdp.of_states(passed)


def shielded(cmdp: CMDP, policy: Array, shield: Shield) -> Array:
    """The policy [S, A] with what is not let through moved to the best decision that is, or to the soonest where none is."""
    passed = allowed(cmdp, shield)
    c, p, f, w = cmdp.shape
    soonest = np.broadcast_to(shield.predicted_s.argmin(-1)[:, :, None, None], (c, p, f, w)).reshape(-1)
    chosen = passed.any(1, keepdims=True)
    return within(policy, np.where(chosen, passed, np.eye(cmdp.actions, dtype=bool)[soonest]), cmdp.rewards)


def within(probabilities: Array, allowed: NDArray[np.bool_], rewards: Array) -> Array:
    """Probabilities [..., A] with what is not allowed moved to the allowed decision of most reward; one at least is allowed."""
    remaining = np.where(allowed, probabilities, 0.0)
    best = np.where(allowed, rewards, -np.inf).argmax(-1)
    out: Array = remaining + (1 - remaining.sum(-1, keepdims=True)) * np.eye(probabilities.shape[-1])[best]
    return out


def within_margin(cmdp: CMDP, shield: Shield) -> Array:
    """Share of services that end within their margin, by prompt class [P]: of the half it was not calibrated on, where there is one."""
    out: Array = (_scores(cmdp, 1) <= shield.margin_s[..., None]).mean((0, 2, 3))
    return out


def coverage(cmdp: CMDP, policy: Array, shield: Shield) -> tuple[float | None, float]:
    """Share of requests on time under a shielded policy [S, A], of those whose backlog leaves a decision (None where there
    are none); and their share of all. Exact, but for the services, which are the held-out ones that the shield was not calibrated on."""
    choice = allowed(cmdp, shield).any(1)
    weight = evaluate(cmdp, policy).occupancy * choice
    service_s = cmdp.service_s.mean(-1, keepdims=True) + _scores(cmdp, 1)
    latency_s = cmdp.backlog_s[:, None, None] + service_s[:, :, None] + cmdp.decodings_s[:, None]  # [C, P, W, A, H]
    on_time = (policy * cmdp.of_states((latency_s <= cmdp.deadlines_s[:, None, None, None]).mean(-1))).sum(1)
    reached = float(weight.sum())
    return (float(weight @ on_time) / reached if reached > 0 else None), reached
