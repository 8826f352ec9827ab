"""A rule of four numbers, and its exact evaluation on the tables of the main process, apart from the learners' code.

decision(c, p, f, W) = argmax over a of  r - lambda P(late) - k_f S (1 + b W)

with r the reward, S the mean service in s, W the backlog in s, f the arrival phase: a price of being late, a price of the server's
seconds in a burst and in a lull, and how much dearer they are behind a backlog.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experiments.real_process import process
from experiments.real_process.process import Choose, Inputs

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """Prices in units of the reward (nats)."""

    late: float  # of a miss
    burst: float  # of a second of service
    lull: float
    backlog: float  # by how much of itself a second grows dearer with each second of backlog

    def decisions(self, tables: Tables, backlog_s: Array) -> Ints:
        """[C, P, F, W] for any backlogs [W]."""
        misses = tables.misses(backlog_s)  # [C, P, W, A]
        work = tables.service_s.mean(-1)[:, :, None] * (1 + self.backlog * backlog_s[:, None])
        worth = tables.inputs.reward[:, :, None] - self.late * misses
        return np.stack([(worth - price * work).argmax(-1) for price in (self.burst, self.lull)], 2)

    def chooser(self, tables: Tables, cell_s: float = 0.01) -> Choose:
        """The rule for `process.simulate`: looked up in backlogs of 10 ms; beyond 3 s every decision is late."""
        looked_up = self.decisions(tables, np.arange(0, process.TOP_S, cell_s))
        return lambda c, p, f, w, rng: looked_up[c, p, f, np.minimum((w / cell_s).astype(np.int64), looked_up.shape[-1] - 1)]


@dataclass(frozen=True)
class Tables:
    """The main process cut as docs/control.md says: eight airtimes, eight gaps, 31 cells of backlog, Tauchen's chain of SNRs."""

    inputs: Inputs

    @cached_property
    def backlog_s(self) -> Array:
        """[W]"""
        return np.linspace(0, process.TOP_S, round(process.TOP_S / process.CELL_S) + 1)

    @cached_property
    def service_s(self) -> Array:
        """[C, P, A, K]"""
        return self.inputs.worked_s[:, None] + self.inputs.airtime_s[:, :, self.inputs.ratio]

    @cached_property
    def energy_j(self) -> Array:
        """[C, P, A]"""
        return self.inputs.fixed_j + process.RADIO_W * self.inputs.airtime_s[:, :, self.inputs.ratio].mean(-1)

    @cached_property
    def channel(self) -> Array:
        """[C, C']"""
        from scipy.stats import norm

        levels, rho = self.inputs.snr_db, process.SNR_CORRELATION
        edges = (levels[1:] + levels[:-1]) / 2
        centre = process.SNR_MEAN_DB + rho * (levels - process.SNR_MEAN_DB)
        below = norm.cdf((edges - centre[:, None]) / (process.SNR_STD_DB * np.sqrt(1 - rho**2)))
        return np.diff(below, axis=1, prepend=0, append=1)

    @cached_property
    def start(self) -> Array:
        """Stationary channel [C] times phase [F]."""
        share = np.linalg.matrix_power(self.channel, 4096)[0]
        stay = process.PHASE_STAY
        return share[:, None] * (1 - stay[::-1]) / (2 - stay.sum())

    def misses(self, backlog_s: Array) -> Array:
        """Probability of a miss [C, P, W, A]."""
        after = backlog_s[:, None, None] + self.service_s[:, :, None] + self.inputs.decode_s
        return (after > process.DEADLINE_S).mean(-1)

    @cached_property
    def _misses(self) -> Array:
        return self.misses(self.backlog_s)

    def evaluate(self, probabilities: Array) -> dict[str, float]:
        """Discounted means from an empty server of a policy [C, P, F, W, A], by its occupancy of (channel, phase, backlog)."""
        c, f, w = len(self.inputs.snr_db), 2, len(self.backlog_s)
        n, stay = c * f * w, process.PHASE_STAY
        phases = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
        weighted = np.einsum("p,cpfwa->cpfwa", self.inputs.prompts, probabilities)
        at = np.argwhere(weighted > 0)
        ci, pi, fi, wi, ai = at.T
        gaps = process.quantiles(process.MEAN_GAP_S, process.GAPS)
        left = self.backlog_s[wi][:, None, None] + self.service_s[ci, pi, ai][:, :, None] - gaps[fi][:, None]  # [n, K, G]
        place = np.clip(left / process.CELL_S, 0, w - 1)
        low = np.minimum(place.astype(np.int64), w - 2)
        share = np.broadcast_to((weighted[tuple(at.T)] / left[0].size)[:, None, None], left.shape)
        row = (((ci * f + fi) * w + wi) * w)[:, None, None] + low
        kept = np.bincount(row.ravel(), (share * (1 - place + low)).ravel(), n * w)
        kept += np.bincount(row.ravel() + 1, (share * (place - low)).ravel(), n * w)
        flow = np.einsum("cfwv,cd,fg->dgvcfw", kept.reshape(c, f, w, w), self.channel, phases, optimize=True).reshape(n, n)
        start = np.zeros((c, f, w))
        start[..., 0] = (1 - process.GAMMA) * self.start
        occupancy = np.linalg.solve(np.eye(n) - process.GAMMA * flow, start.ravel()).reshape(c, f, w)
        visits = np.einsum("cfw,cpfwa->cpwa", occupancy, weighted)
        by_name = {"reward": self.inputs.reward[:, :, None], "late": self._misses, "energy_j": self.energy_j[:, :, None]}
        return {name: float((visits * table).sum()) for name, table in by_name.items()}

    def evaluate_rule(self, rule: Rule) -> dict[str, float]:
        """The same of a rule."""
        return self.evaluate(np.eye(len(self.inputs.decisions))[rule.decisions(self, self.backlog_s)])
