"""The Gymnasium views: they pass Gymnasium's own check, and what they hand out is the CMDP's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from megen.control import env as envs
from megen.control import lp
from megen.control.cmdp import CMDP, evaluate
from megen.control.scenarios import reference
from megen.cost.quality_grid import QualityGrid


def bandit_optimum(cmdp: CMDP) -> tuple[float, np.ndarray]:
    """The best mean reward of a bandit whose slots are independent, and its price of latency.

    Where only the latency's limit binds, the dual is one number: each slot takes what maximises reward - price * latency.
    """
    mean_s = cmdp.service_s.mean(-1)[:, 0] + cmdp.decode_s  # [C, A]
    reward = cmdp.reward[:, 0]

    def told(price: float) -> tuple[float, float]:
        best = (reward - price * mean_s).argmax(1)
        rows = np.arange(len(best))
        return float(reward[rows, best].mean()), float(mean_s[rows, best].mean())

    low, high = 0.0, 1e3
    if told(low)[1] <= cmdp.limits[0]:
        return told(low)[0], np.zeros(1)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if told(middle)[1] > cmdp.limits[0] else (low, middle)
    (r0, t0), (r1, t1) = told(low), told(high)
    share = (cmdp.limits[0] - t1) / (t0 - t1) if t0 > t1 else 0.0
    return share * r0 + (1 - share) * r1, np.array([(low + high) / 2])


@pytest.fixture(scope="module")
def bandit(grid: QualityGrid) -> CMDP:
    return reference.reference_cmdp(grid)


@pytest.mark.parametrize("name", ["AsReleased", "Main", "LongRun", "Battery"])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped")
def test_gymnasium_is_content(name: str, small: CMDP, bandit: CMDP) -> None:
    made = gymnasium.make(f"megen.control.env:megen/{name}-v0", cmdp=bandit if name == "AsReleased" else small)
    check_env(made.unwrapped, skip_render_check=True)
    made.reset(seed=1)
    seen, reward, ended, cut, info = made.step(np.int64(0))
    assert made.observation_space.contains(seen)
    assert isinstance(reward, float)
    assert not ended
    assert not cut
    assert info["cost"].shape == info["limits"].shape == ((3,) if name == "Battery" else (2,))


def test_a_long_episode_has_the_cmdps_means_and_is_cut(small: CMDP) -> None:
    main = envs.Main(small, horizon=6000)
    main.reset(seed=3)
    rewards, costs, cut = [], [], False
    while not cut:
        seen, reward, ended, cut, info = main.step(np.int64(1))
        rewards.append(reward)
        costs.append(info["cost"])
        assert not ended
        assert main.observation_space.contains(seen)
    assert len(rewards) == 6000
    policy = np.tile(np.eye(small.actions)[1], (small.states, 1))
    long_run = evaluate(replace(small, gamma=0.9995), policy)
    assert np.mean(rewards) == pytest.approx(long_run.reward, rel=0.02)
    np.testing.assert_allclose(np.mean(costs, 0), long_run.costs, rtol=0.1, atol=0.01)


def test_the_same_seed_is_the_same_episode(small: CMDP) -> None:
    def run(seed: int) -> list[tuple[float, ...]]:
        battery = envs.Battery(small)
        battery.reset(seed=seed)
        return [(step[1], *step[4]["cost"]) for step in (battery.step(np.int64(i % 4)) for i in range(40))]

    assert run(5) == run(5) != run(6)


def test_an_empty_battery_costs_and_a_large_one_does_not(small: CMDP) -> None:
    def share_empty(capacity_j: float, charge_w: float) -> float:
        battery = envs.Battery(small, capacity_j=capacity_j, charge_w=charge_w, horizon=300)
        battery.reset(seed=0)
        return float(np.mean([battery.step(np.int64(3))[4]["cost"][2] for _ in range(300)]))

    assert share_empty(1e6, 0.0) == 0.0
    assert share_empty(10.0, 0.0) > 0.9
    needed = float(small.cost_tables["ue_energy_j"][:, :, 3].mean())
    assert 0.2 < share_empty(10.0, 0.5 * needed / 0.8) < 0.9


def test_every_decision_can_be_named_by_a_point(small: CMDP) -> None:
    boxed = envs.BoxDecision(envs.Main(small))
    places = envs.decision_places(small.decisions)
    assert [int(boxed.action(p.astype(np.float32))) for p in places] == list(range(small.actions))
    assert boxed.action(np.array([0.1, 0.9], np.float32)) == 1
    assert boxed.action(np.array([9.0, -9.0], np.float32)) == 2
    boxed.reset(seed=0)
    boxed.step(boxed.action_space.sample())


@pytest.mark.usefixtures("unchecked")
def test_one_cost_for_learners_of_one(small: CMDP) -> None:
    plain, mean, energy = envs.Main(small), envs.ScalarCost(envs.Main(small)), envs.ScalarCost(envs.Main(small), 1)
    begun = [env.reset(seed=4)[1] for env in (plain, mean, energy)]
    assert [info["cost"] for info in begun[1:]] == [0.0, 0.0]
    assert [info["limit"] for info in begun[1:]] == [1.0, small.limits[1]]
    told = [env.step(np.int64(2))[4] for env in (plain, mean, energy)]
    assert told[1]["cost"] == pytest.approx(np.mean(told[0]["cost"] / small.limits))
    assert (told[1]["limit"], told[2]["limit"]) == (1.0, small.limits[1])
    assert told[2]["cost"] == told[0]["cost"][1]
    with pytest.raises(ValueError, match="costs 0 to 1, got 2"):
        envs.ScalarCost(envs.Main(small), 2)
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 1, got nan"):
        envs.Main(small, float("nan"))  # type: ignore[arg-type]


def test_wrong_decisions_and_batteries_are_refused(small: CMDP) -> None:
    main = envs.Main(small)
    main.reset(seed=0)
    with pytest.raises(ValueError, match="from 0 to 3, got 4"):
        main.step(np.int64(4))
    with pytest.raises(ValueError, match="capacity must be positive"):
        envs.Battery(small, capacity_j=0)
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 1"):
        envs.Main(small, horizon=0)
    with pytest.raises(ValueError, match="ue_energy_j"):
        envs.Battery(replace(small, cost_tables={"energy_j": small.cost_tables["energy_j"]}))


def test_the_references_rates_and_payloads_are_its_own() -> None:
    snr = reference.snr_db(1000)
    assert snr.min() == pytest.approx(-4.4, abs=0.05)
    assert snr.max() == pytest.approx(2.2, abs=0.05)
    assert (1e6 * np.log2(1 + 10 ** (snr / 10))).mean() == pytest.approx(0.83e6, rel=0.02)
    assert reference.payload_bits(0.0) == 16 * 65536
    assert reference.payload_bits(0.5) == 16 * (32768 + 2048)


def test_the_bandits_program_finds_the_bandits_optimum(bandit: CMDP) -> None:
    assert [d.steps for d in bandit.decisions] == [4, 4, 12, 12]
    assert lp.solve(bandit).multipliers.max() == 0  # an A100 keeps both published limits
    for limit in (2.2, 1.9, 1.6):
        tight = replace(bandit, limits=np.array([limit, 1800.0]))
        best, (reward, prices) = lp.solve(tight), bandit_optimum(tight)
        assert best.reward == pytest.approx(reward, rel=1e-6)
        assert best.costs[0] <= limit + 1e-7
        assert best.multipliers[0] == pytest.approx(prices[0], rel=1e-4)
        assert prices[0] > 0
    with pytest.raises(lp.InfeasibleError, match="latency_s can be no less than"):
        lp.solve(replace(bandit, limits=np.array([0.3, 1800.0])))


def test_episodes_have_the_length_of_their_spec(small: CMDP, bandit: CMDP) -> None:
    for name, cmdp, steps in (("Main", small, 200), ("AsReleased", bandit, 64), ("Battery", small, 200)):
        assert gymnasium.spec(f"megen/{name}-v0").max_episode_steps == steps
        assert gymnasium.make(f"megen/{name}-v0", cmdp=cmdp).unwrapped.horizon == steps
    for options, steps in (
        ({}, 200),
        ({"max_episode_steps": 20}, 20),
        ({"horizon": 30}, 30),
        ({"horizon": 300, "max_episode_steps": 300}, 300),
    ):
        made = gymnasium.make("megen/Main-v0", cmdp=small, **options)
        made.reset(seed=0)
        assert [made.step(np.int64(0))[3] for _ in range(steps)].index(True) == steps - 1


def test_the_environments_are_known_by_their_module_alone() -> None:
    """In a process of its own, which has imported nothing of ours."""
    code = "import gymnasium; print(gymnasium.make('megen.control.env:megen/Main-v0').reset(seed=0)[1]['limits'])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert told.stdout.strip() == "[0.05 6.4 ]"


def test_steps_outside_an_episode_are_refused(small: CMDP) -> None:
    main = envs.Main(small, horizon=3)
    with pytest.raises(ResetNeeded, match="has not begun"):
        main.step(np.int64(0))
    main.reset(seed=0)
    assert [main.step(np.int64(0))[3] for _ in range(3)] == [False, False, True]
    with pytest.raises(ResetNeeded, match="has ended"):
        main.step(np.int64(0))
    main.reset(seed=0)
    main.step(np.int64(0))


def test_an_action_that_is_nan_is_refused(small: CMDP) -> None:
    main, boxed = envs.Main(small), envs.BoxDecision(envs.Main(small))
    main.reset(seed=0)
    boxed.reset(seed=0)
    with pytest.raises(ValueError, match="a decision is a number from 0 to 3, got nan"):
        main.step(np.nan)
    for point in ([np.nan, 0.5], [0.5], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="a point of two numbers"):
            boxed.step(np.array(point, np.float32))


def test_the_long_run_environment_has_the_limits_of_exact_plans() -> None:
    made = gymnasium.make("megen.control.env:megen/LongRun-v0")
    _, info = made.reset(seed=0)
    assert info["limits"].tolist() == [0.05, 6.4, 0.0075]
    assert info["cost"].tolist() == [0.0, 0.0, 0.0]
    *_, info = made.step(0)
    assert info["cost"].shape == (3,)
