"""The two halves of constrained variational policy optimisation (Liu et al. 2022) for discrete decisions, as pure functions.

E-step: the distribution q(a|s) ~ pi_old(a|s) exp((Q_r - sum_k lambda_k Q_ck) / eta) is the best one within a KL ball of
the old policy whose mean cost keeps the bounds b_k; eta and lambda >= 0 minimise the convex dual
g = eta eps + sum_k lambda_k b_k + eta E_s log sum_a pi_old(a|s) exp((Q_r - sum_k lambda_k Q_ck) / eta).
Sums over decisions are exact, no decision is sampled. M-step: fit q under KL(pi_old || pi) <= eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp, softmax

Array = NDArray[np.float64]
LEAST_ETA = 1e-4
MOST_PRICE = 1e4


@dataclass(frozen=True)
class Duals:
    """Temperature eta and the price lambda [K] of each cost."""

    eta: float
    prices: Array


def dual(
    eta: float, prices: Array, log_old: Array, reward_q: Array, cost_q: Array, weight: Array, epsilon: float, bounds: Array
) -> tuple[float, float, Array]:
    """g(eta, lambda) and its derivatives by eta and by lambda [K].

    `log_old`, `reward_q` [n, A] and `cost_q` [K, n, A] belong to n states of `weight` [n], which sums to 1.
    """
    priced = reward_q - np.tensordot(prices, cost_q, 1)
    exponent = log_old + priced / eta
    log_z = logsumexp(exponent, axis=1)
    q = np.exp(exponent - log_z[:, None])
    value = eta * epsilon + prices @ bounds + eta * (weight @ log_z)
    by_eta = epsilon + weight @ (log_z - (q * priced).sum(1) / eta)
    by_price = bounds - np.array([weight @ (q * c).sum(1) for c in cost_q])
    return float(value), float(by_eta), by_price


def improved(duals: Duals, log_old: Array, reward_q: Array, cost_q: Array) -> Array:
    """q(a|s) [n, A]."""
    out: Array = softmax(log_old + (reward_q - np.tensordot(duals.prices, cost_q, 1)) / duals.eta, axis=1)
    return out


def solve_dual(start: Duals, log_old: Array, reward_q: Array, cost_q: Array, weight: Array, epsilon: float, bounds: Array) -> Duals:
    """Minimise the dual from `start`, by L-BFGS-B with the analytic gradient; costs are taken in units of their spread.

    Errors: FloatingPointError where a critic's value is no number.
    """
    if not (np.isfinite(reward_q).all() and np.isfinite(cost_q).all() and np.isfinite(bounds).all()):
        raise FloatingPointError("a critic gave a value that is no number")
    level = reward_q.mean(1, keepdims=True)  # q does not change with it, and numbers stay small
    spread = max(float(np.sqrt(weight @ ((reward_q - level) ** 2).mean(1))), 1e-9)
    own = np.maximum(np.sqrt(np.einsum("n,kna->k", weight, (cost_q - cost_q.mean(2, keepdims=True)) ** 2) / cost_q.shape[2]), 1e-9)
    shift = cost_q.mean(2, keepdims=True)
    centred_bounds = bounds - np.array([weight @ s[:, 0] for s in shift])
    scaled = ((reward_q - level) / spread, (cost_q - shift) / own[:, None, None], centred_bounds / own)

    def told(x: Array) -> tuple[float, Array]:
        value, by_log_eta, by_price = dual(np.exp(x[0]), x[1:], log_old, scaled[0], scaled[1], weight, epsilon, scaled[2])
        return value, np.append(by_log_eta * np.exp(x[0]), by_price)

    first = np.append(np.log(np.clip(start.eta / spread, LEAST_ETA, 1e6)), np.clip(start.prices * own / spread, 0, MOST_PRICE))
    limits = [(np.log(LEAST_ETA), np.log(1e6)), *[(0.0, MOST_PRICE)] * len(bounds)]
    found = minimize(told, first, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 300, "ftol": 1e-13, "gtol": 1e-9})
    return Duals(float(np.exp(found.x[0]) * spread), found.x[1:] * spread / own)


def mixed(q: Array, old: Array, weight: Array, epsilon: float) -> tuple[Array, float]:
    """The M-step without function approximation: (q + alpha old) / (1 + alpha), and the least alpha >= 0 whose mean
    KL(old || new) is at most `epsilon`."""

    def divergence(alpha: float) -> float:
        new = (q + alpha * old) / (1 + alpha)
        return float(weight @ np.where(old > 0, old * np.log(np.maximum(old, 1e-300) / np.maximum(new, 1e-300)), 0.0).sum(1))

    if divergence(0.0) <= epsilon:
        return q, 0.0
    most = 1.0
    while divergence(most) > epsilon:
        most *= 4
    alpha = float(brentq(lambda a: divergence(a) - epsilon, 0.0, most, xtol=1e-9))
    return (q + alpha * old) / (1 + alpha), alpha
