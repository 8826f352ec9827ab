"""Rules and blind policies: each knows only what it may, keeps the limits where it should, and none beats the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megen.control import lp
from megen.control.baselines import rules
from megen.control.cmdp import AXES, CMDP, evaluate
from megen.control.features import observation_index


@pytest.fixture(scope="module")
def best(small: CMDP) -> lp.Optimum:
    return lp.solve(small)


@pytest.mark.parametrize("name", rules.OBSERVED)
def test_what_a_blind_policy_does_not_see_does_not_matter(name: str, small: CMDP, best: lp.Optimum) -> None:
    observed = rules.OBSERVED[name]
    policy = rules.blind(small, observed)
    rows = policy.reshape(*small.shape, -1)
    for k, axis in enumerate(AXES):
        varies = np.ptp(rows, axis=k).max() > 1e-6
        assert not varies or axis in observed
    got = evaluate(small, policy)
    assert (got.costs <= small.limits * 1.002).all()
    assert got.reward < best.reward


def test_a_policy_that_observes_all_is_the_optimum_and_one_that_observes_more_earns_more(small: CMDP, best: lp.Optimum) -> None:
    earned = [evaluate(small, rules.blind(small, observed)).reward for observed in ((), ("phase",), ("phase", "backlog"), AXES)]
    assert earned == sorted(earned)
    assert earned[-1] == pytest.approx(best.reward, rel=1e-4)


def test_a_mixture_that_observes_nothing_is_as_good_as_a_fine_grid_of_mixtures(small: CMDP) -> None:
    found = []
    steps = np.linspace(0, 1, 9)
    for a in steps:
        for b in steps[steps <= 1 - a + 1e-9]:
            for c in steps[steps <= 1 - a - b + 1e-9]:
                got = evaluate(small, np.tile([a, b, c, max(0.0, 1 - a - b - c)], (small.states, 1)))
                found.append(got.reward if (got.costs <= small.limits).all() else -np.inf)
    own = evaluate(small, rules.blind(small, ())).reward
    assert max(found) - 1e-3 <= own < max(found) + 0.1


def test_greedy_keeps_the_limits_of_a_slot_where_it_can(small: CMDP) -> None:
    chosen = rules.greedy(small).argmax(1)
    rows = np.arange(small.states)
    possible = (small.costs <= small.limits[:, None, None]).all(0).any(1)
    assert (small.costs[:, rows, chosen] <= small.limits[:, None])[:, possible].all()
    assert (small.costs[0, rows, chosen] == small.costs[0].min(1))[~possible].all()


def test_the_best_fixed_decision_is_feasible_and_best(small: CMDP) -> None:
    policy, which = rules.best_fixed(small)
    assert (policy.argmax(1) == which).all()
    got = {a: evaluate(small, rules.fixed(small, a)) for a in range(small.actions)}
    feasible = {a: g.reward for a, g in got.items() if (g.costs <= small.limits).all()}
    assert which == max(feasible, key=lambda a: feasible[a])
    with pytest.raises(ValueError, match="from 0 to 3"):
        rules.fixed(small, 7)


def test_a_myopic_policy_observed_all_and_is_a_policy(small: CMDP) -> None:
    policy = rules.myopic(small)
    np.testing.assert_allclose(policy.sum(1), 1)
    assert np.ptp(policy.reshape(*small.shape, -1), axis=3).max() > 0.1  # it observed the backlog
    got, chance = evaluate(small, policy), evaluate(small, rules.random(small))
    assert (got.costs / small.limits).max() < (chance.costs / small.limits).max()
    loose = replace(small, limits=np.array([0.6, 12.0]))
    kept = evaluate(loose, rules.myopic(loose))
    assert (kept.costs <= loose.limits * 1.005).all()
    assert chance.reward < kept.reward <= lp.solve(loose).reward + 1e-3


def test_an_axis_that_is_none_is_refused(small: CMDP) -> None:
    with pytest.raises(ValueError, match="got weather"):
        observation_index(small, ("weather",))
