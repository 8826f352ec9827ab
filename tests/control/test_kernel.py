from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megen.control import kernel as kernels
from megen.control.kernel import Kernel


def some_policy(kernel: Kernel, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(kernel.actions), kernel.states)


def test_all_transitions_are_distributions(small: Kernel) -> None:
    np.testing.assert_allclose(small.backlog.sum(-1), 1)
    np.testing.assert_allclose(small.transitions(some_policy(small)).sum(1), 1)
    np.testing.assert_allclose(small.stationary.sum(), 1)
    assert small.backlog.min() >= 0


def test_the_mean_backlog_is_that_of_the_lindley_recursion(small: Kernel) -> None:
    for c, p, f, a, w in ((0, 0, 0, 3, 2), (2, 1, 1, 0, 0), (1, 0, 0, 2, 5)):
        after = small.backlog_s[w] + small.service_s[c, p, a][:, None] - small.gap_s[f][None]
        want = after.clip(0, small.backlog_s[-1]).mean()
        assert small.backlog[c, p, f, a, w] @ small.backlog_s == pytest.approx(want)


def test_onward_is_the_mean_over_the_next_state(small: Kernel) -> None:
    value = np.random.default_rng(1).standard_normal(small.states)
    by_action = np.stack([small.transitions(np.eye(small.actions)[np.full(small.states, a)]) @ value for a in range(small.actions)], 1)
    np.testing.assert_allclose(small.onward(value), by_action)


def test_costs_by_hand(small: Kernel) -> None:
    _, p, f, w = small.shape
    state = ((1 * p + 1) * f + 0) * w + 2
    latency = small.backlog_s[2] + small.service_s[1, 1, 2] + small.decode_s
    assert small.costs[0, state, 2] == (latency > small.deadline_s).mean()
    latencies = replace(small, mean_latency=True)
    assert latencies.costs[0, state, 2] == pytest.approx(latency.mean())
    assert small.latency_s[state, 2] == latencies.costs[0, state, 2]
    assert latencies.late[state, 2] == small.late[state, 2] == small.costs[0, state, 2]
    assert small.costs[1, state, 2] == small.energy_j[1, 1, 2].mean()
    assert small.rewards[state, 2] == small.reward[1, 1, 2]


def test_an_evaluation_solves_bellmans_equation_and_agrees_with_its_occupancy(small: Kernel) -> None:
    policy = some_policy(small)
    got = kernels.evaluate(small, policy)
    backup = (policy * (small.rewards + small.gamma * small.onward(got.reward_values))).sum(1)
    np.testing.assert_allclose(got.reward_values, backup)
    matrix = np.eye(small.states) - small.gamma * small.transitions(policy)
    np.testing.assert_allclose(got.occupancy, np.linalg.solve(matrix.T, (1 - small.gamma) * small.stationary))
    np.testing.assert_allclose(got.cost_values[1], np.linalg.solve(matrix, (policy * small.costs[1]).sum(1)))
    assert got.occupancy.sum() == pytest.approx(1)
    assert got.reward == pytest.approx((1 - small.gamma) * small.stationary @ got.reward_values)
    np.testing.assert_allclose(got.costs, [got.occupancy @ (policy * c).sum(1) for c in small.costs])


def test_the_channels_chain_has_the_moments_of_its_process() -> None:
    levels = np.linspace(-30, 30, 121)
    chain = kernels.gauss_markov(levels, 5.0, 6.0, 0.8)
    share = kernels.stationary(chain)
    mean = share @ levels
    deviation = np.sqrt(share @ (levels - mean) ** 2)
    assert mean == pytest.approx(5.0, abs=0.05)
    assert deviation == pytest.approx(6.0, abs=0.05)
    correlation = share @ ((levels - mean) * (chain @ (levels - mean))) / deviation**2
    assert correlation == pytest.approx(0.8, abs=0.005)
    for bad in ((levels[::-1], 6.0, 0.8), (levels, 0.0, 0.8), (levels, 6.0, 1.0)):
        with pytest.raises(ValueError, match="Gauss-Markov"):
            kernels.gauss_markov(bad[0], 5.0, bad[1], bad[2])


def test_gap_quantiles_keep_the_mean_and_approach_the_variance() -> None:
    for count in (1, 4, 64):
        gaps = kernels.exponential_quantiles(1.7, count)
        assert gaps.mean() == pytest.approx(1.7)
        assert (np.diff(gaps) > 0).all()
    assert kernels.exponential_quantiles(1.0, 512).var() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("table", ["energy_j", "reward", "service_s", "limits"])
def test_a_number_that_is_not_finite_is_refused_where_it_arises(small: Kernel, table: str) -> None:
    broken = np.array(getattr(small, table))
    broken.flat[1] = np.nan
    with pytest.raises(ValueError, match=rf"{table} of the process is not finite at \[.*1\]"):
        replace(small, **{table: broken})
    with pytest.raises(ValueError, match="decode_s of the process is not finite"):
        replace(small, decode_s=float("nan"))
