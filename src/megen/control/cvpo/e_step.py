"""The E-step of constrained variational policy optimisation (Liu et al. 2022) for discrete decisions, as pure functions.

The distribution q(a|s) ~ pi_old(a|s) exp((Q_r - sum_k lambda_k Q_ck) / eta) is the best one within a KL ball of
the old policy whose mean cost keeps the bounds b_k; eta and lambda >= 0 minimise the convex dual
g = eta eps + sum_k lambda_k b_k + eta E_s log sum_a pi_old(a|s) exp((Q_r - sum_k lambda_k Q_ck) / eta).
Sums over decisions are exact, no decision is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from megen.errors import RunError

Array = NDArray[np.float64]
LEAST_ETA, MOST_ETA = 1e-4, 1e6
MOST_MULTIPLIER = 1e4


@dataclass(frozen=True)
class Duals:
    """Temperature eta and the multiplier lambda [K] of each cost."""

    eta: float
    multipliers: Array


def dual(
    duals: Duals, log_old: Array, reward_q: Array, cost_q: Array, weight: Array, epsilon: float, bounds: Array
) -> tuple[float, float, Array]:
    """g(eta, lambda) and its derivatives by eta and by lambda [K].

    `log_old`, `reward_q` [n, A] and `cost_q` [K, n, A] belong to n states of `weight` [n], which sums to 1.
    """
    eta, multipliers = duals.eta, duals.multipliers
    lagrangian_q = reward_q - np.tensordot(multipliers, cost_q, 1)
    exponent = log_old + lagrangian_q / eta
    log_z = logsumexp(exponent, axis=1)
    q = np.exp(exponent - log_z[:, None])
    value = eta * epsilon + multipliers @ bounds + eta * (weight @ log_z)
    by_eta = epsilon + weight @ (log_z - (q * lagrangian_q).sum(1) / eta)
    by_multiplier = bounds - np.array([weight @ (q * c).sum(1) for c in cost_q])
    return float(value), float(by_eta), by_multiplier


def e_step_policy(duals: Duals, log_old: Array, reward_q: Array, cost_q: Array) -> Array:
    """q(a|s) [n, A]."""
    out: Array = softmax(log_old + (reward_q - np.tensordot(duals.multipliers, cost_q, 1)) / duals.eta, axis=1)
    return out


def solve_dual(start: Duals, log_old: Array, reward_q: Array, cost_q: Array, weight: Array, epsilon: float, bounds: Array) -> Duals:
    """Minimise the dual from `start`, by L-BFGS-B with the analytic gradient; costs are taken in units of their spread.

    Errors: RunError where a critic's value is NaN or infinite.
    """
    if not (np.isfinite(reward_q).all() and np.isfinite(cost_q).all() and np.isfinite(bounds).all()):
        raise RunError("a critic gave a value that is NaN or infinite")
    level = reward_q.mean(1, keepdims=True)  # q does not change with it, and numbers stay small
    reward_scale = max(float(np.sqrt(weight @ ((reward_q - level) ** 2).mean(1))), 1e-9)
    shift = cost_q.mean(2, keepdims=True)
    scales = np.maximum(np.sqrt(np.einsum("n,kna->k", weight, (cost_q - shift) ** 2) / cost_q.shape[2]), 1e-9)
    centred_bounds = bounds - np.array([weight @ s[:, 0] for s in shift])
    scaled = ((reward_q - level) / reward_scale, (cost_q - shift) / scales[:, None, None])

    def objective(x: Array) -> tuple[float, Array]:
        duals = Duals(np.exp(x[0]), x[1:])
        value, by_eta, by_multiplier = dual(duals, log_old, scaled[0], scaled[1], weight, epsilon, centred_bounds / scales)
        return value, np.append(by_eta * np.exp(x[0]), by_multiplier)

    multipliers = np.clip(start.multipliers * scales / reward_scale, 0, MOST_MULTIPLIER)
    first = np.append(np.log(np.clip(start.eta / reward_scale, LEAST_ETA, MOST_ETA)), multipliers)
    box = [(np.log(LEAST_ETA), np.log(MOST_ETA)), *[(0.0, MOST_MULTIPLIER)] * len(bounds)]
    result = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 300, "ftol": 1e-13, "gtol": 1e-9})
    return Duals(float(np.exp(result.x[0]) * reward_scale), result.x[1:] * reward_scale / scales)
