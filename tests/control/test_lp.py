from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from megen.control import lp
from megen.control.cmdp import CMDP, evaluate
from megen.control.lp import InfeasibleError
from megen.control.scenarios.main import main_cmdp
from megen.control.scenarios.scenario import Scenario
from tests.control.conftest import state_transitions


def monolithic(cmdp: CMDP) -> tuple[float, np.ndarray]:
    """The optimum's reward and multipliers from the whole program over occupancy measures x(s, a), as one system."""
    n, a = cmdp.states, cmdp.actions
    moves = [state_transitions(cmdp, np.tile(row, (n, 1))) for row in np.eye(a)]  # [S, S'] of each decision
    flow = np.stack([np.eye(n) - cmdp.gamma * move.T for move in moves], 2).reshape(n, n * a)
    result = linprog(
        -cmdp.rewards.ravel(),
        A_ub=cmdp.costs.reshape(-1, n * a) / cmdp.limits[:, None],
        b_ub=np.ones(len(cmdp.limits)),
        A_eq=flow,
        b_eq=(1 - cmdp.gamma) * cmdp.start,
        method="highs",
    )
    assert result.success
    return -result.fun, -result.ineqlin.marginals / cmdp.limits


@pytest.fixture(scope="module")
def best(small: CMDP) -> lp.Optimum:
    return lp.solve(small)


def test_the_policy_earns_what_the_program_says_and_keeps_the_limits(small: CMDP, best: lp.Optimum) -> None:
    got = evaluate(small, best.policy)
    assert got.reward == pytest.approx(best.reward, abs=1e-7)
    np.testing.assert_allclose(got.costs, best.costs, atol=1e-7)
    assert (best.costs <= small.limits + 1e-7).all()
    np.testing.assert_allclose(best.occupancy.sum(), 1)


def test_multipliers_are_complementary_and_are_the_gain_of_a_looser_limit(small: CMDP, best: lp.Optimum) -> None:
    assert (best.multipliers >= -1e-9).all()
    np.testing.assert_allclose(best.multipliers * (small.limits - best.costs), 0, atol=1e-6)
    assert best.multipliers.max() > 0
    for k in range(2):
        step = 1e-4 * small.limits[k]
        looser = lp.solve(replace(small, limits=small.limits + step * np.eye(2)[k]))
        assert (looser.reward - best.reward) / step == pytest.approx(best.multipliers[k], rel=0.02, abs=1e-4)


def test_without_limits_it_is_value_iteration(small: CMDP) -> None:
    value = np.zeros(small.states)
    for _ in range(400):
        value = (small.rewards + small.gamma * small.expected_next_value(value)).max(1)
    free = lp.solve(small, constrained=False)
    assert free.reward == pytest.approx((1 - small.gamma) * small.start @ value, abs=1e-6)
    assert free.reward > lp.solve(small).reward


def test_no_feasible_policy_earns_more(small: CMDP, best: lp.Optimum) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        policy = rng.dirichlet(np.full(small.actions, 0.3), small.states)
        got = evaluate(small, policy)
        priced = got.reward - best.multipliers @ (got.costs - small.limits)  # by duality, for any policy
        assert priced <= best.reward + 1e-7


def test_limits_that_cannot_be_met_are_refused_with_the_nearest(impossible: CMDP) -> None:
    with pytest.raises(lp.InfeasibleError, match="energy_j can be no less than"):
        lp.solve(impossible)
    least = lp.least_cost(impossible, "energy_j")
    assert lp.solve(replace(impossible, limits=np.array([1.0, least * 1.001]))).costs[1] <= least * 1.001 + 1e-6


def test_limits_that_contradict_each_other_are_refused(small: CMDP) -> None:
    torn = replace(small, cost_tables={"energy_j": small.cost_tables["energy_j"][:, :, ::-1]})  # what is fast now costs most
    torn = replace(torn, limits=np.array([lp.least_cost(torn, name) + 1e-4 for name in torn.cost_names]))
    with pytest.raises(lp.InfeasibleError, match=r"with late at .*, energy_j can be no less than") as refusal:
        lp.check(torn)
    least = float(re.findall(r"no less than ([\d.]+)", str(refusal.value))[0])
    near = replace(torn, limits=np.array([torn.limits[0], least * 1.001]))
    assert lp.solve(near).costs[1] <= least * 1.001 + 1e-6
    with pytest.raises(lp.InfeasibleError):
        lp.solve(replace(torn, limits=np.array([torn.limits[0], least * 0.999])))


def test_it_is_the_whole_program_over_occupancy_measures(small: CMDP, three: CMDP) -> None:
    for cmdp in (
        small,
        three,
        replace(small, limits=np.array([0.12, 8.0])),
        replace(small, cost_names=("energy_j",), limits=np.array([9.0])),
    ):
        best, (reward, multipliers) = lp.solve(cmdp), monolithic(cmdp)
        assert best.reward == pytest.approx(reward, abs=1e-7)
        np.testing.assert_allclose(best.multipliers, multipliers, rtol=1e-4, atol=1e-6)


def test_limits_that_never_bind_are_seen_at_once(small: CMDP, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost that is zero whatever is decided once kept the check going round for ever, as 0 > 0 never holds."""
    rounds = []
    transition_of = CMDP.transition_of
    monkeypatch.setattr(CMDP, "transition_of", lambda *a: rounds.append(1) or transition_of(*a))
    never_late = replace(small, deadline_s=50.0, limits=np.array([0.05, 9.0]))
    assert not never_late.costs[0].any()
    assert lp.least_cost(never_late, "late") == 0
    assert len(rounds) == 1
    lp.check(never_late)
    assert len(rounds) < 8
    best = lp.solve(never_late)
    assert best.multipliers[0] == 0
    assert best.reward == pytest.approx(monolithic(never_late)[0], abs=1e-7)
    slack = replace(small, limits=np.array([1.0, 1e3]))
    assert lp.solve(slack).reward == pytest.approx(lp.solve(small, constrained=False).reward)


def test_the_bundled_process_with_a_slack_deadline_is_answered_at_once() -> None:
    """As `megen control train --deadline-s 5`, which did not end."""
    cmdp = main_cmdp(Scenario(deadline_s=5.0))
    began = time.process_time()
    lp.check(cmdp)
    assert time.process_time() - began < 20  # it takes half a second


def test_policy_iteration_has_a_cap_and_says_so(small: CMDP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lp, "POLICY_ROUNDS", 1)
    with pytest.raises(RuntimeError, match="did not end in 1 rounds"):
        lp.least_cost(small, "late")
    monkeypatch.setattr(lp, "POLICY_ROUNDS", 1000)
    monkeypatch.setattr(lp, "VERTICES", 1)
    with pytest.raises(RuntimeError, match=r"not settled after 1 policies|not solved with 1 policies"):
        lp.solve(small)


def test_three_limits_are_checked_and_the_one_to_give_way_is_named(three: CMDP) -> None:
    lp.check(three)
    least = {name: lp.least_cost(three, name) for name in three.cost_names}
    with pytest.raises(InfeasibleError, match=f"air_s can be no less than {least['air_s']:.4g}"):
        lp.check(replace(three, limits=np.array([0.15, 9.0, 0.9 * least["air_s"]])))
    torn = replace(three, cost_tables={**three.cost_tables, "air_s": three.cost_tables["air_s"][:, :, ::-1]})  # slow
    free = replace(torn, limits=np.array([0.15, 9.0, 1.0]))
    lp.check(free)
    tight = replace(torn, limits=np.array([0.15, 9.0, lp.least_cost(torn, "air_s") + 1e-4]))
    with pytest.raises(InfeasibleError, match=r"with late at 0.15, energy_j at 9, air_s can be no less than") as refusal:
        lp.check(tight)
    nearest = float(re.findall(r"no less than ([\d.]+)", str(refusal.value))[0])
    lp.check(replace(tight, limits=np.array([0.15, 9.0, nearest * 1.001])))
    with pytest.raises(InfeasibleError):
        lp.check(replace(tight, limits=np.array([0.15, 9.0, nearest * 0.999])))


def test_limits_that_only_fail_together_say_by_how_much(three: CMDP) -> None:
    """Two pairs of costs that exclude each other: no single limit is enough."""
    names = ("energy_j", "a", "b", "c")
    energy = three.cost_tables["energy_j"]
    tables = {"energy_j": energy, "a": energy.max() + 1 - energy, "b": energy, "c": energy.max() + 1 - energy}
    four = replace(three, cost_tables=tables, cost_names=names, limits=np.ones(4))
    limits = 1.05 * np.array([lp.least_cost(four, name) for name in names])
    with pytest.raises(InfeasibleError, match=r"together the limits can be kept from ([\d.]+) times their values on") as refusal:
        lp.check(replace(four, limits=limits))
    factor = float(re.findall(r"from ([\d.]+) times", str(refusal.value))[0])
    lp.check(replace(four, limits=limits * factor * 1.001))
    with pytest.raises(InfeasibleError):
        lp.check(replace(four, limits=limits * factor * 0.999))
