"""A judge off the tables: the control process simulated as it is described, and not as any planner or learner discretises it.

A request finds an SNR (first-order Gaussian, measured at the grid's nearest one), its prompt class and budget, the arrival phase and the
backlog W >= 0, which nothing clips. A decision keeps the edge server busy for S = text + steps + merge + code + airtime, each with its
spread; the airtime is one measured transmission of a prompt that nothing was planned on. The image is there after L = W + S + decoding;
the next request finds W' = max(W + S - G, 0) with an exponential gap G of the phase's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.control.policy import Policy
from megen.control.scenarios.main import Scenario
from megen.cost.device_profile import DeviceProfile
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError
from megen.types import Decision

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
WINDOW = 200  # requests whose mean is held against a limit where nothing may cancel
WARM_UP = 100  # steps that bring channel and phase to their own stationary law
BATCHES = 32  # of links, for standard errors

# decisions [n] of requests that find channel class, prompt class, budget class, phase [n] and backlog in s [n]
Choose = Callable[[Ints, Ints, Ints, Ints, Array, np.random.Generator], Ints]


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error over independent links."""

    mean: float
    error: float


@dataclass(frozen=True)
class Verdict:
    """Long-run means of one policy on the process as described.

    `means` has reward, every cost, latency, backlog, shares of named attributes and PSNR by their names; `over_limit` is mean / limit - 1;
    `strong_violation` the mean excess [mean / limit - 1]+ of single windows of requests, which a calm window does not make up for.
    """

    requests: int
    means: dict[str, Mean]
    over_limit: dict[str, Mean]
    strong_violation: dict[str, float]

    def figures(self) -> dict[str, Any]:
        """Everything by its name, for a result file."""
        means = {name: {"mean": m.mean, "standard_error": m.error} for name, m in self.means.items()}
        over = {name: m.mean for name, m in self.over_limit.items()}
        errors = {name: m.error for name, m in self.over_limit.items()}
        return {
            "requests": self.requests,
            "over_limit": over,
            "over_limit_error": errors,
            "strong_violation": self.strong_violation,
            "means": means,
        }


@dataclass(frozen=True)
class Process:
    """What a scenario's requests meet on two machines; errors as `Scenario` and on profiles of unlike backbones."""

    scenario: Scenario
    grid: QualityGrid
    server: DeviceProfile
    phone: DeviceProfile

    def __post_init__(self) -> None:
        names = {self.server.backbone, self.phone.backbone, str(self.grid.about.get("backbone", self.server.backbone))}
        if len(names) > 1:
            raise InputError(f"grid and profiles are of unlike backbones: {', '.join(sorted(names))}")

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self.grid.decisions


def drawn_from(policy: Policy) -> Choose:
    """A policy's mixture; between two backlogs one of both cells is drawn, which is their linear mixture."""
    below, last = np.cumsum(policy.table, -1), len(policy.backlog_s) - 1
    cells, budgets = np.arange(last + 1.0), max(1, len(policy.budgets))

    def choose(c: Ints, p: Ints, b: Ints, f: Ints, w: Array, rng: np.random.Generator) -> Ints:
        place = np.interp(w, policy.backlog_s, cells)
        cell = np.minimum((place + rng.random(len(w))).astype(np.int64), last)
        rows = below[c, p * budgets + b, f, cell]
        out: Ints = np.minimum((rows < rng.random((len(w), 1)) * rows[:, -1:]).sum(1), below.shape[-1] - 1)
        return out

    return choose


def judge(process: Process, choose: Choose, *, links: int = 512, burn_in: int = 400, requests: int = 1000, seed: int = 0) -> Verdict:
    """Run `links` servers of their own from empty on, and take the means of `requests` of each after `burn_in`.

    Errors: InputError where `links` is no multiple of `BATCHES` or `requests` none of `WINDOW`.
    """
    if links % BATCHES or requests % WINDOW or links < BATCHES or requests < WINDOW:
        raise InputError(f"links must be a multiple of {BATCHES} and requests of {WINDOW}, got {links} and {requests}")
    rng, names = np.random.default_rng(seed), _names(process)
    total, window = np.zeros((len(names), links)), np.zeros((len(names), links))
    limits = process.scenario.limits
    excess = dict.fromkeys(limits, 0.0)
    for t, row in enumerate(_requests(process, choose, links, burn_in + requests, rng)):
        if t < burn_in:
            continue
        total += row
        window += row
        if (t + 1 - burn_in) % WINDOW == 0:
            for name, limit in limits.items():
                excess[name] += float(np.maximum(window[names.index(name)] / WINDOW / limit - 1, 0).mean())
            window[:] = 0
    by_link = total / requests
    means = {name: _mean(row) for name, row in zip(names, by_link, strict=True)}
    over = {name: Mean(means[name].mean / limit - 1, means[name].error / limit) for name, limit in limits.items()}
    return Verdict(links * requests, means, over, {name: value * WINDOW / requests for name, value in excess.items()})


def _names(process: Process) -> list[str]:
    return ["reward", "late", "tardiness_s", "energy_j", "ue_energy_j", "latency_s", "backlog_s", "attributes", "steps", "payload_bits"]


def _mean(by_link: Array) -> Mean:
    batches = by_link.reshape(BATCHES, -1).mean(1)
    return Mean(float(batches.mean()), float(batches.std(ddof=1) / np.sqrt(BATCHES)))


def _requests(process: Process, choose: Choose, links: int, count: int, rng: np.random.Generator) -> Iterator[Array]:
    """The figures [names, n] of one request after another on every link."""
    scenario, grid, server, phone = process.scenario, process.grid, process.server, process.phone
    r = len(grid.merge_ratios)
    steps = np.array([d.steps for d in grid.decisions])
    held_out = grid.airtime_draws_s[1]  # [P, R, G, H]
    edges = (grid.snr_db[1:] + grid.snr_db[:-1]) / 2
    prompts, budgets = np.cumsum(grid.counts / grid.counts.sum()), np.cumsum([b.share for b in scenario.classes])
    deadlines = np.array([b.deadline_s for b in scenario.classes])
    gap_s, stay = np.array(scenario.mean_gap_s), np.array(scenario.phase_stay)
    spread_db = scenario.snr_std_db * np.sqrt(1 - scenario.snr_correlation**2)
    snr = scenario.snr_mean_db + scenario.snr_std_db * rng.standard_normal(links)
    phase, backlog = (rng.random(links) < 1 / 2).astype(np.int64), np.zeros(links)
    for t in range(-WARM_UP, count):
        if t >= 0:
            c = np.searchsorted(edges, snr)
            p = np.minimum(np.searchsorted(prompts, rng.random(links)), len(prompts) - 1)
            b = np.minimum(np.searchsorted(budgets, rng.random(links)), len(budgets) - 1)
            a = choose(c, p, b, phase, backlog, rng)
            n, m = a // r, a % r
            air = held_out[p, m, c, rng.integers(held_out.shape[-1], size=links)]
            worked = (server.es_s(0) + steps[a] * server.step_s) * _spread(server.spread, rng, links)
            decoded = phone.ue_s() * _spread(phone.spread, rng, links)
            busy = backlog + worked + air
            latency = busy + decoded
            bits = grid.payload_bits[p, n, m]
            ue_j = RADIO_W * air + RADIO_W_PER_MBPS * bits / 1e6 + phone.power_w * decoded
            yield np.stack(
                [
                    -grid.log_mse[p, n, m, c],
                    latency > deadlines[b],
                    np.maximum(latency - deadlines[b], 0),
                    server.power_w * worked + ue_j,
                    ue_j,
                    latency,
                    backlog,
                    grid.fidelity[p, n, m],
                    steps[a],
                    bits,
                ]
            )
            backlog = np.maximum(busy - gap_s[phase] * rng.standard_exponential(links), 0)
        phase = np.where(rng.random(links) < stay[phase], phase, 1 - phase)
        snr = scenario.snr_mean_db + scenario.snr_correlation * (snr - scenario.snr_mean_db) + spread_db * rng.standard_normal(links)


def _spread(relative: float, rng: np.random.Generator, count: int) -> Array:
    """Factors of mean 1 and a relative spread: log-normal, as stage times have a long tail."""
    if not relative:
        return np.ones(count)
    sigma = np.sqrt(np.log1p(relative**2))
    out: Array = np.exp(sigma * rng.standard_normal(count) - sigma**2 / 2)
    return out
