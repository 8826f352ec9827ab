"""Linear algebra of a Markov chain over (class, backlog): what a stage passes on, what a policy is worth, how often a state is visited.

The chain first moves the backlog within a class and then the class itself: P = M C, with M = diag(M_1 .. M_B) of W x W blocks and
C a B x B mixing. Systems in I - gamma P are solved by one factorisation, or where they are large by BiCGSTAB (van der Vorst 1992) in some
fifty products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lu_factor, lu_solve
from scipy.sparse.linalg import LinearOperator, bicgstab

from megen.errors import RunError

Array = NDArray[np.float64]
EXACT = 1e-13  # of a solution's residual, relative
PRODUCTS = 2000
ILL = "the tables are too ill-conditioned: bring gaps, deadlines and the backlog's top closer to the seconds that a request takes"
DENSE = 700  # unknowns up to which a factorisation is faster


def stationary_distribution(matrix: Array) -> Array:
    """The stationary distribution of a row-stochastic matrix."""
    n = len(matrix)
    system = np.vstack([matrix.T - np.eye(n), np.ones(n)])
    out: Array = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]
    return out


def mean_excess(draws: Array, thresholds: Array) -> Array:
    """E[(X - t)+] of equiprobable draws [m, n] at rising thresholds [k]: [m, k]."""
    rows, n, k = len(draws), draws.shape[1], len(thresholds)
    draws = np.maximum(draws, thresholds[0])  # what lies far below would come back by rounding
    below = np.searchsorted(thresholds, draws)  # thresholds under each draw: those that it exceeds
    place = (np.arange(rows)[:, None] * (k + 1) + below).ravel()

    def beyond(weights: Array) -> Array:
        """For each threshold the sum of the weights of the draws beyond it."""
        up_to = np.bincount(place, weights.ravel(), rows * (k + 1)).reshape(rows, k + 1).cumsum(1)
        out: Array = up_to[:, -1:] - up_to[:, :-1]
        return out

    excess: Array = (beyond(draws) - beyond(np.ones_like(draws)) * thresholds) / n
    return excess


def split_between_cells(draws: Array, cells: Array) -> Array:
    """Probability [..., W, W'] of the next cell, from each of the rising `cells` [W] plus a draw [..., n], clipped to them.

    What ends between two cells is split linearly between them, so that the mean stays exact: the share of a cell is the difference
    of the slopes of E[(X - t)+] on both its sides.
    """
    count = len(cells)
    apart, place = np.unique((cells[None] - cells[:, None]).round(12), return_inverse=True)
    excess = mean_excess(draws.reshape(-1, draws.shape[-1]), apart)[:, place.reshape(count, count)]
    slopes = (excess[..., :-1] - excess[..., 1:]) / np.diff(cells)  # share that ends beyond, between each two cells
    out = np.empty((len(excess), count, count))
    out[..., 0], out[..., -1] = 1 - slopes[..., 0], slopes[..., -1]
    out[..., 1:-1] = slopes[..., :-1] - slopes[..., 1:]
    np.maximum(out, 0.0, out=out)  # rounding, 1e-14
    return out.reshape(*draws.shape[:-1], count, count)


@dataclass(frozen=True)
class Chain:
    """P = M C over B classes of W cells, from `start` [B * W]; gamma 1: the long-run mean, of a chain with one recurrent class."""

    blocks: Array  # M [B, W, W]
    mixing: Array  # C [B, B]
    gamma: float
    start: Array

    @cached_property
    def _factors(self) -> Any:
        """The factors of I - gamma P, where it is small."""
        count, width = len(self.blocks), self.blocks.shape[1]
        moves = np.einsum("awv,ab->awbv", self.blocks, self.mixing).reshape(count * width, -1)
        system = np.eye(len(moves)) - self.gamma * moves
        return lu_factor(system + self.start if self.gamma == 1 else system, check_finite=False)

    def values(self, signal: Array, guess: Array | None = None, accuracy: float = EXACT) -> Array:
        """(I - gamma P)^-1 signal [B * W]; at gamma 1 the bias h with h - P h = signal - mean and start @ h = mean."""
        if len(self.start) <= DENSE:
            solved: Array = lu_solve(self._factors, signal, check_finite=False)
            return solved

        def product(x: Array) -> Array:
            moved = self.blocks @ (self.mixing @ x.reshape(len(self.blocks), -1))[..., None]
            out: Array = x - self.gamma * moved.ravel()
            return out + self.start @ x if self.gamma == 1 else out

        return _solved(product, signal, guess, accuracy)

    def mean_of(self, values: Array) -> float:
        """The mean of what `values` were worked out for: (1 - gamma) sum gamma^t from the start, or in the long run."""
        return float(self.start @ values) * (1 if self.gamma == 1 else 1 - self.gamma)

    def visits(self) -> Array:
        """Discounted or long-run share of requests in each state [B * W], of sum 1."""
        entered = self.start * (1 if self.gamma == 1 else 1 - self.gamma)
        if len(self.start) <= DENSE:
            solved: Array = lu_solve(self._factors, entered, trans=1, check_finite=False)
            return solved

        def product(x: Array) -> Array:
            moved = self.mixing.T @ (x.reshape(len(self.blocks), 1, -1) @ self.blocks)[:, 0]
            out: Array = x - self.gamma * moved.ravel()
            return out + self.start * x.sum() if self.gamma == 1 else out

        return _solved(product, entered, None, EXACT)


def _solved(product: Callable[[Array], Array], right: Array, guess: Array | None, accuracy: float) -> Array:
    """x with product(x) = right. Errors: RunError where BiCGSTAB does not end."""
    if not right.any():
        return np.zeros_like(right)
    system = LinearOperator((len(right), len(right)), matvec=product, dtype=np.float64)
    x, unfinished = bicgstab(system, right, x0=guess, rtol=accuracy, maxiter=PRODUCTS)
    if unfinished and np.abs(system.matvec(x) - right).max() > 1e4 * accuracy * np.abs(right).max():
        raise RunError(f"the linear system of a policy was not solved: {ILL}")
    out: Array = x
    return out
