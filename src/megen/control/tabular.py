"""MEG-CVPO on exact tables: what the learner would do with perfect critics, for checks and ablations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control import estep
from megen.control.estep import Duals
from megen.control.kernel import Evaluation, Kernel, evaluate

Array = NDArray[np.float64]
FORMS = ("advantage", "value")


@dataclass(frozen=True)
class Iterate:
    """One iteration: the policy that was evaluated, what it earns and costs, and the duals of the E-step that followed."""

    reward: float
    costs: Array
    duals: Duals


def bounds_of(form: str, kernel: Kernel, got: Evaluation, horizon: int) -> Array:
    """What E_s E_q Q_ck may be at most.

    "advantage", the corrected per-step form: E_dpi E_q A_ck <= d_k - J_ck, d_pi the discounted occupancy, J_ck normalised by 1 - gamma.
    "value", the paper's: Q_ck against the limit of `horizon` steps, T d_k (1 - gamma^T) / ((1 - gamma) T).
    """
    if form == "advantage":
        return np.asarray(kernel.limits - got.costs + got.cost_values @ got.occupancy)
    if form == "value":
        return np.asarray(kernel.limits * (1 - kernel.gamma**horizon) / (1 - kernel.gamma))
    raise ValueError(f"the constraint's form must be one of {', '.join(FORMS)}, got {form!r}")


def run(
    kernel: Kernel, iterations: int, epsilon: float = 0.1, m_epsilon: float = 0.1, form: str = "advantage", horizon: int = 200
) -> tuple[Array, list[Iterate]]:
    """Iterate E- and M-step with exact critics from the uniform policy; returns the last policy [S, A] and the way there."""
    policy = np.full((kernel.states, kernel.actions), 1 / kernel.actions)
    duals, way = Duals(1.0, np.zeros(len(kernel.limits))), []
    for _ in range(iterations):
        got = evaluate(kernel, policy)
        reward_q = kernel.rewards + kernel.gamma * kernel.onward(got.reward_values)
        cost_q = np.stack([c + kernel.gamma * kernel.onward(v) for c, v in zip(kernel.costs, got.cost_values, strict=True)])
        log_old = np.log(np.maximum(policy, 1e-12))
        weight = got.occupancy / got.occupancy.sum()
        duals = estep.solve_dual(duals, log_old, reward_q, cost_q, weight, epsilon, bounds_of(form, kernel, got, horizon))
        way.append(Iterate(got.reward, got.costs, duals))
        policy, _ = estep.mixed(estep.improved(duals, log_old, reward_q, cost_q), policy, weight, m_epsilon)
    return policy, way
