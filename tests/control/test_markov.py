"""Linear algebra of the chain: closed forms, and against dense matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megen.control import markov
from megen.control.cmdp import CMDP, evaluate
from megen.control.markov import mean_excess, split_between_cells
from tests.control.conftest import state_transitions
from tests.control.test_cmdp import some_policy


def test_the_mean_excess_is_that_of_the_draws() -> None:
    rng = np.random.default_rng(0)
    draws, thresholds = rng.normal(size=(5, 17)), np.sort(rng.normal(size=9))
    direct = np.maximum(draws[:, None] - thresholds[:, None], 0).mean(-1)
    np.testing.assert_allclose(mean_excess(draws, thresholds), direct, atol=1e-14)


@pytest.mark.parametrize("cells", [np.linspace(0, 2, 9), np.array([0, 0.1, 0.2, 0.5, 1.4, 4.0])])
def test_a_split_keeps_the_mean_within_the_cells_and_clips_beyond(cells: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(0.1, 0.6, size=(3, 2, 11))
    split = split_between_cells(draws, cells)
    np.testing.assert_allclose(split.sum(-1), 1, atol=1e-12)
    assert (split >= 0).all()
    mean = np.clip(cells[:, None] + draws[:, :, None], 0, cells[-1]).mean(-1)
    np.testing.assert_allclose(split @ cells, mean, atol=1e-12)


def test_what_falls_on_a_cell_goes_to_it_alone() -> None:
    cells = np.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(split_between_cells(np.array([0.3]), cells)[0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(split_between_cells(np.array([0.65]), cells)[0], [0, 0.5, 0.5], atol=1e-12)


@pytest.mark.parametrize("dense", [0, 700])
@pytest.mark.parametrize("gamma", [0.5, 0.98, 1.0])
def test_evaluation_is_the_dense_systems(small: CMDP, gamma: float, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markov, "DENSE", dense)
    cmdp = replace(small, gamma=gamma)
    policy = some_policy(cmdp)
    moves = state_transitions(cmdp, policy)
    reward = (policy * cmdp.rewards).sum(1)
    got = evaluate(cmdp, policy)
    if gamma < 1:
        values = np.linalg.solve(np.eye(cmdp.states) - gamma * moves, reward)
        np.testing.assert_allclose(got.reward_values, values, atol=1e-8)
        visits = (1 - gamma) * np.linalg.solve(np.eye(cmdp.states) - gamma * moves.T, cmdp.start)
    else:
        power = np.linalg.matrix_power(moves, 4096)
        visits = cmdp.start @ power
        assert got.reward == pytest.approx(visits @ reward)
        # the Poisson equation: h - P h = r - mean
        np.testing.assert_allclose(got.reward_values - moves @ got.reward_values, reward - got.reward, atol=1e-8)
    np.testing.assert_allclose(got.occupancy, visits, atol=1e-9)


def test_a_long_horizon_comes_near_the_long_run(small: CMDP) -> None:
    policy = some_policy(small)
    near, far = (evaluate(replace(small, gamma=g), policy) for g in (0.99999, 1.0))
    assert near.reward == pytest.approx(far.reward, abs=1e-3)
    np.testing.assert_allclose(near.costs, far.costs, atol=1e-3)
