from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megen.control import lp
from megen.control.cmdp import CMDP, evaluate
from megen.control.cvpo import learner as cvpo
from megen.control.cvpo.learner import Learner, Recipe
from megen.control.cvpo.networks import Networks
from megen.control.features import TENTS, features
from megen.control.simulator import Simulator, rollout
from megen.errors import RunError
from megen.types import Decision

FAST = Recipe(iterations=4, links=32, horizon=40, width=16, critic_steps=5, policy_steps=5, batch=64)


def test_networks_side_by_side_are_networks_alone() -> None:
    torch.manual_seed(0)
    nets, x = Networks(3, 4, 8, 5), torch.randn(7, 4)
    together = nets(x)
    for k in range(3):
        y = x
        for i, (weight, bias) in enumerate(zip(nets.weights, nets.biases, strict=True)):
            y = (torch.nn.functional.silu(y) if i else y) @ weight[k] + bias[k]
        torch.testing.assert_close(together[k], y)


def test_observations_tell_every_state_apart(small: CMDP) -> None:
    seen = torch.from_numpy(features(small))
    channels, classes = small.shape[:2]
    assert seen.shape == (small.states, 3 + channels + classes + TENTS + 1)
    torch.testing.assert_close(seen[:, 3:].sum(1), torch.full((small.states,), 3.0).double())  # one of each, tents share theirs
    assert len({tuple(row) for row in seen.tolist()}) == small.states


def test_a_rollout_has_the_means_of_the_exact_evaluation(small: CMDP) -> None:
    policy = np.random.default_rng(0).dirichlet(np.ones(small.actions), small.states)
    exact, horizon = evaluate(small, policy), 80
    got = rollout(Simulator(small), policy, 3000, horizon, np.random.default_rng(1))
    share = (1 - small.gamma) * small.gamma ** np.arange(horizon)
    assert share @ got.rewards.mean(1) == pytest.approx(exact.reward, rel=0.01)
    np.testing.assert_allclose(np.einsum("t,kt->k", share, got.costs.mean(2)), exact.costs, rtol=0.03)


def test_critics_learn_the_values_of_a_policy(small: CMDP) -> None:
    recipe = Recipe(links=512, horizon=60, critic_steps=500, critic_lr=3e-3, policy_steps=0)
    learner = Learner(small, recipe)
    table = learner.table()
    got = rollout(learner.simulator, table, recipe.links, recipe.horizon, np.random.default_rng(0))
    learner._learn_critics(got, table)
    exact = evaluate(small, table)
    with torch.no_grad():
        reward_q, late_q = (learner.critics(learner.features).double().numpy()[k] for k in (0, 2))
    seen = exact.occupancy > 1e-3
    want = (small.rewards + small.gamma * small.expected_next_value(exact.reward_values)) / learner.reward_scale
    assert np.corrcoef(reward_q[seen].ravel(), want[seen].ravel())[0, 1] > 0.97
    want = (small.costs[0] + small.gamma * small.expected_next_value(exact.cost_values[0])) / small.limits[0] - 1 / (1 - small.gamma)
    assert np.corrcoef(late_q[seen].ravel(), want[seen].ravel())[0, 1] > 0.97


def test_recentring_moves_reward_critics_and_nothing_else(small: CMDP) -> None:
    learner = Learner(small, FAST)
    learner.iterate()
    with torch.no_grad():
        before = learner.critics(learner.features)
        learner._recentre(learner.reward_level + 0.5)
        after = learner.critics(learner.features)
    moved = 0.5 / learner.reward_scale / (1 - small.gamma) / learner.scales[0]
    torch.testing.assert_close(after[:2], before[:2] - moved, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(after[2:], before[2:])


def test_the_published_form_bounds_costs_by_the_limit_of_an_episode(small: CMDP) -> None:
    """E Q_ck <= d_k (1 - gamma^T) / (1 - gamma), for critics of c / d - 1."""
    learner = Learner(small, replace(FAST, form="value"))
    raw = (1 - small.gamma**FAST.horizon) / (1 - small.gamma)  # the limit of Q_ck / d_k
    bounds = learner._bounds(np.ones(1), np.ones((1, small.actions)), np.zeros((2, 1, small.actions)))
    np.testing.assert_allclose(bounds, raw - 1 / (1 - small.gamma))
    assert np.isfinite(learner.iterate().reward)
    with pytest.raises(ValueError, match="must be one of advantage, value, got 'other'"):
        Learner(small, replace(FAST, form="other"))


def test_a_steady_error_of_the_critics_is_learned_and_the_bound_made_tighter(small: CMDP) -> None:
    """What was foreseen falls short of the truth by 2 % of the limit each time: a plain running mean would lag by more."""
    learner, table = Learner(small, FAST), np.zeros((2, 1, small.actions))
    old = np.full((1, small.actions), 1 / small.actions)
    for learner.iteration in range(200):
        truth = small.limits * (1 + 0.02 * learner.iteration)
        learner._track(truth)
        np.testing.assert_allclose(learner._bounds(np.ones(1), old, table), 1 - (learner.mean_costs + learner.drift) / small.limits)
        learner.mean_costs = learner.mean_costs + learner.drift  # a policy that does not change
    np.testing.assert_allclose(learner.drift, 0.02 * small.limits, rtol=1e-3)
    np.testing.assert_allclose(learner.mean_costs, truth + 0.02 * small.limits, rtol=1e-3)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_a_killed_training_goes_on_to_the_same_policy(small: CMDP, gamma: float, tmp_path: Path) -> None:
    small = replace(small, gamma=gamma)
    whole = cvpo.train(small, FAST)
    path = tmp_path / "cvpo.safetensors"

    def stop(progress: cvpo.Progress) -> None:
        if progress.samples >= 3 * 32 * 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cvpo.train(small, FAST, stop, path)
    resumed = cvpo.train(small, FAST, checkpoint=path)
    assert resumed.samples == whole.samples
    np.testing.assert_array_equal(resumed.table(), whole.table())
    np.testing.assert_array_equal(resumed.duals.multipliers, whole.duals.multipliers)


def test_checkpoints_of_something_else_are_refused(small: CMDP, tmp_path: Path) -> None:
    path = tmp_path / "cvpo.safetensors"
    cvpo.train(small, replace(FAST, iterations=1), checkpoint=path)
    with pytest.raises(cvpo.CheckpointError, match="another recipe"):
        cvpo.load(small, FAST, path)
    for others in (replace(small, decisions=(Decision(2, 0.0), *small.decisions[1:])), replace(small, limits=2 * small.limits)):
        with pytest.raises(cvpo.CheckpointError, match="another CMDP"):
            cvpo.load(others, replace(FAST, iterations=1), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(cvpo.CheckpointError, match="not a whole checkpoint"):
        cvpo.load(small, FAST, path)


def test_a_cost_that_is_no_number_is_named_where_it_arises(small: CMDP) -> None:
    energy_j = small.cost_tables["energy_j"].copy()
    broken = replace(small, cost_tables={**small.cost_tables, "energy_j": energy_j})
    energy_j[...] = np.nan  # after the CMDP was checked
    with pytest.raises(RunError, match="NaN or infinite"):
        cvpo.train(broken, FAST)


def test_a_long_run_goes_on_where_its_links_are(small: CMDP) -> None:
    learner = cvpo.Learner(replace(small, gamma=1.0), FAST)
    learner.iterate()
    first = learner.links
    assert first is not None
    assert (np.unravel_index(first, small.shape)[3] > 0).any()  # not empty any more
    assert cvpo.Learner(small, FAST).links is None


@pytest.mark.slow
def test_it_keeps_limits_of_long_run_means(small: CMDP) -> None:
    endless = replace(small, gamma=1.0)
    best = lp.solve(endless)
    got = evaluate(endless, cvpo.train(endless, Recipe(links=256)).table())
    assert got.reward > 0.97 * best.reward
    assert (got.costs < 1.03 * endless.limits).all()


@pytest.mark.slow
def test_it_comes_near_the_optimum_and_the_limits(small: CMDP) -> None:
    best = lp.solve(small)
    got = evaluate(small, cvpo.train(small, Recipe(links=256)).table())
    assert got.reward > 0.97 * best.reward
    assert (got.costs < 1.03 * small.limits).all()


def test_new_units_leave_what_critics_say(small: CMDP) -> None:
    learner = Learner(small, Recipe(links=16, horizon=20, critic_steps=3, policy_steps=2, batch=64))
    learner.iterate()
    states = np.arange(small.states)
    with torch.no_grad():
        before = learner._values(states)
        steps = rollout(learner.simulator, learner.table(), 16, 20, learner.rng)
        learner._rescale(replace(steps, rewards=7 * steps.rewards, costs=100 * steps.costs))
        after = learner._values(states)
    assert learner.scales.max() > 1
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_a_cautious_first_policy_prefers_short_services(small: CMDP) -> None:
    work_s = small.service_s.mean((0, 1, 3))
    even, careful = (Learner(small, Recipe(caution=caution)).table() for caution in (0.0, 3.0))
    assert even @ work_s == pytest.approx(np.full(small.states, work_s.mean()), rel=0.05)
    assert (careful @ work_s < 0.9 * work_s.mean()).all()
