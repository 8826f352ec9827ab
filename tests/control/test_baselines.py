"""Rules and blind policies: each knows only what it may, keeps the limits where it should, and none beats the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megen.control import baselines, lp, tabular
from megen.control import kernel as kernels
from megen.control.kernel import Kernel


@pytest.fixture(scope="module")
def best(small: Kernel) -> lp.Optimum:
    return lp.solve(small)


@pytest.mark.parametrize("name", baselines.BLIND)
def test_what_a_blind_policy_does_not_see_does_not_matter(name: str, small: Kernel, best: lp.Optimum) -> None:
    sees = baselines.BLIND[name]
    policy = baselines.blind(small, sees)
    rows = policy.reshape(*small.shape, -1)
    for k, axis in enumerate(tabular.AXES):
        varies = np.ptp(rows, axis=k).max() > 1e-6
        assert not varies or axis in sees
    got = kernels.evaluate(small, policy)
    assert (got.costs <= small.limits * 1.002).all()
    assert got.reward < best.reward


def test_a_policy_that_sees_all_is_the_optimum_and_one_that_sees_more_earns_more(small: Kernel, best: lp.Optimum) -> None:
    earned = [kernels.evaluate(small, baselines.blind(small, sees)).reward for sees in ((), ("phase",), ("phase", "backlog"), tabular.AXES)]
    assert earned == sorted(earned)
    assert earned[-1] == pytest.approx(best.reward, rel=1e-4)


def test_a_mixture_that_sees_nothing_is_as_good_as_a_fine_grid_of_mixtures(small: Kernel) -> None:
    found = []
    steps = np.linspace(0, 1, 9)
    for a in steps:
        for b in steps[steps <= 1 - a + 1e-9]:
            for c in steps[steps <= 1 - a - b + 1e-9]:
                got = kernels.evaluate(small, np.tile([a, b, c, max(0.0, 1 - a - b - c)], (small.states, 1)))
                found.append(got.reward if (got.costs <= small.limits).all() else -np.inf)
    own = kernels.evaluate(small, baselines.blind(small, ())).reward
    assert max(found) - 1e-3 <= own < max(found) + 0.1


def test_greedy_keeps_the_limits_of_a_slot_where_it_can(small: Kernel) -> None:
    chosen = baselines.greedy(small).argmax(1)
    rows = np.arange(small.states)
    possible = (small.costs <= small.limits[:, None, None]).all(0).any(1)
    assert (small.costs[:, rows, chosen] <= small.limits[:, None])[:, possible].all()
    assert (small.costs[0, rows, chosen] == small.costs[0].min(1))[~possible].all()


def test_the_best_fixed_decision_is_feasible_and_best(small: Kernel) -> None:
    policy, which = baselines.best_fixed(small)
    assert (policy.argmax(1) == which).all()
    got = {a: kernels.evaluate(small, baselines.fixed(small, a)) for a in range(small.actions)}
    feasible = {a: g.reward for a, g in got.items() if (g.costs <= small.limits).all()}
    assert which == max(feasible, key=lambda a: feasible[a])
    with pytest.raises(ValueError, match="from 0 to 3"):
        baselines.fixed(small, 7)


def test_a_myopic_policy_sees_all_and_is_a_policy(small: Kernel) -> None:
    policy = baselines.myopic(small)
    np.testing.assert_allclose(policy.sum(1), 1)
    assert np.ptp(policy.reshape(*small.shape, -1), axis=3).max() > 0.1  # it sees the backlog
    got, chance = kernels.evaluate(small, policy), kernels.evaluate(small, baselines.random(small))
    assert (got.costs / small.limits).max() < (chance.costs / small.limits).max()
    loose = replace(small, limits=np.array([0.6, 12.0]))
    kept = kernels.evaluate(loose, baselines.myopic(loose))
    assert (kept.costs <= loose.limits * 1.005).all()
    assert chance.reward < kept.reward <= lp.solve(loose).reward + 1e-3


def test_an_axis_that_is_none_is_refused(small: Kernel) -> None:
    with pytest.raises(ValueError, match="got weather"):
        tabular.looks(small, ("weather",))
