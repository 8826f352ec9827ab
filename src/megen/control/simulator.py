"""The discrete CMDP as a batch of simulated links: plain NumPy, one row a link, every draw from the generator given.

It steps the very kernel that the linear program solves: a transition's channel, prompt class and phase come from one
alias table, its airtime, gap and the rounding of the backlog from one uniform number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control.kernel import Kernel

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def alias_table(shares: Array) -> tuple[Array, Ints]:
    """Vose's alias method for each row of probabilities [m, n]: keep cell j where the fraction lies below keep[j], else alias[j]."""
    m, n = shares.shape
    keep, alias = np.ones((m, n)), np.tile(np.arange(n), (m, 1))
    for row in range(m):
        scaled = shares[row] * n / shares[row].sum()
        poor, rich = [list(np.flatnonzero(side)) for side in (scaled < 1, scaled >= 1)]
        while poor and rich:
            low, high = poor.pop(), rich[-1]
            keep[row, low], alias[row, low] = scaled[low], high
            scaled[high] -= 1 - scaled[low]
            if scaled[high] < 1:
                poor.append(rich.pop())
    return keep, alias


@dataclass(frozen=True)
class Outcome:
    """What one step gave each link."""

    reward: Array  # [n]
    costs: Array  # [2, n]: 1 where the deadline was missed (or the latency), and the energy in J
    latency_s: Array  # [n]
    airtime: Ints  # [n], which of the equiprobable values was drawn
    gap_s: Array  # [n] until the next request


class Simulator:
    """Tables of one kernel, laid out for speed; states are numbers as in `kernel`, and are the caller's."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        c, p, f, _ = kernel.shape
        joint = np.einsum("cd,q,fg->cfdqg", kernel.channel, kernel.prompts, kernel.phases).reshape(c * f, c * p * f)
        keep, alias = alias_table(joint)
        self._keep, self._alias, self._next = keep.ravel(), alias.ravel(), c * p * f
        self._airtimes, self._gaps = kernel.service_s.shape[-1], kernel.gap_s.shape[-1]
        self._service = np.ascontiguousarray(kernel.service_s).reshape(-1)
        self._energy = np.ascontiguousarray(kernel.energy_j).reshape(-1)
        self._reward = np.ascontiguousarray(kernel.reward).reshape(-1)
        self._gap = np.ascontiguousarray(kernel.gap_s).reshape(-1)
        self._per_s = 1 / kernel.backlog_s[1]
        self._cell_s = float(kernel.backlog_s[1])
        self._start = np.cumsum(kernel.stationary)

    def start(self, n: int, rng: np.random.Generator) -> Ints:
        """First states of n links [n]."""
        return np.minimum(np.searchsorted(self._start, rng.random(n), side="right"), self.kernel.states - 1)

    def step(self, state: Ints, action: Ints, rng: np.random.Generator) -> tuple[Ints, Outcome]:
        """One request on every link: next states [n] and what it cost."""
        _, p, f, w = self.kernel.shape
        rest, backlog = np.divmod(state, w)
        cp, phase = np.divmod(rest, f)
        cpa = cp * self.kernel.actions + action
        drawn = rng.random(len(state)) * (self._airtimes * self._gaps)
        pair = drawn.astype(np.int64)
        air, gap = np.divmod(pair, self._gaps)
        row = cpa * self._airtimes + air
        busy = backlog * self._cell_s + self._service[row]
        gap_s = self._gap[phase * self._gaps + gap]
        place = np.clip((busy - gap_s) * self._per_s, 0, w - 1)
        low = place.astype(np.int64)
        low += (place - low) > (drawn - pair)
        drawn = rng.random(len(state)) * self._next
        cell = drawn.astype(np.int64)
        at = ((cp // p) * f + phase) * self._next + cell
        onward = np.where(drawn - cell < self._keep[at], cell, self._alias[at])
        latency = busy + self.kernel.decode_s
        first = latency if self.kernel.mean_latency else latency > self.kernel.deadline_s
        return onward * w + low, Outcome(self._reward[cpa], np.stack([first, self._energy[row]]), latency, air, gap_s)


def sample(policy: Array, state: Ints, rng: np.random.Generator) -> Ints:
    """Draw a decision [n] of a stochastic policy [S, A] for each state."""
    return choose(policy[state], rng)


def choose(shares: Array, rng: np.random.Generator) -> Ints:
    """Draw from each row of probabilities [n, A]."""
    below = np.cumsum(shares, 1)
    out: Ints = np.minimum((below < rng.random((len(shares), 1)) * below[:, -1:]).sum(1), shares.shape[1] - 1)
    return out
