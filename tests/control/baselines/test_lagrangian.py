"""The Lagrangian baselines: their links are the simulator's, their prices follow the limits, and they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megen.control.cmdp import CMDP, evaluate
from megen.control.env import decision_places
from megen.control.simulator import Outcome

ReplayBuffer = pytest.importorskip("stable_baselines3.common.buffers", reason="needs the extra `baselines`").ReplayBuffer
lagrangian = pytest.importorskip("megen.control.baselines.lagrangian", reason="needs the extra `baselines`")


def test_links_weigh_their_costs_and_bootstrap_where_they_are_cut(small: CMDP) -> None:
    links = lagrangian.Links(small, 400, 30, seed=0)
    links.multipliers = np.array([0.7, 0.2])
    links.reset()
    assert links.scale == 1 - small.gamma  # not the continuous one's
    total = np.zeros(400)
    for t in range(30):
        links.step_async(np.full(400, 1))
        seen, rewards, done, infos = links.step_wait()
        total += small.gamma**t * rewards
        assert done.all() == (t == 29)
    assert infos[0]["TimeLimit.truncated"]
    assert not np.array_equal(infos[0]["terminal_observation"], seen[0]) or not np.array_equal(infos[1]["terminal_observation"], seen[1])
    means = links.take_means()
    share = (1 - small.gamma) / (1 - small.gamma**30)
    priced = (means[0] - links.level) / small.reward_scale - links.multipliers @ ((means[1:] - small.limits) / small.cost_scales)
    assert total.mean() * share == pytest.approx((1 - small.gamma) / (1 + 0.9) * priced, abs=1e-5)
    assert links.take_means() is None


def test_scattered_episodes_count_once_they_are_whole(small: CMDP) -> None:
    links = lagrangian.Links(small, 40, 20, seed=0)
    links.reset()
    links.scatter()
    ages = links.age.copy()
    assert sorted(set(ages)) == list(range(20))
    totals, ended = [], 0
    for t in range(39):
        links.step_async(np.zeros(40, np.int64))
        _, _, done, _ = links.step_wait()
        np.testing.assert_array_equal(done, (ages + t + 1) % 20 == 0)
        ended += int((done & (t + 1 >= 20)).sum())  # an earlier end is that of a part
        totals += [*links.ended]
        means = links.take_means()
        assert (means is None) == (t < 19)
    assert sum(part.shape[1] for part in totals) == ended == 2 + 38
    energy = np.concatenate([part[2] for part in totals])
    assert energy.mean() == pytest.approx(small.cost_tables["energy_j"][:, :, 0].mean(), rel=0.1)  # a part's weights would not add to one


def test_a_point_is_rounded_to_the_nearest_decision(small: CMDP) -> None:
    places = decision_places(small.decisions)
    assert lagrangian.nearest(places, np.array([[0.1, 0.2], [0.9, 0.6], [-3.0, 4.0]])).tolist() == [0, 3, 1]


@pytest.mark.parametrize("learn", ["ppo", "sac"])
def test_learners_earn_more_than_chance_at_no_multiplier(learn: str, small: CMDP) -> None:
    recipe = lagrangian.LagrangianRecipe(
        samples=48_000 if learn == "ppo" else 10_000, links=64, horizon=50, width=16, lr=3e-3, penalty=(0.0, 0.0)
    )
    policy = getattr(lagrangian, learn)(small, recipe)
    np.testing.assert_allclose(policy.sum(1), 1, atol=1e-6)
    chance = evaluate(small, np.full_like(policy, 1 / small.actions))
    assert evaluate(small, policy).reward > chance.reward + 0.1


def test_multipliers_rise_where_a_limit_is_broken_and_fall_where_it_is_kept(small: CMDP) -> None:
    seen = []
    slow = lagrangian.LagrangianRecipe(
        samples=640 * 64, links=64, horizon=50, collect=40, width=8, lr=1e-6, multiplier_lr=0.02, multiplier_gain=0.0
    )
    lagrangian.ppo(small, slow, seen.append)
    assert len(seen) == 15  # no whole episode has ended after the first collection
    assert seen[-1].costs[0] > small.limits[0]  # chance is late
    assert seen[-1].multipliers[0] > seen[0].multipliers[0] > 0
    quick = []
    lagrangian.ppo(small, replace(slow, multiplier_gain=2.0, samples=6400), quick.append)
    assert quick[0].multipliers[0] > 10 * seen[0].multipliers[0]
    loose, falling = replace(small, limits=np.array([1.0, 1e3])), []
    links = lagrangian.Links(loose, 64, 50, 0)
    links.multipliers = np.array([0.5, 0.5])
    callback = lagrangian._Multipliers(links, slow, falling.append)
    for _ in range(200):
        links.step_async(np.zeros(64, np.int64))
        links.step_wait()
        callback.num_timesteps += 64
        callback._on_rollout_end()
    assert 0 < len(falling) <= 5
    assert (np.diff([c.multipliers for c in falling], axis=0) < 0).all()


def test_a_replay_buffer_holds_rewards_at_todays_multipliers(small: CMDP) -> None:
    """Also where it has gone round: what is in it is what was earned and cost, priced anew."""
    links = lagrangian.Links(small, 8, 12, seed=0, continuous=True)
    replay = ReplayBuffer(8 * 20, links.observation_space, links.action_space, "cpu", 8)
    links.follow(replay)
    outcomes = []
    step = links.simulator.step

    def watched(*arguments: Any) -> tuple[np.ndarray, Outcome]:
        after, outcome = step(*arguments)
        outcomes.append(outcome)
        return after, outcome

    links.simulator.step = watched
    rng, seen = np.random.default_rng(0), links.reset()
    for t in range(33):
        if t % 10 == 0:
            links.set_multipliers(rng.random(2))
        points = rng.random((8, 2))
        links.step_async(points)
        after, rewards, done, infos = links.step_wait()
        replay.add(seen, after, points, rewards, done, infos)
        seen = after
    for multipliers in (np.zeros(2), np.array([0.3, 2.0])):
        links.set_multipliers(multipliers)
        over = [(o.costs - small.limits[:, None]) / small.cost_scales[:, None] for o in outcomes[-20:]]
        wanted = [
            ((o.reward - links.level) / small.reward_scale - multipliers @ v) / (1 + multipliers.sum())
            for o, v in zip(outcomes[-20:], over, strict=True)
        ]
        np.testing.assert_allclose(np.roll(replay.rewards, -replay.pos, 0), wanted, atol=1e-5)


def test_the_sum_of_violations_takes_at_most_the_limit_and_ever_less(small: CMDP) -> None:
    """A cost that is far above its limit must not wind its price up, and the prices come to rest as the training ends."""
    tight = replace(small, limits=np.array([0.01, 1e3]))
    links, seen = lagrangian.Links(tight, 64, 20, 0), []
    recipe = lagrangian.LagrangianRecipe(samples=64 * 400, links=64, horizon=20, collect=20, multiplier_lr=1.0, multiplier_gain=0.0)
    callback = lagrangian._Multipliers(links, recipe, seen.append)
    for _ in range(400):
        links.step_async(np.full(64, 2))  # four steps, no merging: often late
        links.step_wait()
        callback.num_timesteps += 64
        callback._on_rollout_end()
    late = np.array([c.multipliers[0] for c in seen])
    assert min(c.costs[0] for c in seen) > 0.1
    most = tight.limits[0] / tight.cost_scales[0]
    np.testing.assert_allclose(np.diff(late), most * (1 - 64 * 20 * np.arange(2, len(seen) + 1) / recipe.samples).clip(0.05), rtol=1e-6)


def test_a_penalty_that_cannot_be_is_refused(small: CMDP) -> None:
    with pytest.raises(ValueError, match="2 numbers that are not negative, got -1, 0"):
        lagrangian.ppo(small, lagrangian.LagrangianRecipe(penalty=(-1.0, 0.0)))
