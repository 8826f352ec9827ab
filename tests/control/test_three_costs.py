"""Three named costs through everything: tables, optimum, E-step, learner and simulator; nothing knows how many there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.control import env, lp, report, shield
from megen.control import policy as policies
from megen.control.baselines import rules
from megen.control.cmdp import CMDP, evaluate
from megen.control.cvpo import learner, tabular
from megen.control.simulator import Simulator, rollout
from tests.control.conftest import state_transitions


@pytest.fixture(scope="module")
def best(three: CMDP) -> lp.Optimum:
    return lp.solve(three)


def test_the_evaluation_has_every_cost(three: CMDP, small: CMDP) -> None:
    policy = np.random.default_rng(0).dirichlet(np.ones(three.actions), three.states)
    evaluation = evaluate(three, policy)
    np.testing.assert_allclose(evaluation.costs[:2], evaluate(small, policy).costs)
    matrix = np.eye(three.states) - three.gamma * state_transitions(three, policy)
    np.testing.assert_allclose(evaluation.cost_values[2], np.linalg.solve(matrix, (policy * three.costs[2]).sum(1)))
    assert list(three.named(evaluation.costs)) == ["late", "energy_j", "air_s"]


def test_the_optimum_keeps_three_limits(three: CMDP, small: CMDP, best: lp.Optimum) -> None:
    assert (best.costs <= three.limits + 1e-7).all()
    assert best.multipliers[2] > 1e-3  # the third limit binds
    np.testing.assert_allclose(best.multipliers * (three.limits - best.costs), 0, atol=1e-6)
    np.testing.assert_allclose(evaluate(three, best.policy).costs, best.costs, atol=1e-7)
    assert best.reward < lp.solve(small).reward - 1e-3


def test_the_e_step_reaches_the_optimum_and_its_multipliers(three: CMDP, best: lp.Optimum) -> None:
    policy, iterates = tabular.run(three, 60)
    evaluation = evaluate(three, policy)
    assert evaluation.reward == pytest.approx(best.reward, rel=1e-3)
    np.testing.assert_allclose(evaluation.costs[best.multipliers > 1e-3], best.costs[best.multipliers > 1e-3], rtol=2e-3)
    np.testing.assert_allclose(iterates[-1].duals.multipliers, best.multipliers, rtol=0.02, atol=0.01)


def test_the_simulator_draws_every_cost(three: CMDP) -> None:
    policy = np.random.default_rng(1).dirichlet(np.ones(three.actions), three.states)
    horizon = 80
    steps = rollout(Simulator(three), policy, 3000, horizon, np.random.default_rng(2))
    weight = (1 - three.gamma) * three.gamma ** np.arange(horizon)
    assert steps.costs.shape == (3, horizon, 3000)
    np.testing.assert_allclose(np.einsum("t,kt->k", weight, steps.costs.mean(2)), evaluate(three, policy).costs, rtol=0.03)


def test_a_cost_by_the_backlog_is_drawn_by_the_backlog(small: CMDP) -> None:
    c, p, a, d = small.service_s.shape
    waiting = np.broadcast_to(small.backlog_s[:, None, None], (c, p, len(small.backlog_s), a, d))
    cmdp = replace(small, cost_tables={"waiting_s": waiting}, cost_names=("waiting_s",), limits=np.array([1.0]))
    states = np.arange(cmdp.states)
    _, outcome = Simulator(cmdp).step(states, states % cmdp.actions, np.random.default_rng(0))
    np.testing.assert_allclose(outcome.costs[0], cmdp.backlog_s[states % len(cmdp.backlog_s)])


def test_learner_environment_rules_and_report_take_them(three: CMDP, best: lp.Optimum, tmp_path: Path) -> None:
    recipe = learner.Recipe(iterations=3, links=32, horizon=40, width=16, critic_steps=5, policy_steps=5, batch=64)
    whole = learner.train(three, recipe)
    learner.train(three, recipe, lambda p: None, tmp_path / "c.safetensors")
    resumed = learner.load(three, recipe, tmp_path / "c.safetensors")
    np.testing.assert_array_equal(resumed.table(), whole.table())
    assert whole.duals.multipliers.shape == resumed.mean_costs.shape == (3,)
    main = env.Main(three)
    main.reset(seed=0)
    assert main.step(np.int64(1))[4]["cost"].shape == (3,)
    for rule in (rules.greedy, rules.myopic, lambda cmdp: rules.best_fixed(cmdp)[0]):
        np.testing.assert_allclose(rule(three).sum(1), 1)
    figures = report.evaluate_one(three, best.policy, shield.calibrate(three, 0.05), report.EpisodePlan(20, 30, 0), best.reward)
    assert set(figures["costs"]) == set(figures["violation_rate"]) == {"late", "energy_j", "air_s"}
    policies.save(policies.policy_of(three, best.policy, {}), tmp_path / "p.npz")
    assert policies.load(tmp_path / "p.npz").about["limits"] == three.named(three.limits)
