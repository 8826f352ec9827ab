"""The main process: Markov fading, bursty arrivals, and the backlog at the edge server.

A decision keeps the edge server busy for S = text + steps + merge + code + airtime; the request is served after L = W + S + decoding
with the backlog W that it finds. Reward: what is seen, -ln MSE to the reference image, or the share of named attributes.
Costs: a miss of the deadline, and the energy in J.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from megen.control.cmdp import CMDP
from megen.control.scenarios.scenario import BudgetClass, Scenario
from megen.cost import device_profile as profile
from megen.cost import quality_grid as quality
from megen.cost.device_profile import DeviceProfile
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError
from megen.metrics import DB_PER_NAT

Array = NDArray[np.float64]
NODES = 24  # of a quadrature over a cell of the SNR
OFFSETS = 16  # backlogs that a cell's lateness is the mean of


def build_cmdp(
    grid: QualityGrid,
    server: DeviceProfile,
    phone: DeviceProfile,
    scenario: Scenario,
    *,
    radio_w: float = RADIO_W,
    radio_w_per_mbps: float = RADIO_W_PER_MBPS,
) -> CMDP:
    """The main CMDP from what was measured; its prompt axis has every prompt class once for each budget class, budgets innermost.

    Energy of a request: edge server and user equipment at their powers, radio at `radio_w` from the first symbol to the last.
    A request whose image never arrives has spent its airtime and earns what a grey picture does; it is late only if that was.
    Errors: InputError on figures of unlike backbones, and on a radio of negative power.
    """
    if not (radio_w >= 0 and radio_w_per_mbps >= 0):
        raise InputError(f"the radio's powers must not be negative, got {radio_w:g} W and {radio_w_per_mbps:g} W per Mbit/s")
    quality.check_same_backbone(grid, server, phone)
    grid = grid.with_quantisers(scenario.quantiser_bits)
    n, m = len(grid.steps), len(grid.merge_ratios)
    compute_s = np.array([server.es_s(d.steps) for d in grid.decisions])  # [A]
    airtime_s = grid.airtime_s * (1 + standard_error(grid))[..., None] if scenario.smooth else grid.airtime_s
    air_s = airtime_s.transpose(2, 0, 1, 3)[:, :, None]  # [C, P, 1, M, D]
    air_s = np.broadcast_to(air_s, (*air_s.shape[:2], n, *air_s.shape[3:])).reshape(*air_s.shape[:2], n * m, -1)
    bits = grid.payload_bits.reshape(grid.classes, n * m)[None, :, :, None]
    draws_s = np.repeat(grid.airtime_draws_s.transpose(0, 3, 1, 2, 4)[:, :, :, None], n, 3)  # [2, C, P, N, M, H]
    radio_j = radio_w * air_s + radio_w_per_mbps * bits / 1e6
    decode_s = np.array([phone.ue_s(d) for d in grid.decisions])  # [A]
    ue_j = radio_j + phone.power_w * decode_s[:, None]
    stay = scenario.phase_stay

    cmdp = CMDP(
        decisions=grid.decisions,
        snr_db=grid.snr_db,
        backlog_s=scenario.backlog_s,
        channel=gauss_markov(grid.snr_db, scenario.snr_mean_db, scenario.snr_std_db, scenario.snr_correlation, within=scenario.smooth),
        prompts=grid.counts / grid.counts.sum(),
        phases=np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]]),
        reward=_of_decisions(grid.reward(scenario.reward)),
        service_s=compute_s[:, None] + air_s,
        deviation_s=draws_s.reshape(*draws_s.shape[:3], n * m, -1) - air_s.mean(-1, keepdims=True),
        cost_tables={"energy_j": server.power_w * compute_s[:, None] + ue_j, "ue_energy_j": ue_j},
        decode_s=decode_s if phone.clean_s else phone.ue_s(),  # one number as before: digests of tables know it
        gap_s=np.stack([exponential_quantiles(m, int(scenario.gaps)) for m in scenario.mean_gap_s]),
        deadline_s=scenario.deadline_s,
        cost_names=("late", "energy_j"),
        limits=np.array([scenario.late_limit, scenario.energy_limit_j]),
        gamma=scenario.gamma,
        shown=_shown(grid),
    )
    if scenario.budgets:
        cmdp = with_budgets(cmdp, scenario.classes)
    if scenario.smooth or scenario.tardiness_limit_s is not None:
        tables = {**cmdp.cost_tables, **lateness(cmdp, smooth=scenario.smooth)}
        limits = np.array(list(scenario.limits.values()))
        cmdp = replace(cmdp, cost_tables=tables, cost_names=tuple(scenario.limits), limits=limits)
    return cmdp


def _of_decisions(table: Array) -> Array:
    """A table [P, N, M, G] as [C, P, A]."""
    out: Array = np.moveaxis(table, -1, 0)
    return np.ascontiguousarray(out.reshape(*out.shape[:2], -1))


def _shown(grid: QualityGrid) -> dict[str, Array]:
    """What is reported beside the reward [C, P, A]."""
    seen = {} if grid.seen is None else {"seen": _of_decisions(grid.seen)}
    right = {} if grid.fidelity is None else {"attributes": _of_decisions(grid.reward("attributes"))}
    return {**right, "psnr_db": -DB_PER_NAT * _of_decisions(grid.log_mse), **seen}


def standard_error(grid: QualityGrid) -> Array:
    """Of the mean airtime, relative [P, R, G], by the half of the prompts that a shield is calibrated on: a plan's safe side.

    Errors: InputError on a single transmission.
    """
    calibration = grid.airtime_draws_s[0]
    if calibration.shape[-1] < 2:
        raise InputError("a quality grid of one transmission a class has no standard error: measure it with more prompts")
    out: Array = calibration.std(-1, ddof=1) / calibration.mean(-1) / np.sqrt(calibration.shape[-1])
    return out


def with_budgets(cmdp: CMDP, classes: Sequence[BudgetClass]) -> CMDP:
    """Every prompt class once for each budget class. A decision beyond a class's energy stands for the best one within it."""
    count = len(classes)
    prompts = np.outer(cmdp.prompts, [b.share for b in classes]).ravel()
    service_s, reward = np.repeat(cmdp.service_s, count, 1), np.repeat(cmdp.reward, count, 1)
    tables = {name: np.repeat(table, count, 1) for name, table in cmdp.cost_tables.items()}
    deviation_s = None if cmdp.deviation_s is None else np.repeat(cmdp.deviation_s, count, 2)
    energy_j = tables["energy_j"].mean(-1)
    allowed = energy_j <= np.tile([b.energy_j for b in classes], len(cmdp.prompts))[:, None]
    allowed |= ~allowed.any(-1, keepdims=True) & (energy_j == energy_j.min(-1, keepdims=True))
    best = np.where(allowed, reward, -np.inf).argmax(-1)[..., None]
    carried_out = np.where(allowed, np.arange(cmdp.actions), best)  # [C, P, A]

    def of(table: Array) -> Array:
        return np.take_along_axis(table, carried_out[..., None] if table.ndim == 4 else carried_out, 2)

    return replace(
        cmdp,
        prompts=prompts,
        reward=of(reward),
        service_s=of(service_s),
        cost_tables={name: of(table) for name, table in tables.items()},
        shown={name: of(np.repeat(table, count, 1)) for name, table in cmdp.shown.items()},
        deviation_s=None if deviation_s is None else np.take_along_axis(deviation_s, carried_out[None, ..., None], 3),
        deadline_s=np.tile([b.deadline_s for b in classes], len(cmdp.prompts)),
    )


def lateness(cmdp: CMDP, *, smooth: bool) -> dict[str, Array]:
    """Share late and tardiness [L - deadline]+ by backlog cell [C, P, W, A, D].

    Smooth: the mean over the backlogs that are split to a cell, a tent between its neighbours. At a cell's centre alone a plan
    learns which decisions just fit there, and between two cells they do not.
    """
    cells = cmdp.backlog_s
    offsets = np.zeros((1, len(cells)))
    if smooth:
        left, right = np.diff(cells, prepend=0.0), np.diff(cells, append=cells[-1])
        share, u = left / (left + right), (np.arange(OFFSETS)[:, None] + 0.5) / OFFSETS
        with np.errstate(divide="ignore", invalid="ignore"):
            offsets = np.where(u < share, left * (np.sqrt(u / share) - 1), right * (1 - np.sqrt((1 - u) / (1 - share))))
    left_s = cmdp.deadlines_s[:, None, None] - cmdp.service_s - cmdp.decodings_s[:, None]  # [C, P, A, D]
    late = np.zeros((*left_s.shape[:2], len(cells), *left_s.shape[2:]))
    tardiness_s, over_s = late.copy(), late.copy()
    for offset in offsets:
        np.subtract((cells + offset)[:, None, None], left_s[:, :, None], out=over_s)
        late += over_s > 0
        tardiness_s += np.maximum(over_s, 0, out=over_s)
    return {"late": late / len(offsets), "tardiness_s": tardiness_s / len(offsets)}


def main_cmdp(
    scenario: Scenario | None = None, grid: QualityGrid | None = None, server: str | None = None, phone: str | None = None
) -> CMDP:
    """The main CMDP; profiles by name or path; None: the bundled grid and profiles, and the default scenario.

    Errors: quality.QualityError and profile.ProfileError where a file is missing or broken, ValueError as `build_cmdp`.
    """
    scenario = scenario or Scenario()
    return build_cmdp(grid or bundled_grid(scenario), *profiles_of(scenario, server, phone), scenario)


def profiles_of(scenario: Scenario, server: str | None = None, phone: str | None = None) -> tuple[DeviceProfile, DeviceProfile]:
    """The profiles of server and phone by name or path; None: those that are bundled for the scenario. Errors: ProfileError."""
    usual = profile.bundled(scenario.reward)
    return profile.load(server or usual[0]), profile.load(phone or usual[1])


def bundled_grid(scenario: Scenario) -> QualityGrid:
    """The grid that is bundled for a scenario. Errors: QualityError where it is missing or broken."""
    return quality.load(quality.bundled(scenario.reward))


def gauss_markov(levels: Array, mean: float, std: float, correlation: float, *, within: bool = False) -> Array:
    """A first-order Gaussian process on a grid of levels, row-stochastic (Tauchen 1986).

    `within`: from the whole cell around a level, weighted by how often the process is there, and not from the level alone: the
    outermost cells have no end, and a process that is far out stays there for longer.
    """
    if not (std > 0 and -1 < correlation < 1 and len(levels) > 1 and (np.diff(levels) > 0).all()):
        raise InputError(
            f"a Gauss-Markov chain needs rising levels, a positive spread and a correlation in (-1, 1), got {std:g} and {correlation:g}"
        )
    edges = (levels[1:] + levels[:-1]) / 2
    places, weights = levels[:, None], np.ones((len(levels), 1))
    if within:
        first, last = min(edges[0] - std, mean - 5 * std), max(edges[-1] + std, mean + 5 * std)
        nodes, weight = np.polynomial.legendre.leggauss(NODES)
        low, high = np.append(first, edges), np.append(edges, last)
        places = (high + low)[:, None] / 2 + np.outer(high - low, nodes) / 2
        weights = weight * np.exp(-(((places - mean) / std) ** 2) / 2)
        empty = weights.sum(1) == 0  # so far out that it underflows
        weights[empty] = 1
        weights /= weights.sum(1, keepdims=True)
    centre = mean + correlation * (places - mean)
    below = norm.cdf((edges - centre[..., None]) / (std * np.sqrt(1 - correlation**2)))
    ends = np.zeros((*below.shape[:-1], 1))
    moves = np.diff(np.concatenate([ends, below, ends + 1], -1), axis=-1)
    out: Array = (weights[..., None] * moves).sum(1)
    return out


def exponential_quantiles(mean: float, count: int) -> Array:
    """`count` equiprobable values of an exponential distribution: the mean of each of its slices, so that its mean is exact."""
    edges = np.arange(count + 1) / count
    tail = 1 - edges
    with np.errstate(divide="ignore", invalid="ignore"):
        integral = np.where(tail > 0, tail * (1 - np.log(tail)), 0.0)  # of the quantile function from an edge to 1
    out: Array = mean * count * -np.diff(integral)
    return out
