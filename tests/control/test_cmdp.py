from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megen.control import shield
from megen.control.cmdp import AXES, CMDP, evaluate
from megen.control.features import observation_index
from megen.control.simulator import Simulator
from tests.control.conftest import make_cmdp, state_transitions


def some_policy(cmdp: CMDP, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(cmdp.actions), cmdp.states)


def test_all_transitions_are_distributions(small: CMDP) -> None:
    np.testing.assert_allclose(small.backlog_transitions.sum(-1), 1)
    np.testing.assert_allclose(state_transitions(small, some_policy(small)).sum(1), 1)
    np.testing.assert_allclose(small.start.sum(), 1)
    assert small.backlog_transitions.min() >= 0


def test_the_mean_backlog_is_that_of_the_lindley_recursion(small: CMDP) -> None:
    for c, p, f, a, w in ((0, 0, 0, 3, 2), (2, 1, 1, 0, 0), (1, 0, 0, 2, 5)):
        after = small.backlog_s[w] + small.service_s[c, p, a][:, None] - small.gap_s[f][None]
        want = after.clip(0, small.backlog_s[-1]).mean()
        assert small.backlog_transitions[c, p, f, a, w] @ small.backlog_s == pytest.approx(want)


def test_the_expected_next_value_is_the_mean_over_the_next_state(small: CMDP) -> None:
    value = np.random.default_rng(1).standard_normal(small.states)
    by_action = np.stack(
        [state_transitions(small, np.eye(small.actions)[np.full(small.states, a)]) @ value for a in range(small.actions)], 1
    )
    np.testing.assert_allclose(small.expected_next_value(value), by_action)


def test_costs_by_hand(small: CMDP) -> None:
    _, p, f, w = small.shape
    state = ((1 * p + 1) * f + 0) * w + 2
    latency = small.backlog_s[2] + small.service_s[1, 1, 2] + small.decode_s
    assert small.costs[0, state, 2] == (latency > small.deadline_s).mean()
    latencies = replace(small, cost_names=("latency_s", "energy_j"))
    assert latencies.costs[0, state, 2] == pytest.approx(latency.mean())
    assert small.expected_cost("latency_s")[state, 2] == latencies.costs[0, state, 2]
    assert latencies.expected_cost("late")[state, 2] == small.expected_cost("late")[state, 2] == small.costs[0, state, 2]
    assert small.costs[1, state, 2] == small.cost_tables["energy_j"][1, 1, 2].mean()
    assert small.rewards[state, 2] == small.reward[1, 1, 2]


def test_decoding_may_take_another_time_after_each_decision(small: CMDP) -> None:
    """Half a second more after every second decision is as if its service took as much more, where the server is free at once."""
    cleaned = np.array([0.1, 0.6, 0.1, 0.6])
    cmdp = replace(small, decode_s=cleaned)
    slower = replace(small, service_s=small.service_s + (cleaned - 0.1)[:, None])
    np.testing.assert_allclose(cmdp.costs, slower.costs)
    np.testing.assert_allclose(shield.calibrate(cmdp, 0.1).predicted_s, shield.calibrate(slower, 0.1).predicted_s)
    state, action = np.zeros(8, np.int64), np.arange(8) % 4
    same, longer = (Simulator(x).step(state, action, np.random.default_rng(0))[1].latency_s for x in (small, cmdp))
    np.testing.assert_allclose(longer - same, np.tile([0.0, 0.5], 4))
    assert replace(small, decode_s=np.full(4, 0.1)).digest != cmdp.digest != small.digest
    with pytest.raises(ValueError, match=r"decode_s has the shape \(3,\), expected one number, or one for each decision \(4,\)"):
        replace(small, decode_s=cleaned[:3])


def test_an_evaluation_solves_bellmans_equation_and_agrees_with_its_occupancy(small: CMDP) -> None:
    policy = some_policy(small)
    got = evaluate(small, policy)
    backup = (policy * (small.rewards + small.gamma * small.expected_next_value(got.reward_values))).sum(1)
    np.testing.assert_allclose(got.reward_values, backup)
    matrix = np.eye(small.states) - small.gamma * state_transitions(small, policy)
    np.testing.assert_allclose(got.occupancy, np.linalg.solve(matrix.T, (1 - small.gamma) * small.start))
    np.testing.assert_allclose(got.cost_values[1], np.linalg.solve(matrix, (policy * small.costs[1]).sum(1)))
    assert got.occupancy.sum() == pytest.approx(1)
    assert got.reward == pytest.approx((1 - small.gamma) * small.start @ got.reward_values)
    np.testing.assert_allclose(got.costs, [got.occupancy @ (policy * c).sum(1) for c in small.costs])


@pytest.mark.parametrize("table", ["energy_j", "reward", "service_s", "limits"])
def test_a_number_that_is_not_finite_is_refused_where_it_arises(small: CMDP, table: str) -> None:
    of_costs = table in small.cost_tables
    broken = np.array(small.cost_tables[table] if of_costs else getattr(small, table))
    broken.flat[1] = np.nan
    change = {"cost_tables": {**small.cost_tables, table: broken}} if of_costs else {table: broken}
    with pytest.raises(ValueError, match=rf"{table} of the CMDP is not finite at \[.*1\]"):
        replace(small, **change)
    with pytest.raises(ValueError, match="decode_s of the CMDP is not finite"):
        replace(small, decode_s=float("nan"))


def test_costs_without_a_table_a_limit_or_a_shape_are_refused(small: CMDP) -> None:
    with pytest.raises(ValueError, match=r"no table of the cost water_l: there are late, latency_s, energy_j, ue_energy_j"):
        replace(small, cost_names=("late", "water_l"))
    with pytest.raises(ValueError, match="each cost has one limit: got the costs late and 2 limits"):
        replace(small, cost_names=("late",))
    with pytest.raises(ValueError, match="each cost has one limit"):
        replace(small, cost_names=("late", "late"))
    with pytest.raises(ValueError, match=r"energy_j has the shape \(3, 2, 4, 1\), expected \(3, 2, 4, 2\), or \(3, 2, 6, 4, 2\)"):
        replace(small, cost_tables={"energy_j": small.cost_tables["energy_j"][..., :1]})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: {"reward": c.reward[:, :1]}, r"reward has the shape \(3, 1, 4\), expected \(3, 2, 4\)"),
        (lambda c: {"decisions": c.decisions[:-1]}, "reward has the shape"),
        (lambda c: {"gap_s": c.gap_s[:1]}, "gap_s has the shape"),
        (lambda c: {"deadline_s": np.ones(7)}, r"deadline_s has the shape \(7,\), expected one number, or one for each prompt class"),
        (lambda c: {"channel": c.channel * 0.5}, "rows of channel must be probabilities"),
        (lambda c: {"phases": c.phases - 1}, "rows of phases must be probabilities"),
        (lambda c: {"prompts": np.array([-1.0, 2.0])}, "rows of prompts must be probabilities"),
        (lambda c: {"backlog_s": c.backlog_s[::-1].copy()}, "backlog_s must begin with 0"),
        (lambda c: {"backlog_s": np.zeros(1)}, "two cells or more"),
        (lambda c: {"snr_db": c.snr_db[::-1].copy()}, "snr_db must rise"),
        (lambda c: {"service_s": -c.service_s}, "service_s must not be negative"),
        (lambda c: {"gamma": -1.0}, r"gamma must lie in \(0, 1\], got -1"),
    ],
)
def test_tables_that_are_no_process_are_refused(small: CMDP, change: Callable[[CMDP], dict[str, Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(small, **{"cost_tables": small.cost_tables, **change(small)})


def test_a_policy_whose_rows_are_no_probabilities_is_not_evaluated(small: CMDP) -> None:
    policy = some_policy(small)
    for wrong, why in ((2 * policy, "none negative, of sum 1"), (-policy, "none negative"), (policy * np.nan, "none negative")):
        with pytest.raises(ValueError, match=why):
            evaluate(small, wrong)
    with pytest.raises(ValueError, match="a row for each state"):
        evaluate(small, policy[:, :2])


def test_a_digest_tells_costs_apart_and_knows_the_first_versions_bytes(small: CMDP) -> None:
    """The digest is that of the version that had two fixed costs: its policies stay those of the same tables."""
    assert small.digest == "c5b31526c104f220e5ded60628fe6aa471e9f0c23b174037954733a8e8b892c7"
    assert make_cmdp(0.95).digest != small.digest
    three = replace(small, cost_names=(*small.cost_names, "ue_energy_j"), limits=np.array([0.15, 9.0, 2.0]))
    other = replace(small, cost_tables={**small.cost_tables, "air_s": 0.1 * small.service_s})
    assert len({small.digest, three.digest, other.digest, replace(small, cost_names=("latency_s", "energy_j")).digest}) == 4
    assert replace(small).digest == small.digest


def test_a_cost_may_depend_on_the_backlog(small: CMDP) -> None:
    """A table of waiting times is the latency, less what does not wait."""
    c, p, a, d = small.service_s.shape
    waiting = np.broadcast_to(small.backlog_s[:, None, None], (c, p, len(small.backlog_s), a, d))
    cmdp = replace(small, cost_tables={"waiting_s": waiting}, cost_names=("latency_s", "waiting_s"), limits=np.array([1.0, 0.5]))
    served = small.of_states((small.service_s.mean(-1) + small.decode_s)[:, :, None])
    np.testing.assert_allclose(cmdp.costs[1], cmdp.costs[0] - served, atol=1e-12)


def test_no_cost_at_all_is_a_plain_mdp(small: CMDP) -> None:
    plain, policy = replace(small, cost_names=(), limits=np.zeros(0)), some_policy(small)
    assert plain.costs.shape == (0, small.states, small.actions)
    assert evaluate(plain, policy).reward == pytest.approx(evaluate(small, policy).reward, rel=1e-12)


def test_states_that_look_alike_share_an_observation(small: CMDP) -> None:
    assert (observation_index(small, AXES) == np.arange(small.states)).all()
    assert not observation_index(small, ()).any()
    backlogs = observation_index(small, ("backlog",)).reshape(small.shape)
    assert (backlogs == np.arange(small.shape[3])).all()
    with pytest.raises(ValueError, match="may observe channel, prompt, phase, backlog, got weather"):
        observation_index(small, ("weather",))
