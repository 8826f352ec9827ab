"""The control process as `docs/control.md` tells it, simulated without the tables that the learners and the linear program use.

A request finds an SNR (first-order Gaussian, mapped to the grid's nearest class), its prompt class, an arrival phase and the backlog W.
A decision keeps the server busy for S = text + steps + merge + code + airtime, where the airtime is one transmission of a held-out prompt;
it is late where W + S + decoding > deadline; the next request finds W' = max(W + S - G, 0), G exponential with the phase's mean.
`Process` can cut each of these as the tables do, so that one sees which cut matters. Reads public files only: grid, profiles, policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megen.control.policy import Policy
from megen.cost import device_profile, quality_grid
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

# what docs/control.md assumes
DEADLINE_S, LATE_LIMIT, ENERGY_LIMIT_J = 0.7, 0.05, 6.4
MEAN_GAP_S = np.array([0.2, 1.0])  # in a burst, and between bursts
PHASE_STAY = np.array([0.9, 0.8])
SNR_MEAN_DB, SNR_STD_DB, SNR_CORRELATION = 6.0, 6.0, 0.9
TOP_S, CELL_S, GAPS, GAMMA = 3.0, 0.1, 8, 0.98
BATCHES = 64


@dataclass(frozen=True)
class Inputs:
    """Measured figures: C channel classes, P prompt classes, A decisions, R merge ratios, K airtimes of the tables, H held-out ones."""

    decisions: tuple[tuple[int, float], ...]
    snr_db: Array  # [C]
    prompts: Array  # [P]
    reward: Array  # [C, P, A]
    worked_s: Array  # [A]
    ratio: Ints  # [A] its place on the grid
    airtime_s: Array  # [C, P, R, K]
    held_out_s: Array  # [C, P, R, H]
    fixed_j: Array  # [P, A]: all energy but the radio's that goes with time
    decode_s: float

    @classmethod
    def bundled(cls) -> Inputs:
        """From the package's quality grid and profiles."""
        grid, (es, ue) = quality_grid.load(quality_grid.MAIN_V0), map(device_profile.load, device_profile.MAIN_V0)
        n, r = len(grid.steps), len(grid.merge_ratios)
        worked = np.array([es.es_s(d.steps) for d in grid.decisions])
        bits = grid.payload_bits.reshape(grid.classes, n * r)
        fixed = es.power_w * worked + RADIO_W_PER_MBPS * bits / 1e6 + ue.power_w * ue.ue_s()
        reward = -grid.log_mse.transpose(3, 0, 1, 2).reshape(len(grid.snr_db), grid.classes, n * r)
        return cls(
            tuple((d.steps, d.merge_ratio) for d in grid.decisions),
            grid.snr_db,
            grid.counts / grid.counts.sum(),
            reward,
            worked,
            np.arange(n * r) % r,
            grid.airtime_s.transpose(2, 0, 1, 3),
            grid.airtime_draws_s[1].transpose(2, 0, 1, 3),
            fixed,
            ue.ue_s(),
        )


@dataclass(frozen=True)
class Process:
    """What is continuous; False: cut as the tables cut it."""

    backlog: bool = True  # else rounded to cells of 0.1 s, its mean kept, and clipped at 3 s
    gaps: bool = True  # exponential, else eight equiprobable values
    channel: bool = True  # first-order Gaussian, else a chain on the grid's classes
    airtime: bool = True  # single held-out transmissions, else eight equiprobable values


# decisions [n] from channel class, prompt class, phase [n] and backlog in s [n]
Choose = Callable[[Ints, Ints, Ints, Array, np.random.Generator], Ints]


def always(inputs: Inputs, steps: int, merge_ratio: float) -> Choose:
    """One decision for every request."""
    number = inputs.decisions.index((steps, merge_ratio))
    return lambda c, p, f, w, rng: np.full(len(c), number)


def drawn_from(policy: Policy) -> Choose:
    """A bundled policy's mixture: between two backlogs one of both cells is drawn, which is their linear mixture."""
    below = np.cumsum(policy.table, -1)
    last = len(policy.backlog_s) - 1

    def choose(c: Ints, p: Ints, f: Ints, w: Array, rng: np.random.Generator) -> Ints:
        place = np.minimum(w / policy.backlog_s[1], last)
        cell = np.minimum((place + rng.random(len(w))).astype(np.int64), last)
        rows = below[c, p, f, cell]
        return np.minimum((rows < rng.random((len(w), 1)) * rows[:, -1:]).sum(1), below.shape[-1] - 1)

    return choose


def quantiles(mean: Array, count: int) -> Array:
    """Equiprobable values of exponential distributions [F, count]: the mean of each slice, by the integral of the quantile function."""
    tail = np.linspace(1, 0, count + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        integral = np.where(tail > 0, tail * (1 - np.log(tail)), 0.0)
    return mean[:, None] * count * -np.diff(integral)


@dataclass(frozen=True)
class Figures:
    """Means and standard errors by batches of independent links; stationary, and discounted from an empty server."""

    requests: int
    stationary: dict[str, tuple[float, float]]
    discounted: dict[str, tuple[float, float]]


NAMES = ("reward", "late", "energy_j", "latency_s", "backlog_s")


def simulate(
    inputs: Inputs,
    choose: Choose,
    process: Process = Process(),
    *,
    links: int = 1024,
    burn_in: int = 1000,
    requests: int = 1000,
    seed: int = 0,
) -> Figures:
    """`links` servers of their own, each with `burn_in` requests from empty on and then `requests` that count."""
    rng = np.random.default_rng(seed)
    gap_values, air = quantiles(MEAN_GAP_S, GAPS), inputs.held_out_s if process.airtime else inputs.airtime_s
    spread = SNR_STD_DB * np.sqrt(1 - SNR_CORRELATION**2)
    edges, below_p = (inputs.snr_db[1:] + inputs.snr_db[:-1]) / 2, np.cumsum(inputs.prompts)
    snr = SNR_MEAN_DB + SNR_STD_DB * rng.standard_normal(links)
    phase, backlog = (rng.random(links) < 1 / 3).astype(np.int64), np.zeros(links)
    total, discounted = np.zeros((len(NAMES), links)), np.zeros((len(NAMES), links))
    for t in range(-100, burn_in + requests):  # the first hundred bring channel and phase to their own stationary law
        c = np.searchsorted(edges, snr)
        if not process.channel:
            snr = inputs.snr_db[c]
        if t >= 0:
            p = np.minimum(np.searchsorted(below_p, rng.random(links)), len(below_p) - 1)
            a = choose(c, p, phase, backlog, rng)
            airtime = air[c, p, inputs.ratio[a], rng.integers(air.shape[-1], size=links)]
            busy = backlog + inputs.worked_s[a] + airtime
            latency = busy + inputs.decode_s
            now = (inputs.reward[c, p, a], latency > DEADLINE_S, inputs.fixed_j[p, a] + RADIO_W * airtime, latency, backlog)
            if t >= burn_in:
                total += now
            weight = (1 - GAMMA) * GAMMA**t
            if weight > 1e-6:
                discounted += weight * np.array(now)
            gap = MEAN_GAP_S[phase] * rng.standard_exponential(links) if process.gaps else gap_values[phase, rng.integers(GAPS, size=links)]
            backlog = np.maximum(busy - gap, 0)
            if not process.backlog:
                backlog = np.minimum(CELL_S * np.floor(backlog / CELL_S + rng.random(links)), TOP_S)
        phase = np.where(rng.random(links) < PHASE_STAY[phase], phase, 1 - phase)
        snr = SNR_MEAN_DB + SNR_CORRELATION * (snr - SNR_MEAN_DB) + spread * rng.standard_normal(links)
    return Figures(links * requests, _batched(total / requests), _batched(discounted))


def _batched(by_link: Array) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each row [n]."""
    batches = by_link.reshape(len(by_link), BATCHES, -1).mean(-1)
    errors = batches.std(1, ddof=1) / np.sqrt(BATCHES)
    return {name: (float(m), float(e)) for name, m, e in zip(NAMES, batches.mean(1), errors, strict=True)}


def as_rows(figures: Figures) -> dict[str, object]:
    """Figures for a result file, costs also by their limits."""

    def of(means: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
        rows = {name: {"mean": m, "standard_error": e} for name, (m, e) in means.items()}
        for name, limit in (("late", LATE_LIMIT), ("energy_j", ENERGY_LIMIT_J)):
            rows[f"{name}_by_limit"] = {key: value / limit for key, value in rows[name].items()}
        return rows

    return {"requests": figures.requests, "stationary": of(figures.stationary), "discounted_from_empty": of(figures.discounted)}
