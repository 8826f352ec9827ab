"""How good a policy is: exact means, what single episodes do, and what the learning cost on the way.

Aggregates over training seeds are interquartile means with bootstrap intervals over seeds (Agarwal et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from megen.control.cvpo import rollout
from megen.control.kernel import Kernel
from megen.control.simulator import Simulator

Array = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Episodes:
    """Discounted means of single episodes: reward [n], costs [2, n]."""

    reward: Array
    costs: Array


def episodes(kernel: Kernel, policy: Array, count: int, horizon: int, rng: np.random.Generator) -> Episodes:
    """Run a stochastic policy [S, A] for `count` episodes of `horizon` requests."""
    got = rollout(Simulator(kernel), policy, count, horizon, rng)
    share = kernel.gamma ** np.arange(horizon) * (1 - kernel.gamma) / (1 - kernel.gamma**horizon)
    return Episodes(share @ got.rewards, np.einsum("t,ktn->kn", share, got.costs))


def violation_rate(found: Episodes, limits: Array) -> Array:
    """P(cost of an episode > limit), a number a cost."""
    out: Array = (found.costs > limits[:, None]).mean(1)
    return out


@dataclass(frozen=True)
class Aggregate:
    """Interquartile mean over seeds (the mean itself below four) and its 95 % bootstrap interval, None for one seed."""

    iqm: float
    low: float | None
    high: float | None


def aggregate(values: Sequence[float] | Array, seed: int = 0) -> Aggregate:
    """Of one number a seed. Errors: ValueError without any."""
    found = np.asarray(values, float)
    if found.ndim != 1 or not len(found):
        raise ValueError("an aggregate needs one number for each of at least one seed")
    mean = float(stats.trim_mean(found, 0.25))
    if len(found) < 2:
        return Aggregate(mean, None, None)
    drawn = np.random.default_rng(seed).choice(found, (RESAMPLES, len(found)))
    low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return Aggregate(mean, float(low), float(high))


def regret(costs: Array, limits: Array, samples: Array) -> Array:
    """Sum over training of [J_c - d]_+ / d, weighted by the samples of each iteration in millions, a number a cost.

    `costs` [T, 2] of the iterations, `samples` [T] taken up to each.
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
