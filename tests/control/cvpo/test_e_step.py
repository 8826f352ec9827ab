from __future__ import annotations

import numpy as np
import pytest

from megen.control import lp
from megen.control.cmdp import CMDP, evaluate
from megen.control.cvpo import e_step, tabular
from megen.control.cvpo.e_step import Duals
from megen.control.cvpo.m_step import m_step_policy
from megen.errors import RunError


def problem(seed: int, n: int = 40, a: int = 6, k: int = 2) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    log_old = np.log(rng.dirichlet(np.ones(a), n))
    weight = rng.dirichlet(np.ones(n))
    return log_old, rng.standard_normal((n, a)), rng.random((k, n, a)), weight


@pytest.mark.parametrize("seed", range(4))
def test_the_duals_gradient_against_finite_differences(seed: int) -> None:
    log_old, reward_q, cost_q, weight = problem(seed)
    rng = np.random.default_rng(seed)
    eta, multipliers, bounds = float(rng.uniform(0.3, 2)), rng.uniform(0, 2, 2), rng.random(2)

    def value(e: float, p: np.ndarray) -> float:
        return e_step.dual(Duals(e, p), log_old, reward_q, cost_q, weight, 0.1, bounds)[0]

    _, by_eta, by_multiplier = e_step.dual(Duals(eta, multipliers), log_old, reward_q, cost_q, weight, 0.1, bounds)
    h = 1e-5
    assert by_eta == pytest.approx((value(eta + h, multipliers) - value(eta - h, multipliers)) / (2 * h), abs=1e-7)
    for k in range(2):
        step = h * np.eye(2)[k]
        assert by_multiplier[k] == pytest.approx((value(eta, multipliers + step) - value(eta, multipliers - step)) / (2 * h), abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_at_the_duals_optimum_q_keeps_the_bounds_and_the_divergence(seed: int, scale: float) -> None:
    log_old, reward_q, cost_q, weight = problem(seed)
    reward_q, cost_q = 7 + scale * reward_q, cost_q * np.array([1.0, scale])[:, None, None]
    old = np.exp(log_old)
    before = np.einsum("n,na,kna->k", weight, old, cost_q)
    bounds = before * np.array([0.93, 1.5])  # one binds, the other does not
    duals = e_step.solve_dual(Duals(1.0, np.zeros(2)), log_old, reward_q, cost_q, weight, 0.1, bounds)
    q = e_step.e_step_policy(duals, log_old, reward_q, cost_q)
    spent = np.einsum("n,na,kna->k", weight, q, cost_q)
    assert (spent <= bounds * (1 + 1e-4)).all()
    assert duals.multipliers[1] == pytest.approx(0, abs=1e-6)
    assert duals.multipliers @ (bounds - spent) == pytest.approx(0, abs=1e-3 * scale)
    assert weight @ (q * (np.log(q) - log_old)).sum(1) == pytest.approx(0.1, abs=1e-3)
    assert np.einsum("n,na,na->", weight, q, reward_q) > np.einsum("n,na,na->", weight, old, reward_q)


def test_without_multipliers_it_is_the_unconstrained_e_step() -> None:
    log_old, reward_q, cost_q, weight = problem(5)
    loose = np.array([1e3, 1e3])
    duals = e_step.solve_dual(Duals(1.0, np.ones(2)), log_old, reward_q, cost_q, weight, 0.2, loose)
    alone = e_step.solve_dual(Duals(1.0, np.zeros(0)), log_old, reward_q, cost_q[:0], weight, 0.2, loose[:0])
    np.testing.assert_allclose(duals.multipliers, 0, atol=1e-6)
    assert duals.eta == pytest.approx(alone.eta, rel=1e-3)
    np.testing.assert_allclose(
        e_step.e_step_policy(duals, log_old, reward_q, cost_q), e_step.e_step_policy(alone, log_old, reward_q, cost_q[:0]), atol=1e-3
    )


def test_an_e_step_leaves_the_critics_as_they_were() -> None:
    log_old, reward_q, cost_q, weight = problem(6)
    kept = reward_q.copy(), cost_q.copy(), log_old.copy()
    duals = e_step.solve_dual(Duals(1.0, np.zeros(2)), log_old, reward_q, cost_q, weight, 0.1, np.array([0.4, 0.4]))
    e_step.e_step_policy(duals, log_old, reward_q, cost_q)
    for before, after in zip(kept, (reward_q, cost_q, log_old), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_m_step_is_a_mixture_at_its_bound() -> None:
    rng = np.random.default_rng(7)
    old, q, weight = rng.dirichlet(np.ones(5), 30), rng.dirichlet(np.full(5, 0.2), 30), rng.dirichlet(np.ones(30))
    new, alpha = m_step_policy(q, old, weight, 0.05)
    np.testing.assert_allclose(new, (q + alpha * old) / (1 + alpha))
    assert weight @ (old * np.log(old / new)).sum(1) == pytest.approx(0.05, rel=1e-4)
    # among mixtures and their neighbours, it has the least cross-entropy to q at its divergence
    lagrangian = lambda pi: -(weight @ (q * np.log(pi)).sum(1)) + alpha * (weight @ (old * np.log(old / pi)).sum(1))  # noqa: E731
    for _ in range(20):
        other = new * np.exp(0.05 * rng.standard_normal(new.shape))
        assert lagrangian(other / other.sum(1, keepdims=True)) >= lagrangian(new) - 1e-12
    same, none = m_step_policy(old, old, weight, 0.05)
    assert none == 0
    np.testing.assert_array_equal(same, old)


def test_a_critic_that_is_no_number_is_named_where_it_arises() -> None:
    log_old, reward_q, cost_q, weight = problem(8)
    cost_q[1, 3, 2] = np.nan
    with pytest.raises(RunError, match="critic"):
        e_step.solve_dual(Duals(1.0, np.zeros(2)), log_old, reward_q, cost_q, weight, 0.1, np.array([0.4, 0.4]))


def test_with_exact_critics_it_reaches_the_optimum_and_its_multipliers(small: CMDP) -> None:
    best = lp.solve(small)
    policy, way = tabular.run(small, 40)
    got = evaluate(small, policy)
    assert got.reward == pytest.approx(best.reward, rel=1e-4)
    np.testing.assert_allclose(got.costs, best.costs, rtol=1e-3)
    np.testing.assert_allclose(way[-1].duals.multipliers, best.multipliers, rtol=0.01)


def test_the_published_form_of_the_constraint_does_not(small: CMDP) -> None:
    best = lp.solve(small)
    policy, _ = tabular.run(small, 40, form="value")
    got = evaluate(small, policy)
    assert got.reward < 0.95 * best.reward
    with pytest.raises(ValueError, match="advantage, value"):
        tabular.run(small, 1, form="other")
