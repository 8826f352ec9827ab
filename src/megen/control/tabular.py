"""MEG-CVPO on exact tables: what the learner would do with perfect critics, for checks and ablations.

With `sees` the policy knows a part of the state only: states that look alike share one row, whose critics are the mean
over them by occupancy (the natural policy gradient of shared softmax logits). What it reaches is a local optimum, and
the yardstick for every backlog-blind, channel-blind or fixed choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control import estep
from megen.control.estep import Duals
from megen.control.kernel import Evaluation, Kernel, evaluate

Array = NDArray[np.float64]
FORMS = ("advantage", "value")
AXES = ("channel", "prompt", "phase", "backlog")


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


def looks(kernel: Kernel, sees: Sequence[str]) -> NDArray[np.int64]:
    """The number of what a policy sees in each state [S]. Errors: ValueError on an axis that is not one of `AXES`."""
    if unknown := set(sees) - set(AXES):
        raise ValueError(f"a policy may see {', '.join(AXES)}, got {', '.join(sorted(unknown))}")
    places = np.unravel_index(np.arange(kernel.states), kernel.shape)
    shape = tuple(n if axis in sees else 1 for axis, n in zip(AXES, kernel.shape, strict=True))
    return np.ravel_multi_index(tuple(p if n > 1 else np.zeros_like(p) for p, n in zip(places, shape, strict=True)), shape)


def run(
    kernel: Kernel,
    iterations: int,
    epsilon: float = 0.1,
    m_epsilon: float = 0.1,
    form: str = "advantage",
    horizon: int = 200,
    sees: Sequence[str] = AXES,
    last_share: float = 1.0,
) -> tuple[Array, list[Iterate]]:
    """Iterate E- and M-step with exact critics from the uniform policy; returns the last policy [S, A] and the way there.

    The KL bounds fall linearly to `last_share` of themselves: a policy that sees a part only would go around its optimum.
    """
    look = looks(kernel, sees)
    kinds = int(look.max()) + 1
    policy = np.full((kinds, kernel.actions), 1 / kernel.actions)
    duals, way = Duals(1.0, np.zeros(len(kernel.limits))), []
    for i in range(iterations):
        left = 1 - (1 - last_share) * i / max(1, iterations - 1)
        got = evaluate(kernel, policy[look])
        weight = np.bincount(look, got.occupancy, kinds) / got.occupancy.sum()
        within = got.occupancy / got.occupancy.sum() / np.maximum(weight, 1e-300)[look]

        def seen(table: Array, within: Array = within) -> Array:
            total = np.zeros((kinds, kernel.actions))
            np.add.at(total, look, within[:, None] * table)
            return total

        reward_q = seen(kernel.rewards + kernel.gamma * kernel.onward(got.reward_values))
        cost_q = np.stack([seen(c + kernel.gamma * kernel.onward(v)) for c, v in zip(kernel.costs, got.cost_values, strict=True)])
        log_old = np.log(np.maximum(policy, 1e-12))
        bounds = bounds_of(form, kernel, got, horizon)
        duals = estep.solve_dual(duals, log_old, reward_q, cost_q, weight, left * epsilon, bounds)
        way.append(Iterate(got.reward, got.costs, duals))
        policy, _ = estep.mixed(estep.improved(duals, log_old, reward_q, cost_q), policy, weight, left * m_epsilon)
    return policy[look], way
