"""A judge off the tables: the control process simulated as it is described, and not as any planner or learner discretises it.

A request finds an SNR (first-order Gaussian, measured at the grid's nearest one), its prompt class and budget, the arrival phase and the
backlog W >= 0, which nothing clips. A decision keeps the edge server busy for S = text + steps + merge + code + airtime, each with its
spread; the airtime is one measured transmission of a prompt that nothing was planned on. The image is there after L = W + S + decoding;
the next request finds W' = max(W + S - G, 0) with an exponential gap G of the phase's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megen.control.fit import Request
from megen.control.policy import Policy
from megen.control.scenarios.scenario import Scenario
from megen.cost import quality_grid
from megen.cost.device_profile import DeviceProfile
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError
from megen.metrics import DB_PER_NAT
from megen.types import check_number

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
WINDOW = 200  # requests whose mean is held against a limit where nothing may cancel
WARM_UP = 100  # steps that bring channel and phase to their own stationary law
NAMES = (
    "reward",
    "late",
    "tardiness_s",
    "energy_j",
    "ue_energy_j",
    "latency_s",
    "backlog_s",
    "psnr_db",
    "steps",
    "payload_bits",
)
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

    `means` has reward, every cost, latency, backlog, PSNR and where there is a judge shares of named attributes, by their names;
    `over_limit` is mean / limit - 1; `strong_violation` the mean excess [mean / limit - 1]+ of single windows of requests, which a
    calm window does not make up for.
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
    """What a scenario's requests meet on two machines; the grid is kept with the scenario's quantisers alone.

    Errors: as `Scenario`, and InputError on figures of unlike backbones.
    """

    scenario: Scenario
    grid: QualityGrid
    server: DeviceProfile
    phone: DeviceProfile

    def __post_init__(self) -> None:
        quality_grid.check_same_backbone(self.grid, self.server, self.phone)
        object.__setattr__(self, "grid", self.grid.with_quantisers(self.scenario.quantiser_bits))


def drawn_from(policy: Policy, process: Process) -> Choose:
    """A policy's mixture; between two backlogs one of both cells is drawn, which is their linear mixture.

    Errors: InputError where the process does not know one of its decisions.
    """
    known = process.grid.decisions
    if strangers := [d for d in policy.decisions if d not in known]:
        raise InputError(f"the policy decides on {strangers[0]}, which the quality grid does not hold")
    number = np.array([known.index(d) for d in policy.decisions])
    below, last = np.cumsum(policy.table, -1), len(policy.backlog_s) - 1
    cells, budgets = np.arange(last + 1.0), max(1, len(policy.budgets))

    def choose(c: Ints, p: Ints, b: Ints, f: Ints, w: Array, rng: np.random.Generator) -> Ints:
        place = np.interp(w, policy.backlog_s, cells)
        cell = np.minimum((place + rng.random(len(w))).astype(np.int64), last)
        rows = below[c, p * budgets + b, f, cell]
        out: Ints = number[np.minimum((rows < rng.random((len(w), 1)) * rows[:, -1:]).sum(1), below.shape[-1] - 1)]
        return out

    return choose


def judge(process: Process, choose: Choose, *, links: int = 256, burn_in: int = 400, requests: int = 1000, seed: int = 0) -> Verdict:
    """Run `links` servers of their own from empty on, and take the means of `requests` of each after `burn_in`.

    Errors: InputError where `links` is no multiple of `BATCHES` or `requests` none of `WINDOW`, and on a choice that is no decision.
    """
    check_number("burn_in", burn_in, 0, whole=True)
    if links % BATCHES or requests % WINDOW or links < BATCHES or requests < WINDOW:
        raise InputError(f"links must be a multiple of {BATCHES} and requests of {WINDOW}, got {links} and {requests}")
    rng, limits = np.random.default_rng(seed), process.scenario.limits
    names = NAMES if process.grid.fidelity is None else (*NAMES, "attributes")
    total, window = dict.fromkeys(names, np.zeros(links)), dict.fromkeys(names, np.zeros(links))
    excess = dict.fromkeys(limits, 0.0)
    for t, served in enumerate(_requests(process, choose, links, burn_in + requests, rng)):
        if t < burn_in:
            continue
        row = _figures(process, served)
        window = {name: window[name] + row[name] for name in names}
        if (t + 1 - burn_in) % WINDOW == 0:
            for name, limit in limits.items():
                excess[name] += float(np.maximum(window[name] / WINDOW / limit - 1, 0).mean()) * WINDOW / requests
            total = {name: total[name] + window[name] for name in names}
            window = dict.fromkeys(names, np.zeros(links))
    means = {name: _mean(total[name] / requests) for name in names}
    over = {name: Mean(means[name].mean / limit - 1, means[name].error / limit) for name, limit in limits.items()}
    return Verdict(links * requests, means, over, excess)


def simulated_log(process: Process, choose: Choose, count: int, rng: np.random.Generator) -> list[Request]:
    """What one server would log of `count` requests, as `fit` reads it."""
    out, now_s = [], 0.0
    own = bool(process.scenario.budgets)
    for served in _requests(process, choose, 1, count, rng):
        decision, budget = process.grid.decisions[int(served.a[0])], process.scenario.classes[int(served.b[0])]
        out.append(
            Request(
                arrival_s=now_s,
                snr_db=float(served.snr_db[0]),
                steps=decision.steps,
                merge_ratio=decision.merge_ratio,
                quantiser_bits=decision.quantiser_bits,
                es_s=float(served.worked_s[0]),
                air_s=float(served.air_s[0]),
                ue_s=float(served.decoded_s[0]),
                backlog_s=float(served.backlog_s[0]),
                latency_s=float(served.latency_s[0]),
                deadline_s=budget.deadline_s if own else None,
                energy_j=budget.energy_j if own and np.isfinite(budget.energy_j) else None,
            )
        )
        now_s += float(served.gap_s[0])
    return out


def _mean(by_link: Array) -> Mean:
    batches = by_link.reshape(BATCHES, -1).mean(1)
    return Mean(float(batches.mean()), float(batches.std(ddof=1) / np.sqrt(BATCHES)))


class _Served(NamedTuple):
    """One request on every link [n]: its channel class, prompt class, budget class and decision, what it found, and what it took."""

    c: Ints
    p: Ints
    b: Ints
    a: Ints
    snr_db: Array
    backlog_s: Array
    worked_s: Array
    air_s: Array
    decoded_s: Array
    latency_s: Array
    gap_s: Array


def _requests(process: Process, choose: Choose, links: int, count: int, rng: np.random.Generator) -> Iterator[_Served]:
    """One request after another on every link."""
    scenario, grid, server, phone = process.scenario, process.grid, process.server, process.phone
    steps, codings = np.array([d.steps for d in grid.decisions]), len(grid.merge_ratios)
    decode_s = np.array([phone.ue_s(d) for d in grid.decisions])
    held_out = grid.airtime_draws_s[1]  # [P, M, G, H]
    edges = (grid.snr_db[1:] + grid.snr_db[:-1]) / 2
    prompts, budgets = np.cumsum(grid.counts / grid.counts.sum()), np.cumsum([b.share for b in scenario.classes])
    mean_gap_s, stay = np.array(scenario.mean_gap_s), np.array(scenario.phase_stay)
    spread_db = scenario.snr_std_db * np.sqrt(1 - scenario.snr_correlation**2)
    snr = scenario.snr_mean_db + scenario.snr_std_db * rng.standard_normal(links)
    phase, backlog = (rng.random(links) < 1 / 2).astype(np.int64), np.zeros(links)
    for t in range(-WARM_UP, count):
        if t >= 0:
            c = np.searchsorted(edges, snr)
            p = np.minimum(np.searchsorted(prompts, rng.random(links)), len(prompts) - 1)
            b = np.minimum(np.searchsorted(budgets, rng.random(links)), len(budgets) - 1)
            a = choose(c, p, b, phase, backlog, rng)
            if a.shape != (links,) or a.min() < 0 or a.max() >= len(steps):
                raise InputError(f"a choice must be one of the decisions 0 to {len(steps) - 1} for each of {links} links, got {a[:5]} ...")
            air = held_out[p, a % codings, c, rng.integers(held_out.shape[-1], size=links)]
            worked = (server.es_s(0) + steps[a] * server.step_s) * _spread(server.spread, rng, links)
            decoded = decode_s[a] * _spread(phone.spread, rng, links)
            gap = mean_gap_s[phase] * rng.standard_exponential(links)
            yield _Served(c, p, b, a, snr, backlog, worked, air, decoded, backlog + worked + air + decoded, gap)
            backlog = np.maximum(backlog + worked + air - gap, 0)
        phase = np.where(rng.random(links) < stay[phase], phase, 1 - phase)
        snr = scenario.snr_mean_db + scenario.snr_correlation * (snr - scenario.snr_mean_db) + spread_db * rng.standard_normal(links)


def _figures(process: Process, served: _Served) -> dict[str, Array]:
    """What one request is worth and costs on every link [n]."""
    grid, server, phone = process.grid, process.server, process.phone
    n, m = np.divmod(served.a, len(grid.merge_ratios))
    over_s = served.latency_s - np.array([b.deadline_s for b in process.scenario.classes])[served.b]
    bits = grid.payload_bits[served.p, n, m]
    ue_j = RADIO_W * served.air_s + RADIO_W_PER_MBPS * bits / 1e6 + phone.power_w * served.decoded_s
    return {
        "reward": grid.reward(process.scenario.reward)[served.p, n, m, served.c],
        "late": (over_s > 0).astype(float),
        "tardiness_s": np.maximum(over_s, 0),
        "energy_j": server.power_w * served.worked_s + ue_j,
        "ue_energy_j": ue_j,
        "latency_s": served.latency_s,
        "backlog_s": served.backlog_s,
        **({} if grid.fidelity is None else {"attributes": grid.reward("attributes")[served.p, n, m, served.c]}),
        "psnr_db": -DB_PER_NAT * grid.log_mse[served.p, n, m, served.c],
        "steps": grid.steps[n].astype(float),
        "payload_bits": bits,
    }


def _spread(relative: float, rng: np.random.Generator, count: int) -> Array:
    """Factors of mean 1 and a relative spread: log-normal, as stage times have a long tail."""
    if not relative:
        return np.ones(count)
    sigma = np.sqrt(np.log1p(relative**2))
    out: Array = np.exp(sigma * rng.standard_normal(count) - sigma**2 / 2)
    return out
