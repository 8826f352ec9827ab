"""MEG-CVPO on exact tables: what the learner would do with perfect critics, for checks and ablations.

With `observed` the policy knows some axes of the state only: states that look alike share one row, whose critics are the mean
over them by occupancy (the natural policy gradient of shared softmax logits). What it reaches is a local optimum, and
the yardstick for every backlog-blind, channel-blind or fixed choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control.cmdp import AXES, CMDP, Evaluation, evaluate
from megen.control.cvpo.e_step import Duals, e_step_policy, solve_dual
from megen.control.cvpo.m_step import m_step_policy
from megen.control.features import observation_index
from megen.errors import InputError

Array = NDArray[np.float64]
FORMS = ("advantage", "value")


@dataclass(frozen=True)
class Iterate:
    """One iteration: the policy that was evaluated, what it earns and costs, and the duals of the E-step that followed."""

    reward: float
    costs: Array
    duals: Duals


def bounds_of(form: str, cmdp: CMDP, evaluation: Evaluation, horizon: int) -> Array:
    """What E_s E_q Q_ck may be at most [K].

    "advantage", the corrected per-step form: E_dpi E_q A_ck <= d_k - J_ck, d_pi the discounted occupancy, J_ck normalised by 1 - gamma.
    "value", the paper's: Q_ck against the limit of `horizon` steps, T d_k (1 - gamma^T) / ((1 - gamma) T).
    """
    if form == "advantage":
        return np.asarray(cmdp.limits - evaluation.costs + evaluation.cost_values @ evaluation.occupancy)
    if form == "value":
        return np.asarray(cmdp.limits * (1 - cmdp.gamma**horizon) / (1 - cmdp.gamma))
    raise InputError(f"the constraint's form must be one of {', '.join(FORMS)}, got {form!r}")


def run(
    cmdp: CMDP,
    iterations: int,
    *,
    epsilon: float = 0.1,
    m_epsilon: float = 0.1,
    form: str = "advantage",
    horizon: int = 200,
    observed: Sequence[str] = AXES,
    last_share: float = 1.0,
) -> tuple[Array, list[Iterate]]:
    """Iterate E- and M-step with exact critics from the uniform policy; returns the last policy [S, A] and the way there.

    The KL bounds fall linearly to `last_share` of themselves: a policy that sees a part only would go around its optimum.
    """
    index = observation_index(cmdp, observed)
    count = int(index.max()) + 1
    policy = np.full((count, cmdp.actions), 1 / cmdp.actions)
    duals, iterates = Duals(1.0, np.zeros(len(cmdp.limits))), []
    for i in range(iterations):
        left = 1 - (1 - last_share) * i / max(1, iterations - 1)
        evaluation = evaluate(cmdp, policy[index])
        weight = np.bincount(index, evaluation.occupancy, count) / evaluation.occupancy.sum()
        within = evaluation.occupancy / evaluation.occupancy.sum() / np.maximum(weight, 1e-300)[index]

        def observed_mean(table: Array, within: Array = within) -> Array:
            total = np.zeros((count, cmdp.actions))
            np.add.at(total, index, within[:, None] * table)
            return total

        signals = zip((cmdp.rewards, *cmdp.costs), (evaluation.reward_values, *evaluation.cost_values), strict=True)
        critics = np.stack([observed_mean(table + cmdp.gamma * cmdp.expected_next_value(values)) for table, values in signals])
        reward_q, cost_q = critics[0], critics[1:]
        log_old = np.log(np.maximum(policy, 1e-12))
        bounds = bounds_of(form, cmdp, evaluation, horizon)
        duals = solve_dual(duals, log_old, reward_q, cost_q, weight, left * epsilon, bounds)
        iterates.append(Iterate(evaluation.reward, evaluation.costs, duals))
        policy, _ = m_step_policy(e_step_policy(duals, log_old, reward_q, cost_q), policy, weight, left * m_epsilon)
    return policy[index], iterates
