from __future__ import annotations

import numpy as np
import pytest

from megen.control.cmdp import CMDP, evaluate
from megen.control.simulator import Simulator, alias_table, choose, sample
from tests.control.conftest import state_transitions


def test_an_alias_table_is_its_distribution() -> None:
    shares = np.random.default_rng(0).dirichlet(np.full(7, 0.4), 5)
    keep, alias = alias_table(shares)
    for row in range(5):
        got = keep[row].copy()
        np.add.at(got, alias[row], 1 - keep[row])
        np.testing.assert_allclose(got / 7, shares[row], atol=1e-12)


def test_steps_follow_the_tables(small: CMDP) -> None:
    simulator, rng, n = Simulator(small), np.random.default_rng(0), 200_000
    _, p, f, w = small.shape
    state = ((1 * p + 1) * f + 0) * w + 2
    after, outcome = simulator.step(np.full(n, state), np.full(n, 3), rng)
    policy = np.eye(small.actions)[np.full(small.states, 3)]
    share = np.bincount(after, minlength=small.states) / n
    want = state_transitions(small, policy)[state]
    assert np.abs(share - want).max() < 5 * np.sqrt(0.25 / n)
    assert outcome.costs[0].mean() == pytest.approx(small.costs[0, state, 3], abs=0.006)
    assert outcome.costs[1].mean() == pytest.approx(small.costs[1, state, 3], rel=0.002)
    assert (outcome.reward == small.rewards[state, 3]).all()
    assert ((outcome.latency_s > small.deadline_s) == outcome.costs[0].astype(bool)).all()


def test_long_runs_agree_with_the_exact_evaluation(small: CMDP) -> None:
    policy = np.random.default_rng(3).dirichlet(np.ones(small.actions), small.states)
    exact, simulator, rng = evaluate(small, policy), Simulator(small), np.random.default_rng(4)
    n, horizon = 4000, 120
    state = simulator.start(n, rng)
    total = np.zeros((3, n))
    for t in range(horizon):
        state, outcome = simulator.step(state, sample(policy, state, rng), rng)
        total += (1 - small.gamma) * small.gamma**t * np.stack([outcome.reward, outcome.costs[0], outcome.costs[1]])
    error = total.std(1) / np.sqrt(n)
    assert (np.abs(total.mean(1) - [exact.reward, *exact.costs]) < 4.5 * error + 1e-4).all()


def test_the_same_generator_gives_the_same_run_and_states_are_the_callers(small: CMDP) -> None:
    simulator = Simulator(small)
    state = simulator.start(50, np.random.default_rng(1))
    kept = state.copy()
    first, second = (simulator.step(state, np.zeros(50, np.int64), np.random.default_rng(2))[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(state, kept)


def test_decisions_are_drawn_with_their_probabilities() -> None:
    shares = np.array([0.1, 0.0, 0.6, 0.3])
    got = np.bincount(choose(np.tile(shares, (50_000, 1)), np.random.default_rng(0)), minlength=4) / 50_000
    np.testing.assert_allclose(got, shares, atol=0.01)
    assert got[1] == 0
