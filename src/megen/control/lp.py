"""The exact optimum: the linear program over discounted occupancy measures (Altman 1999), by column generation.

max sum x(s, a) r(s, a)   subject to   sum x c_k <= d_k   over the occupancies x of all policies.

Every x is a mixture of deterministic policies' (the vertices), so a master program of K + 1 rows mixes the vertices that are
known, and policy iteration on r - sum_k lambda_k c_k, with the master's multipliers lambda, finds the next one or proves that there is
none (Dantzig and Wolfe 1960). Whether the limits can be kept at all is the same with a game as its master: they can, unless
some weights w on the simplex make the least of sum_k w_k c_k / d_k over all policies greater than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, linprog

from megen.control.cmdp import CMDP
from megen.control.markov import EXACT, ILL
from megen.errors import InputError, RunError

Array = NDArray[np.float64]
POLICY_ROUNDS = 1000  # of policy iteration, which takes some five
VERTICES = 500  # of which a program takes some ten
ABOVE_LEAST = 0.02  # how far above the least of a cost a limit is put that cannot be kept
TOLERANCE = 1e-6  # of a limit, relative
TOWARDS_CENTRE = 0.5  # how far multipliers are drawn to the best ones so far, which halves the rounds (Wentges 1997)
GAP = 1e-9  # between the master's value and its bound, relative
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


class InfeasibleError(InputError):
    """Limits that no policy meets."""


@dataclass(frozen=True)
class Optimum:
    """The best policy [S, A], its mean reward and costs [K], and the multiplier of each limit (reward per unit of cost).

    No policy that keeps the limits has a greater mean reward than `bound`.
    """

    policy: Array
    reward: float
    bound: float
    costs: Array
    multipliers: Array
    occupancy: Array  # [S, A]


@dataclass(frozen=True)
class _Vertex:
    """A deterministic policy: its decisions [S], means of reward and costs [1 + K], and occupancy [S]."""

    decisions: NDArray[np.int64]
    means: Array
    occupancy: Array
    slack: float  # no policy's weighted mean is greater by more


def solve(cmdp: CMDP, constrained: bool = True, gap: float = GAP) -> Optimum:
    """The optimum, to a relative `gap` of its reward; without limits where `constrained` is False.

    Errors: InfeasibleError and InputError as `check`.
    """
    count = len(cmdp.limits)
    known = check(cmdp, gap) if constrained else []
    vertices, mixture, multipliers, bound = _maximise(cmdp, np.eye(1 + count)[0], range(count if constrained else 0), known, gap)
    occupancy = np.zeros((cmdp.states, cmdp.actions))
    for vertex, weight in zip(vertices, mixture, strict=True):
        occupancy[np.arange(cmdp.states), vertex.decisions] += weight * vertex.occupancy
    total = occupancy.sum(1, keepdims=True)
    unreached = np.eye(cmdp.actions)[vertices[-1].decisions]
    policy = np.where(total > 1e-12, occupancy / np.maximum(total, 1e-300), unreached)
    means = mixture @ np.array([v.means for v in vertices])
    every = np.zeros(count)
    every[: len(multipliers)] = multipliers
    return Optimum(policy, float(means[0]), bound, means[1:], every, occupancy)


def check(cmdp: CMDP, gap: float = GAP) -> list[_Vertex]:
    """Refuse limits that no policy keeps; limits that do not bind are seen at once. Returns policies that mix to one that keeps them.

    Errors: InfeasibleError, naming the least of each cost that is too high, or of the last while the others keep their limits;
    ValueError on a limit that is not positive.
    """
    if not (cmdp.limits > 0).all():
        raise InputError(f"every limit must be positive, got {', '.join(f'{v:g}' for v in cmdp.limits)}")
    ratio, vertices = _least_ratio(cmdp, range(len(cmdp.limits)), gap)
    if ratio > 1 + TOLERANCE:
        raise InfeasibleError(f"no policy keeps the limits: {_nearest(cmdp, ratio)}")
    return vertices


def nearest_limits(cmdp: CMDP, gap: float = GAP) -> Array:
    """Limits [K] that can be kept: each that is below the least of its cost is put a little above it, and then all give way together."""
    least = np.array([least_cost(cmdp, name) for name in cmdp.cost_names])
    limits: Array = np.maximum(cmdp.limits, least * (1 + ABOVE_LEAST))
    ratio, _ = _least_ratio(with_limits(cmdp, limits), range(len(limits)), gap)
    return limits * max(1.0, ratio * (1 + ABOVE_LEAST))


def with_limits(cmdp: CMDP, limits: Array) -> CMDP:
    """The same tables under other limits [K], without working them out again."""
    other = replace(cmdp, limits=limits)
    tables = ("backlog_transitions", "costs", "rewards", "mixing", "start")
    vars(other).update({name: vars(cmdp)[name] for name in tables if name in vars(cmdp)})
    return other


def least_cost(cmdp: CMDP, name: str) -> float:
    """The least that one cost can be, the others free."""
    k = 1 + cmdp.cost_names.index(name)
    return float(_best_response(cmdp, -np.eye(1 + len(cmdp.limits))[k]).means[k])


def _best_response(cmdp: CMDP, weights: Array, start: NDArray[np.int64] | None = None, gap: float = GAP) -> _Vertex:
    """The deterministic policy of most sum of weights [1 + K] by reward and costs, by policy iteration.

    A decision changes only where it gains more than `gap` / 10 of the mean. Errors: RunError at the cap.
    """
    c, _, f, w = cmdp.shape
    tables = np.stack([cmdp.rewards, *cmdp.costs])
    table, rows, values = np.tensordot(weights, tables, 1), np.arange(cmdp.states), None
    decisions = table.argmax(1) if start is None else start
    accuracy = max(1e-3 * gap, EXACT)
    for _ in range(POLICY_ROUNDS):
        chain = cmdp.chain(cmdp.transition_of(decisions))
        values = chain.values(cmdp.over_prompts(table[rows, decisions]).ravel(), values, accuracy)
        action_values = table + cmdp.gamma * cmdp.expected_after(values.reshape(c, f, w))
        best = action_values.argmax(1)
        slack = gap / 10 * abs(chain.mean_of(values))
        rounding = 1e-11 * float(np.abs(action_values).max())
        better = action_values[rows, best] - action_values[rows, decisions] > max(slack, rounding)
        if not better.any():
            occupancy = cmdp.occupancy(chain)
            return _Vertex(decisions, tables[:, rows, decisions] @ occupancy, occupancy, slack)
        decisions = np.where(better, best, decisions)
    raise RunError(f"policy iteration did not end in {POLICY_ROUNDS} rounds: {ILL}")


def _least_ratio(cmdp: CMDP, bounded: Sequence[int], gap: float = GAP) -> tuple[float, list[_Vertex]]:
    """The least of max_k c_k / d_k over all policies and the costs `bounded`, and vertices that mix to it.

    It ends as soon as the ratio is known to be 1 at most (the limits are kept). Errors: RunError at the cap.
    """
    if not len(bounded):
        return 0.0, []
    limits, rows = cmdp.limits[list(bounded)], 1 + np.array(bounded)
    weights, vertices, most = np.full(len(rows), 1 / len(rows)), list[_Vertex](), 0.0
    for _ in range(VERTICES):
        signed = np.zeros(1 + len(cmdp.limits))
        signed[rows] = -weights / limits
        vertices.append(_best_response(cmdp, signed, vertices[-1].decisions if vertices else None, gap))
        most = max(most, float(-signed @ vertices[-1].means) - vertices[-1].slack)  # no policy has a lower ratio than this
        ratios = np.array([v.means[rows] for v in vertices]).T / limits[:, None]  # [K, n]
        ratio, weights = _game(ratios)
        if ratio <= 1 or ratio - most <= gap * ratio:
            return ratio, vertices
    raise RunError(f"whether the limits can be kept is not settled after {VERTICES} policies: between {most:.9g} and {ratio:.9g} of them")


def _game(ratios: Array) -> tuple[float, Array]:
    """The least, over mixtures of the columns of [K, n], of the largest row; and the weights [K] that prove it."""
    k, n = ratios.shape
    result = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.hstack([ratios, -np.ones((k, 1))]),
        b_ub=np.zeros(k),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs",
        options=TIGHT,
    )
    if not result.success:
        raise RunError(f"the linear program was not solved: {result.message}")
    weights = np.maximum(-result.ineqlin.marginals, 0)
    return float(result.fun), weights / weights.sum()


def _maximise(
    cmdp: CMDP, objective: Array, bounded: Sequence[int], known: Sequence[_Vertex] = (), gap: float = GAP
) -> tuple[list[_Vertex], Array, Array, float]:
    """Vertices and their mixture [n] that maximise the objective [1 + K] while the costs `bounded` keep their limits; multipliers; bound.

    `known` vertices mix to a policy that keeps them, where there are any. Errors: InfeasibleError, RunError at the cap.
    """
    if not len(bounded):
        best = _best_response(cmdp, objective, gap=gap)
        return [best], np.ones(1), np.zeros(0), float(objective @ best.means) + best.slack
    limits, rows, most = cmdp.limits[list(bounded)], 1 + np.array(bounded), np.inf
    vertices = list(known) or _least_ratio(cmdp, bounded)[1]
    ratio, _ = _game(np.array([v.means[rows] for v in vertices]).T / limits[:, None])
    if ratio > 1 + TOLERANCE:
        raise InfeasibleError("no policy keeps the limits")
    allowed = max(1.0, ratio * (1 + GAP))
    centre = np.zeros(len(rows))  # the multipliers of the least bound so far
    for _ in range(VERTICES):
        means = np.array([v.means for v in vertices]).T
        result = _master(-objective @ means, means[rows] / limits[:, None], allowed)
        multipliers, value = np.maximum(-result.ineqlin.marginals, 0) / limits, -float(result.fun)
        for share in (TOWARDS_CENTRE, 0.0):
            priced = share * centre + (1 - share) * multipliers
            vertex = _best_response(cmdp, _signed(objective, rows, priced), vertices[-1].decisions, gap)
            bound = float(_signed(objective, rows, priced) @ vertex.means + allowed * priced @ limits) + vertex.slack  # by duality
            if bound < most:
                most, centre = bound, priced
            vertices.append(vertex)
            if most - value <= gap * max(1.0, abs(value)):
                return vertices, np.append(np.maximum(result.x, 0), np.zeros(len(vertices) - len(result.x))), multipliers, most
            if _signed(objective, rows, multipliers) @ vertex.means + allowed * multipliers @ limits > value + gap * max(1.0, abs(value)):
                break  # the master's mixture changes with it
    raise RunError(f"the linear program was not solved with {VERTICES} policies: between {value:.9g} and {most:.9g}")


def _signed(objective: Array, rows: NDArray[np.int64], multipliers: Array) -> Array:
    """The objective [1 + K] less the multipliers of the costs `rows`."""
    out = objective.copy()
    out[rows] -= multipliers
    return out


def _master(loss: Array, ratios: Array, allowed: float) -> OptimizeResult:
    """The mixture of least loss [n] whose costs by their limits [K, n] are `allowed` at most. Errors: RunError."""
    result = linprog(
        loss,
        A_ub=ratios,
        b_ub=np.full(len(ratios), allowed),
        A_eq=np.ones((1, len(loss))),
        b_eq=[1.0],
        method="highs",
        options=TIGHT,
    )
    if not result.success:
        raise RunError(f"the linear program was not solved: {result.message}")
    return result


def _nearest(cmdp: CMDP, ratio: float) -> str:
    """Which limit must give way, and how far: the least of each cost, or of one while the others keep their limits, or of all alike."""
    least = {name: least_cost(cmdp, name) for name in cmdp.cost_names}
    limits = cmdp.named(cmdp.limits)
    if alone := [f"{n} can be no less than {v:.4g}, the limit is {limits[n]:.4g}" for n, v in least.items() if v > limits[n]]:
        return "; ".join(alone)
    for k in reversed(range(len(limits))):
        others = [i for i in range(len(limits)) if i != k]
        try:
            vertices, mixture, _, _ = _maximise(cmdp, -np.eye(1 + len(limits))[1 + k], others)
        except InfeasibleError:
            continue
        name, cost = cmdp.cost_names[k], float(mixture @ [v.means[1 + k] for v in vertices])
        held = ", ".join(f"{cmdp.cost_names[i]} at {cmdp.limits[i]:.4g}" for i in others)
        return f"with {held}, {name} can be no less than {cost:.4g}, the limit is {limits[name]:.4g}"
    return f"together the limits can be kept from {ratio:.4g} times their values on"
