"""How good a policy is: exact means, what single episodes do, and what the learning cost on the way.

Aggregates over training seeds are interquartile means with bootstrap intervals over seeds (Agarwal et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from megen.control import lp, shield
from megen.control.baselines import rules
from megen.control.cmdp import CMDP, evaluate
from megen.control.shield import Shield
from megen.control.simulator import Simulator, rollout
from megen.errors import InputError

Array = NDArray[np.float64]
RESAMPLES = 2000
QUANTILES = np.linspace(0, 1, 41)
RULES: dict[str, Callable[[CMDP], Array]] = {
    "unconstrained": lambda cmdp: lp.solve(cmdp, constrained=False).policy,
    "myopic": rules.myopic,
    **{name: partial(rules.blind, observed=axes) for name, axes in rules.OBSERVED.items()},
    "fixed": lambda cmdp: rules.best_fixed(cmdp)[0],
    "greedy": rules.greedy,
    "random": rules.random,
}


@dataclass(frozen=True)
class EpisodePlan:
    """How a policy's single episodes are drawn."""

    count: int
    horizon: int
    seed: int


@dataclass(frozen=True)
class Episodes:
    """Discounted means of single episodes: reward [n], costs [K, n]."""

    reward: Array
    costs: Array


def run_episodes(cmdp: CMDP, policy: Array, count: int, horizon: int, rng: np.random.Generator) -> Episodes:
    """Run a stochastic policy [S, A] for `count` episodes of `horizon` requests."""
    steps = rollout(Simulator(cmdp), policy, count, horizon, rng)
    weight = cmdp.gamma ** np.arange(horizon)
    weight /= weight.sum()
    return Episodes(weight @ steps.rewards, np.einsum("t,ktn->kn", weight, steps.costs))


def violation_rate(episodes: Episodes, limits: Array) -> Array:
    """P(cost of an episode > limit) [K]."""
    out: Array = (episodes.costs > limits[:, None]).mean(1)
    return out


def figures(cmdp: CMDP, policy: Array, plan: EpisodePlan, best: float) -> dict[str, Any]:
    """Exact means of a policy, its gap to the optimum's reward, and what its single episodes do."""
    exact = evaluate(cmdp, policy)
    episodes = run_episodes(cmdp, policy, plan.count, plan.horizon, np.random.default_rng([plan.seed, 1]))
    spread = np.quantile(episodes.costs, QUANTILES, axis=1).T

    def mean(table: Array) -> float:
        return float(exact.occupancy @ (policy * table).sum(1))

    return {
        "reward": exact.reward,
        "gap": (best - exact.reward) / abs(best),
        "costs": cmdp.named(exact.costs),
        "over_limit": cmdp.named(exact.costs / cmdp.limits - 1),
        **{name: mean(cmdp.of_states(table[:, :, None])) for name, table in cmdp.shown.items()},
        "latency_s": mean(cmdp.expected_cost("latency_s")),
        **{name: mean(cmdp.expected_cost(name)) for name in ("energy_j", "ue_energy_j") if name in cmdp.cost_tables},
        "episode_reward": float(episodes.reward.mean()),
        "episode_reward_error": float(episodes.reward.std() / np.sqrt(plan.count)),
        "violation_rate": cmdp.named(violation_rate(episodes, cmdp.limits)),
        "episode_cost_quantiles": dict(zip(cmdp.cost_names, spread.tolist(), strict=True)),
    }


def shielded_figures(cmdp: CMDP, policy: Array, guard: Shield, plan: EpisodePlan, best: float) -> dict[str, Any]:
    """Figures of a policy under the shield, and how many of the requests that it has a choice for are on time."""
    table = shield.shielded(cmdp, policy, guard)
    on_time, reached = shield.coverage(cmdp, table, guard)
    margins = shield.within_margin(cmdp, guard).tolist()
    promise = {"alpha": guard.alpha, "coverage": on_time, "requests_with_a_choice": reached, "within_margin_by_class": margins}
    return {**promise, **figures(cmdp, table, plan, best)}


def evaluate_one(cmdp: CMDP, policy: Array, guard: Shield, plan: EpisodePlan, best: float) -> dict[str, Any]:
    """Figures of one policy beside the optimum's reward, alone and under the shield."""
    return {
        "limits": cmdp.named(cmdp.limits),
        "lp_reward": best,
        **figures(cmdp, policy, plan, best),
        "shielded": shielded_figures(cmdp, policy, guard, plan, best),
    }


def evaluate_all(
    cmdp: CMDP,
    best: lp.Optimum,
    learned: Mapping[str, Array],
    guard: Shield,
    plan: EpisodePlan,
    on_step: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """The optimum, every rule, every policy that observes a part, the learned ones, and those under the shield."""
    tables = {"lp": best.policy}
    for name, make in RULES.items():
        on_step(name)
        tables[name] = make(cmdp)
    tables |= learned
    on_step("episodes")
    policies = {name: figures(cmdp, table, plan, best.reward) for name, table in tables.items()}
    for name in ("lp", *learned):
        policies[f"{name}, shielded"] = shielded_figures(cmdp, tables[name], guard, plan, best.reward)
    return {
        "limits": cmdp.named(cmdp.limits),
        "prices": cmdp.named(best.multipliers),
        "decisions": [[d.steps, d.merge_ratio, d.quantiser_bits] for d in cmdp.decisions],
        "states": cmdp.states,
        "process": cmdp.digest,
        "policies": policies,
    }


@dataclass(frozen=True)
class Aggregate:
    """Interquartile mean over seeds (the mean itself below four) and its 95 % bootstrap interval, None for one seed."""

    iqm: float
    low: float | None
    high: float | None


def aggregate(values: Sequence[float] | Array, seed: int = 0) -> Aggregate:
    """Of one number a seed. Errors: InputError without any."""
    numbers = np.asarray(values, float)
    if numbers.ndim != 1 or not len(numbers):
        raise InputError("an aggregate needs one number for each of at least one seed")
    mean = float(stats.trim_mean(numbers, 0.25))
    if len(numbers) < 2:
        return Aggregate(mean, None, None)
    drawn = np.random.default_rng(seed).choice(numbers, (RESAMPLES, len(numbers)))
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return Aggregate(mean, float(low), float(high))


def regret(costs: Array, limits: Array, samples: Array) -> Array:
    """Sum over training of [J_c - d]_+ / d [K], weighted by the samples of each iteration in millions.

    `costs` [T, K] of the iterations, `samples` [T] taken up to each.
    """
    taken = np.diff(np.append(0.0, samples)) / 1e6
    out: Array = np.einsum("t,tk->k", taken, np.maximum(costs / limits - 1, 0.0))
    return out


def samples_until_feasible(costs: Array, limits: Array, samples: Array, tolerance: float = 0.01) -> float:
    """Samples learned from before the first of the iterations from which on all keep the limits; infinite where the last does not.

    Within `tolerance`, relative.
    """
    broken = np.flatnonzero((costs > limits * (1 + tolerance)).any(1))
    if not len(broken):
        return 0.0
    return float("inf") if broken[-1] == len(costs) - 1 else float(samples[broken[-1]])
