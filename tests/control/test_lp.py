from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from megen.control import kernel as kernels
from megen.control import lp
from megen.control.kernel import Kernel


@pytest.fixture(scope="module")
def best(small: Kernel) -> lp.Optimum:
    return lp.solve(small)


def test_the_policy_earns_what_the_program_says_and_keeps_the_limits(small: Kernel, best: lp.Optimum) -> None:
    got = kernels.evaluate(small, best.policy)
    assert got.reward == pytest.approx(best.reward, abs=1e-7)
    np.testing.assert_allclose(got.costs, best.costs, atol=1e-7)
    assert (best.costs <= small.limits + 1e-7).all()
    np.testing.assert_allclose(best.occupancy.sum(), 1)


def test_prices_are_complementary_and_are_the_gain_of_a_looser_limit(small: Kernel, best: lp.Optimum) -> None:
    assert (best.prices >= -1e-9).all()
    np.testing.assert_allclose(best.prices * (small.limits - best.costs), 0, atol=1e-6)
    assert best.prices.max() > 0
    for k in range(2):
        step = 1e-4 * small.limits[k]
        looser = lp.solve(replace(small, limits=small.limits + step * np.eye(2)[k]))
        assert (looser.reward - best.reward) / step == pytest.approx(best.prices[k], rel=0.02, abs=1e-4)


def test_without_limits_it_is_value_iteration(small: Kernel) -> None:
    value = np.zeros(small.states)
    for _ in range(400):
        value = (small.rewards + small.gamma * small.onward(value)).max(1)
    free = lp.solve(small, constrained=False)
    assert free.reward == pytest.approx((1 - small.gamma) * small.stationary @ value, abs=1e-6)
    assert free.reward > lp.solve(small).reward


def test_no_feasible_policy_earns_more(small: Kernel, best: lp.Optimum) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        policy = rng.dirichlet(np.full(small.actions, 0.3), small.states)
        got = kernels.evaluate(small, policy)
        priced = got.reward - best.prices @ (got.costs - small.limits)  # by duality, for any policy
        assert priced <= best.reward + 1e-7


def test_limits_that_cannot_be_met_are_refused_with_the_nearest(impossible: Kernel) -> None:
    with pytest.raises(lp.InfeasibleError, match="energy_j can be no less than"):
        lp.solve(impossible)
    least = lp.least_cost(impossible, 1)
    assert lp.solve(replace(impossible, limits=np.array([1.0, least * 1.001]))).costs[1] <= least * 1.001 + 1e-6


def test_limits_that_contradict_each_other_are_refused(small: Kernel) -> None:
    torn = replace(small, energy_j=small.energy_j[:, :, ::-1])  # what is fast now costs most
    torn = replace(torn, limits=np.array([lp.least_cost(torn, k) + 1e-4 for k in range(2)]))
    with pytest.raises(lp.InfeasibleError, match=r"with late at .*, energy_j can be no less than") as refusal:
        lp.check(torn)
    least = float(re.findall(r"no less than ([\d.]+)", str(refusal.value))[0])
    near = replace(torn, limits=np.array([torn.limits[0], least * 1.001]))
    assert lp.solve(near).costs[1] <= least * 1.001 + 1e-6
    with pytest.raises(lp.InfeasibleError):
        lp.solve(replace(torn, limits=np.array([torn.limits[0], least * 0.999])))
