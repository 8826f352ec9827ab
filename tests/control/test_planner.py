"""Plans for a context hold on the process as described."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.cli.main import main
from megen.control import lp, planner
from megen.control import policy as policies
from megen.control.judge import Process, Verdict, drawn_from, judge
from megen.control.lp import InfeasibleError
from megen.control.scenarios import scenario as scenarios
from megen.control.scenarios.main import build_cmdp, lateness, with_budgets
from megen.control.scenarios.scenario import BudgetClass, Scenario, long_run
from megen.cost import device_profile, quality_grid
from megen.errors import InputError
from megen.types import Budget, ChannelState, Observation

GRID = quality_grid.load()
SERVER, PHONE = device_profile.load("cpu"), device_profile.load("phone")


def judged(plan: planner.Plan, scenario: Scenario, **more: int) -> Verdict:
    process = Process(scenario, GRID, SERVER, PHONE)
    return judge(process, drawn_from(plan.policy, process), **{"links": 256, "burn_in": 300, "requests": 600, **more})


@pytest.fixture(scope="module")
def usual() -> planner.Plan:
    return planner.plan(long_run(), GRID, SERVER, PHONE)


def test_the_limits_of_a_plan_hold_off_the_tables(usual: planner.Plan) -> None:
    verdict = judged(usual, long_run())
    for name, over in verdict.over_limit.items():
        assert over.mean - 3 * over.error <= 0.01, name
    assert verdict.means["reward"].mean == pytest.approx(usual.optimum.reward, rel=0.01)


def test_a_plan_is_near_its_bound_and_a_hopeless_request_is_served_fast(usual: planner.Plan) -> None:
    best = usual.optimum
    assert best.reward <= best.bound <= best.reward * (1 + 2 * planner.GAP)
    assert (best.costs <= usual.cmdp.limits * (1 + 1e-6)).all()
    steps = np.array([d.steps for d in usual.cmdp.decisions])
    table = best.policy.reshape(*usual.cmdp.shape, -1)
    hopeless = (usual.cmdp.backlog_s > 1.0) & (usual.cmdp.backlog_s < 2.5)
    assert (table[:, :, 0, hopeless] @ steps).mean() < 1.5  # in a burst


def test_limits_that_cannot_be_kept_are_refused_or_give_way() -> None:
    tight = long_run(late_limit=1e-5, deadline_s=0.4)
    with pytest.raises(InfeasibleError, match="late can be no less than"):
        planner.plan(tight, GRID, SERVER, PHONE)
    plan = planner.plan(tight, GRID, SERVER, PHONE, relax=True)
    assert plan.relaxed == ("late",)
    assert tight.limits["late"] < plan.limits["late"] < 0.05
    assert plan.limits["energy_j"] == tight.energy_limit_j


def test_requests_with_budgets_of_their_own_are_planned_for() -> None:
    classes = (BudgetClass(0.5, share=1.0), BudgetClass(2.0, energy_j=3.5, share=1.0))
    scenario = long_run(budgets=classes)
    plan = planner.plan(scenario, GRID, SERVER, PHONE)
    assert plan.policy.budgets == (Budget(0.5, None), Budget(2.0, 3.5))

    def mean_steps(budget: Budget) -> float:
        seen = Observation(ChannelState(12.0, 1e6, 0.0), arrival_phase=1, budget=budget)
        return float(plan.policy.probabilities(seen) @ [d.steps for d in plan.policy.decisions])

    assert mean_steps(Budget(0.5)) <= mean_steps(Budget(1.9))  # planned as 0.5 s, the most generous that asks no more
    assert plan.policy.budget_class(Budget(1.9, 9.0)) == 0
    assert plan.policy.budget_class(Budget(2.5, 9.0)) == 1
    assert plan.policy.budget_class(Budget(0.1)) == 0
    verdict = judged(plan, scenario)
    assert verdict.over_limit["late"].mean < 0.05
    cmdp = build_cmdp(GRID, SERVER, PHONE, scenario)
    assert cmdp.cost_tables["energy_j"].mean(-1)[:, 1::2].max() <= 3.5 + 1e-9
    assert cmdp.shape[1] == 2 * GRID.classes


def test_a_plan_with_budgets_is_judged_by_them(tmp_path: Path) -> None:
    """The judge once took the classes of prompt and budget for one another."""
    load, file, out = (tmp_path / name for name in ("load.json", "plan.npz", "out.json"))
    scenarios.save(long_run(budgets=(BudgetClass(0.6), BudgetClass(6.0))), load, {})
    assert main(["control", "plan", "--scenario", str(load), "--out", str(file)]) == 0
    assert main(["control", "evaluate", "--policy", str(file), "--episodes", "2", "--horizon", "2", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    judged = figures["continuous"]
    for name, over in judged["over_limit"].items():
        assert over - 3 * judged["over_limit_error"][name] <= 0.01, name
    assert judged["means"]["reward"]["mean"] == pytest.approx(figures["reward"], rel=0.01)


def test_a_budget_that_no_decision_keeps_gets_the_cheapest() -> None:
    plain = build_cmdp(GRID, SERVER, PHONE, Scenario())
    one = with_budgets(plain, (BudgetClass(0.7, energy_j=1e-3),))
    least = plain.cost_tables["energy_j"].mean(-1).min(-1)
    np.testing.assert_allclose(one.cost_tables["energy_j"].mean(-1), least[..., None].repeat(plain.actions, -1))


def test_smooth_lateness_is_the_mean_over_the_backlogs_of_a_cell() -> None:
    cmdp = replace(build_cmdp(GRID, SERVER, PHONE, Scenario()), cost_names=(), limits=np.zeros(0))
    sharp, smooth = (lateness(cmdp, smooth=s) for s in (False, True))
    np.testing.assert_array_equal(sharp["late"], cmdp.cost_draws("late"))
    assert set(np.unique(sharp["late"])) == {0.0, 1.0}
    assert ((smooth["late"] > 0) & (smooth["late"] < 1)).any()
    inner = slice(1, -1)  # the outermost cells have one side
    np.testing.assert_allclose(smooth["late"][:, :, inner].mean(), sharp["late"][:, :, inner].mean(), rtol=0.02)
    assert (smooth["tardiness_s"] >= sharp["tardiness_s"] - 0.2).all()
    late = cmdp.backlog_s[:, None, None] + cmdp.service_s[:, :, None] + cmdp.decodings_s[:, None] > cmdp.deadline_s + 0.2
    np.testing.assert_allclose(
        smooth["tardiness_s"][:, :, inner][late[:, :, inner]], sharp["tardiness_s"][:, :, inner][late[:, :, inner]], atol=2e-3
    )


def test_plans_and_scenarios_are_read_back(usual: planner.Plan, tmp_path: Path) -> None:
    policies.save(usual.policy, tmp_path / "p.npz")
    again = policies.load(tmp_path / "p.npz")
    assert again.about["scenario"]["mean_gap_s"] == [0.2, 1.0]
    np.testing.assert_allclose(again.table, usual.policy.table, atol=1e-6)
    scenario = long_run(budgets=(BudgetClass(0.5), BudgetClass(1.0, 4.0)), mean_gap_s=(0.3, 2.0))
    scenarios.save(scenario, tmp_path / "s.json", {"command": "x"})
    assert scenarios.load(tmp_path / "s.json") == scenario
    (tmp_path / "s.json").write_text('{"deadline": 1}')
    with pytest.raises(InputError, match="is not a scenario"):
        scenarios.load(tmp_path / "s.json")


@pytest.mark.parametrize("bad", [{"deadline_s": 0.0}, {"deadline_s": math.inf}, {"energy_j": -1.0}, {"share": math.nan}])
def test_a_budget_class_that_cannot_be_is_refused(bad: dict) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(bad))} of a budget class must lie in \[1e-06, 1e\+09\]"):
        BudgetClass(**bad)


def test_a_judge_refuses_uneven_batches(usual: planner.Plan) -> None:
    with pytest.raises(InputError, match="multiple of"):
        judged(usual, long_run(), links=100)


def test_nearest_limits_can_be_kept(usual: planner.Plan) -> None:
    tight = lp.with_limits(usual.cmdp, usual.cmdp.limits * [0.05, 0.15, 1.0])
    with pytest.raises(InfeasibleError):
        lp.check(tight, planner.GAP)
    lp.check(lp.with_limits(tight, lp.nearest_limits(tight, planner.GAP)), planner.GAP)
