"""The CMDP as a batch of simulated links: plain NumPy, one row a link, every draw from the generator given.

It steps the very tables of the exact optimum: a transition's channel, prompt class and phase come from one
alias table, its airtime, gap and the rounding of the backlog from one uniform number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control.cmdp import CMDP
from megen.errors import RunError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def alias_table(probabilities: Array) -> tuple[Array, Ints]:
    """Vose's alias method for each row [m, n]: take cell j where the fraction lies below threshold[j], else alias[j]."""
    m, n = probabilities.shape
    threshold, alias = np.ones((m, n)), np.tile(np.arange(n), (m, 1))
    for row in range(m):
        scaled = probabilities[row] * n / probabilities[row].sum()
        poor, rich = [list(np.flatnonzero(side)) for side in (scaled < 1, scaled >= 1)]
        while poor and rich:  # each round settles one cell
            low, high = poor.pop(), rich[-1]
            threshold[row, low], alias[row, low] = scaled[low], high
            scaled[high] -= 1 - scaled[low]
            if scaled[high] < 1:
                poor.append(rich.pop())
    return threshold, alias


@dataclass(frozen=True)
class Outcome:
    """What one step gave each link."""

    reward: Array  # [n]
    costs: Array  # [K, n], as the CMDP names them; `late` is 1 where the deadline was missed
    latency_s: Array  # [n]
    draw: Ints  # [n], which of the equiprobable services was drawn
    gap_s: Array  # [n] until the next request


class Simulator:
    """Tables of one CMDP, laid out for speed; states are numbers as in `cmdp`, and are the caller's."""

    def __init__(self, cmdp: CMDP) -> None:
        self.cmdp = cmdp
        c, p, f, _ = cmdp.shape
        joint = np.einsum("cd,q,fg->cfdqg", cmdp.channel, cmdp.prompts, cmdp.phases).reshape(c * f, c * p * f)
        threshold, alias = alias_table(joint)
        self._threshold, self._alias, self._next = threshold.ravel(), alias.ravel(), c * p * f
        self._draws, self._gaps = cmdp.service_s.shape[-1], cmdp.gap_s.shape[-1]
        self._service = np.ascontiguousarray(cmdp.service_s).reshape(-1)
        self._costs = {name: np.ascontiguousarray(cmdp.cost_tables[name]) for name in cmdp.cost_names if name in cmdp.cost_tables}
        self._reward = np.ascontiguousarray(cmdp.reward).reshape(-1)
        self._gap = np.ascontiguousarray(cmdp.gap_s).reshape(-1)
        self._backlog = cmdp.backlog_s
        self._even = bool(np.allclose(np.diff(cmdp.backlog_s), cmdp.backlog_s[1]))
        self._cells = np.arange(float(len(cmdp.backlog_s)))
        self._start = np.cumsum(cmdp.start)
        self._decodings_s = cmdp.decodings_s
        self._deadlines_s = np.tile(cmdp.deadlines_s, c)

    def start(self, n: int, rng: np.random.Generator) -> Ints:
        """First states of n links [n]."""
        return np.minimum(np.searchsorted(self._start, rng.random(n), side="right"), self.cmdp.states - 1)

    def step(self, state: Ints, action: Ints, rng: np.random.Generator) -> tuple[Ints, Outcome]:
        """One request on every link: next states [n] and what it cost."""
        _, p, f, w = self.cmdp.shape
        rest, backlog = np.divmod(state, w)
        cp, phase = np.divmod(rest, f)
        cpa = cp * self.cmdp.actions + action
        drawn = rng.random(len(state)) * (self._draws * self._gaps)
        pair = drawn.astype(np.int64)
        draw, gap = np.divmod(pair, self._gaps)
        row = cpa * self._draws + draw
        busy_s = self._backlog[backlog] + self._service[row]
        gap_s = self._gap[phase * self._gaps + gap]
        left_s = busy_s - gap_s
        place = np.clip(left_s / self._backlog[1], 0, w - 1) if self._even else np.interp(left_s, self._backlog, self._cells)
        low = place.astype(np.int64)
        low += (place - low) > (drawn - pair)
        drawn = rng.random(len(state)) * self._next
        cell = drawn.astype(np.int64)
        at = ((cp // p) * f + phase) * self._next + cell
        after = np.where(drawn - cell < self._threshold[at], cell, self._alias[at])
        latency_s = busy_s + self._decodings_s[action]
        costs = np.empty((len(self.cmdp.cost_names), len(state)))
        for k, name in enumerate(self.cmdp.cost_names):
            table = self._costs.get(name)
            if table is None:
                costs[k] = latency_s if name == "latency_s" else latency_s > self._deadlines_s[cp]
            else:
                costs[k] = table.reshape(-1)[
                    row if table.ndim == 4 else ((cp * w + backlog) * self.cmdp.actions + action) * self._draws + draw
                ]
        return after * w + low, Outcome(self._reward[cpa], costs, latency_s, draw, gap_s)


def choose(probabilities: Array, rng: np.random.Generator) -> Ints:
    """Draw a number [n] from each row of probabilities [n, A]."""
    below = np.cumsum(probabilities, 1)
    out: Ints = np.minimum((below < rng.random((len(probabilities), 1)) * below[:, -1:]).sum(1), probabilities.shape[1] - 1)
    return out


def sample(policy: Array, state: Ints, rng: np.random.Generator) -> Ints:
    """Draw a decision [n] of a stochastic policy [S, A] for each state."""
    return choose(policy[state], rng)


@dataclass(frozen=True)
class Rollout:
    """Steps of many links: states [T + 1, n], decisions [T, n], rewards [T, n] and costs [K, T, n]."""

    states: Ints
    actions: Ints
    rewards: Array
    costs: Array


def rollout(simulator: Simulator, policy: Array, links: int, horizon: int, rng: np.random.Generator, start: Ints | None = None) -> Rollout:
    """Run `links` links for `horizon` requests with a stochastic policy [S, A], from the states `start` or the start distribution.

    Errors: RunError where a reward or a cost is NaN or infinite.
    """
    states, actions = np.empty((horizon + 1, links), np.int64), np.empty((horizon, links), np.int64)
    rewards, costs = np.empty((horizon, links)), np.empty((len(simulator.cmdp.cost_names), horizon, links))
    states[0] = simulator.start(links, rng) if start is None else start
    for t in range(horizon):
        actions[t] = sample(policy, states[t], rng)
        states[t + 1], outcome = simulator.step(states[t], actions[t], rng)
        rewards[t], costs[:, t] = outcome.reward, outcome.costs
    if not (np.isfinite(rewards).all() and np.isfinite(costs).all()):
        raise RunError("the simulator gave a reward or a cost that is NaN or infinite: the quality grid or a profile is broken")
    return Rollout(states, actions, rewards, costs)
