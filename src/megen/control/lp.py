"""The exact optimum of the discrete CMDP: a linear program over discounted occupancy measures (Altman 1999), by HiGHS.

max sum x(s, a) r(s, a)   subject to   sum x c_k <= d_k,   x >= 0,   and the flow of probability. What reaches the
next state factors into the channel's, the prompts', the phases' and the backlog's transitions, so the flow goes
through y(c, f, w'), the probability of channel and phase of a request and the backlog that it leaves:
y(c, f, w') = sum_{p, w, a} x(c, p, f, w, a) B(w' | c, p, f, a, w),
sum_a x(c', p', f', w', a) = (1 - gamma) start(s') + gamma q(p') sum_{c, f} P(c' | c) P(f' | f) y(c, f, w').
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog, minimize_scalar

from megen.control.kernel import COSTS, Kernel, evaluate

Array = NDArray[np.float64]


class InfeasibleError(ValueError):
    """Limits that no policy meets."""


@dataclass(frozen=True)
class Optimum:
    """The best policy [S, A], its discounted mean reward and costs, and the price of each limit (reward per unit of cost)."""

    policy: Array
    reward: float
    costs: Array
    prices: Array
    occupancy: Array  # [S, A]


def solve(kernel: Kernel, constrained: bool = True) -> Optimum:
    """The optimum; without limits where `constrained` is False.

    Errors: InfeasibleError as `check`.
    """
    if constrained:
        check(kernel)
    flow, start = _flow(kernel)
    n, y = kernel.states * kernel.actions, flow.shape[1] - kernel.states * kernel.actions
    bounded = np.hstack([kernel.costs.reshape(COSTS, n), np.zeros((COSTS, y))])
    scale = 1 / np.maximum(np.abs(kernel.limits), 1e-9)  # costs of unlike units side by side
    found = linprog(
        np.append(-kernel.rewards.ravel(), np.zeros(y)),
        A_ub=sparse.csr_matrix(bounded * scale[:, None]) if constrained else None,
        b_ub=kernel.limits * scale if constrained else None,
        A_eq=flow,
        b_eq=start,
        method="highs",
    )
    if found.status == 2:
        raise InfeasibleError(f"no policy keeps the limits: {_nearest(kernel)}")
    if not found.success:
        raise RuntimeError(f"the linear program was not solved: {found.message}")
    x = np.maximum(found.x[:n], 0).reshape(kernel.states, kernel.actions)
    total = x.sum(1, keepdims=True)
    safest = np.eye(kernel.actions)[kernel.costs[0].argmin(1)]  # for states that are never reached
    policy = np.where(total > 1e-12, x / np.maximum(total, 1e-300), safest)
    prices = -found.ineqlin.marginals * scale if constrained else np.zeros(COSTS)
    return Optimum(policy, float((x * kernel.rewards).sum()), np.array([(x * c).sum() for c in kernel.costs]), prices, x)


def check(kernel: Kernel) -> None:
    """Refuse limits that no policy keeps, in seconds and without the linear program.

    By duality they can be kept unless for some share w the least of w c_1 / d_1 + (1 - w) c_2 / d_2 over all policies is above one.
    Errors: InfeasibleError, naming the least of each cost that is too high, or of the second while the first limit is kept; ValueError
    on a limit that is not positive.
    """
    if not (kernel.limits > 0).all():
        raise ValueError(f"every limit must be positive, got {', '.join(f'{v:g}' for v in kernel.limits)}")

    def least(w: float) -> float:
        return _least(kernel, np.array([w, 1 - w]) / kernel.limits)

    if max(least(0.0), least(1.0), -minimize_scalar(lambda w: -least(w), bounds=(0, 1), method="bounded").fun) > 1 + 1e-6:
        raise InfeasibleError(f"no policy keeps the limits: {_nearest(kernel)}")


def least_cost(kernel: Kernel, which: int) -> float:
    """The least that one cost can be, the other one free."""
    return _least(kernel, np.eye(COSTS)[which])


def _least(kernel: Kernel, weights: Array) -> float:
    """The least of a weighted sum of the discounted mean costs, by policy iteration."""
    table = np.tensordot(weights, kernel.costs, 1)
    chosen, before = table.argmin(1), np.inf
    while True:
        got = evaluate(kernel, np.eye(kernel.actions)[chosen])
        values = weights @ got.cost_values
        if values.sum() > before * (1 - 1e-12):  # no state's value falls any more
            return float(weights @ got.costs)
        before = values.sum()
        chosen = (table + kernel.gamma * kernel.onward(values)).argmin(1)


def _nearest(kernel: Kernel) -> str:
    """Which limit must give way, and how far: the least of each cost, and of energy while the late limit is kept."""
    told = []
    for k, name in enumerate(kernel.cost_names):
        least = least_cost(kernel, k)
        if least > kernel.limits[k]:
            told.append(f"{name} can be no less than {least:.4g}, the limit is {kernel.limits[k]:.4g}")
    if told:
        return "; ".join(told)

    def bound(w: float) -> float:
        """A lower bound of the second cost while the first keeps its limit: the Lagrangian's least, at the price w / (1 - w)."""
        return float((_least(kernel, np.array([w, 1 - w]) / kernel.limits) - w) * kernel.limits[1] / (1 - w))

    most = -float(minimize_scalar(lambda w: -bound(w), bounds=(0, 1 - 1e-6), method="bounded", options={"xatol": 1e-7}).fun)
    first, second = kernel.cost_names
    return f"with {first} at {kernel.limits[0]:.4g}, {second} can be no less than {most:.4g}, the limit is {kernel.limits[1]:.4g}"


def _flow(kernel: Kernel) -> tuple[sparse.csr_matrix, Array]:
    """The equalities of x and y: [W C F + S, S A + W C F], and their right-hand side."""
    c, p, f, w = kernel.shape
    a, s = kernel.actions, kernel.states
    ci, pi, fi, ai, wi, vi = np.nonzero(kernel.backlog)
    state = ((ci * p + pi) * f + fi) * w + wi
    after = (ci * f + fi) * w + vi
    leave = sparse.csr_matrix((kernel.backlog[ci, pi, fi, ai, wi, vi], (after, state * a + ai)), (c * f * w, s * a))
    arrive = np.einsum("cd,q,fg->dqgcf", kernel.channel, kernel.prompts, kernel.phases).reshape(c * p * f, c * f)
    arrive = sparse.kron(sparse.csr_matrix(arrive), sparse.identity(w), format="csr")  # same backlog on both sides
    taken = sparse.kron(sparse.identity(s), np.ones((1, a)), format="csr")
    rows = sparse.bmat([[leave, -sparse.identity(c * f * w)], [taken, -kernel.gamma * arrive]], format="csr")
    return rows, np.append(np.zeros(c * f * w), (1 - kernel.gamma) * kernel.stationary)
