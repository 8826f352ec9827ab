"""The main CMDP as a discrete kernel: Markov fading, bursty arrivals, and the backlog at the edge server.

A request finds the channel class c, its prompt class p, the arrival phase f and the backlog W (work ahead of it, in
s). A decision a keeps the edge server busy for S = text + steps + merge + code + airtime; the request is served after
L = W + S + decoding; the next one arrives after a gap G of the phase: W' = max(W + S - G, 0), clipped to the grid's
top, and split linearly between the neighbouring cells, so that the mean of W' is exact. Airtime and gaps are drawn
from equiprobable quantiles. The simulator, the linear program and every exact evaluation use these same tables.

Axes: C channel classes, P prompt classes, F phases, W backlog cells, A decisions, K airtimes, G gaps. A state's number
is ((c * P + p) * F + f) * W + w.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from megen.cost.profile import DeviceProfile
from megen.cost.quality import QualityGrid
from megen.types import Decision

Array = NDArray[np.float64]
COSTS = 2
HATS = 8  # places of the backlog up to the deadline


@dataclass(frozen=True)
class Setting:
    """What the tables of a kernel are made from, beside the measured grid and profiles. All assumed."""

    deadline_s: float = 0.7
    late_limit: float = 0.05
    energy_limit_j: float = 6.4
    mean_gap_s: tuple[float, float] = (0.2, 1.0)  # in a burst, and between bursts
    phase_stay: tuple[float, float] = (0.9, 0.8)  # probability that the next request finds the same phase
    snr_mean_db: float = 6.0
    snr_std_db: float = 6.0
    snr_correlation: float = 0.9  # from one request to the next
    backlog_top_s: float = 3.0
    backlog_cells: int = 31
    gaps: int = 8
    gamma: float = 0.98


@dataclass(frozen=True)
class Kernel:
    """The tables; costs are in their own units, `limits` bound their discounted mean."""

    decisions: tuple[Decision, ...]
    snr_db: Array  # [C]
    backlog_s: Array  # [W], evenly spaced from 0
    channel: Array  # [C, C] from, to
    prompts: Array  # [P]
    phases: Array  # [F, F] from, to
    reward: Array  # [C, P, A]
    service_s: Array  # [C, P, A, K]
    energy_j: Array  # [C, P, A, K]
    decode_s: float
    gap_s: Array  # [F, G]
    deadline_s: float
    limits: Array  # [2]
    gamma: float
    ue_j: Array | None = None  # [C, P, A, K]: the phone's share of the energy, radio and decoding
    deviation_s: Array | None = None  # [2, C, P, A, H]: of single services from their mean, to calibrate a shield on and to test it with
    mean_latency: bool = False  # the first cost is the latency in s, not the probability of a miss

    def __post_init__(self) -> None:
        """Errors: ValueError on a number that is not finite (learners would fail much later), and on deviations of other decisions."""
        if self.deviation_s is not None and self.deviation_s.shape[:4] != (2, *self.service_s.shape[:3]):
            raise ValueError(f"deviation_s has the shape {self.deviation_s.shape}, expected {(2, *self.service_s.shape[:3])} and requests")
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray | float) and not np.isfinite(value).all():
                first = "" if isinstance(value, float) else f" at {np.argwhere(~np.isfinite(value))[0].tolist()}"
                raise ValueError(f"{name} of the process is not finite{first}")

    @property
    def cost_names(self) -> tuple[str, str]:
        return ("latency_s" if self.mean_latency else "late"), "energy_j"

    def named(self, costs: Array) -> dict[str, float]:
        """One number for each cost, by its name."""
        return dict(zip(self.cost_names, costs.tolist(), strict=True))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sizes of the state's axes: C, P, F, W."""
        return len(self.snr_db), len(self.prompts), len(self.phases), len(self.backlog_s)

    @property
    def states(self) -> int:
        return int(np.prod(self.shape))

    @property
    def actions(self) -> int:
        return len(self.decisions)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all tables to nine digits (other processors round otherwise): what was learned on one kernel is not for another.

        What single services deviate by is left out: no policy is learned from it.
        """
        known = {k: v for k, v in asdict(self).items() if k != "deviation_s"}
        told = {k: [f"{x:.9g}" for x in v.ravel()] if isinstance(v, np.ndarray) else v for k, v in known.items()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @cached_property
    def reward_unit(self) -> float:
        """The spread of the rewards, which learners take them by."""
        return max(float(self.reward.std()), 1e-9)

    @cached_property
    def cost_units(self) -> Array:
        """The spread of each cost [2]."""
        out: Array = np.maximum(self.costs.std((1, 2)), 1e-9)
        return out

    @cached_property
    def features(self) -> Array:
        """What a policy sees of every state [S, d]: SNR over 10 dB, backlog over the deadline, phase, then places: SNR class and prompt
        class one-hot, and the backlog's share in hat functions an eighth of the deadline apart, as misses begin at a sharp edge."""
        c, p, f, w = self.shape
        ci, pi, fi, wi = np.unravel_index(np.arange(self.states), (c, p, f, w))
        waiting = self.backlog_s[wi] / self.deadline_s
        hats = np.maximum(0.0, 1 - np.abs(HATS * np.minimum(waiting, 1)[:, None] - np.arange(HATS + 1)))
        numbers = np.stack([self.snr_db[ci] / 10, waiting, fi.astype(float)], 1)
        return np.hstack([numbers, np.eye(c)[ci], np.eye(p)[pi], hats])

    @cached_property
    def costs(self) -> Array:
        """Expected costs [2, S, A]: probability of a miss (or latency), and energy."""
        first = self.latency_s if self.mean_latency else self.late
        return np.stack([first, self._of_states(self.energy_j.mean(-1)[:, :, None])])

    @cached_property
    def late(self) -> Array:
        """Probability of a miss [S, A]."""
        return self._of_states((self._latencies_s > self.deadline_s).mean(-1))

    @cached_property
    def latency_s(self) -> Array:
        """Expected latency [S, A]: waiting, service and decoding."""
        return self._of_states(self._latencies_s.mean(-1))

    @cached_property
    def ue_energy_j(self) -> Array | None:
        """Expected energy of radio and phone [S, A]; the rest is the edge server's."""
        return None if self.ue_j is None else self._of_states(self.ue_j.mean(-1)[:, :, None])

    @property
    def _latencies_s(self) -> Array:
        out: Array = self.backlog_s[:, None, None] + self.service_s[:, :, None] + self.decode_s  # [C, P, W, A, K]
        return out

    def _of_states(self, table: Array) -> Array:
        """A table [C, P, W or 1, A] for every state [S, A]."""
        c, p, f, w = self.shape
        return np.broadcast_to(table[:, :, None], (c, p, f, w, self.actions)).reshape(self.states, self.actions)

    @cached_property
    def rewards(self) -> Array:
        """Rewards [S, A]."""
        return self._of_states(self.reward[:, :, None])

    @cached_property
    def backlog(self) -> Array:
        """Backlog transitions [C, P, F, A, W, W']."""
        c, p, f, w = self.shape
        share = 1 / (self.service_s.shape[-1] * self.gap_s.shape[-1])
        by_phase = []
        for phase in range(f):
            total = np.zeros(c * p * self.actions * w * w)
            row = np.arange(c * p * self.actions * w) * w
            for k in range(self.service_s.shape[-1]):
                for gap in self.gap_s[phase]:
                    after = self.backlog_s + self.service_s[:, :, :, k, None] - gap  # [C, P, A, W]
                    low, upper = self.cells(after.ravel())
                    total += share * np.bincount(row + low, 1 - upper, len(total))
                    total += share * np.bincount(row + np.minimum(low + 1, w - 1), upper, len(total))
            by_phase.append(total.reshape(c, p, self.actions, w, w))
        return np.stack(by_phase, 2)

    def cells(self, backlog_s: Array) -> tuple[NDArray[np.int64], Array]:
        """The cell below each backlog, and the share that belongs to the cell above it."""
        top = len(self.backlog_s) - 1
        place = np.clip(backlog_s / self.backlog_s[1], 0, top)
        low = np.minimum(place.astype(np.int64), top)
        return low, place - low

    @cached_property
    def stationary(self) -> Array:
        """Start distribution [S]: channel and phase stationary, prompts as they come, no backlog."""
        c, p, f, w = self.shape
        start = np.zeros((c, p, f, w))
        start[..., 0] = np.einsum("c,p,f->cpf", stationary(self.channel), self.prompts, stationary(self.phases))
        return start.reshape(-1)

    def onward(self, value: Array) -> Array:
        """E[value(s') | s, a] [S, A] of a function of the next state [S]."""
        v = np.einsum("cd,p,fg,dpgw->cfw", self.channel, self.prompts, self.phases, value.reshape(self.shape), optimize=True)
        out = np.einsum("cpfawv,cfv->cpfwa", self.backlog, v, optimize=True)
        return np.ascontiguousarray(out).reshape(self.states, self.actions)

    def kept(self, policy: Array) -> Array:
        """Backlog transitions [C, P, F, W, W'] of a policy [S, A]."""
        c, p, f, w = self.shape
        out: Array = np.einsum("cpfwa,cpfawv->cpfwv", policy.reshape(c, p, f, w, -1), self.backlog, optimize=True)
        return out

    def transitions(self, policy: Array) -> Array:
        """The state transition matrix [S, S'] of a policy [S, A]."""
        full = np.einsum("cpfwv,cd,q,fg->cpfwdqgv", self.kept(policy), self.channel, self.prompts, self.phases, optimize=True)
        return np.ascontiguousarray(full).reshape(self.states, self.states)


def stationary(matrix: Array) -> Array:
    """The stationary distribution of a row-stochastic matrix."""
    n = len(matrix)
    system = np.vstack([matrix.T - np.eye(n), np.ones(n)])
    out: Array = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]
    return out


def gauss_markov(levels: Array, mean: float, std: float, correlation: float) -> Array:
    """A first-order Gaussian process on a grid of levels, row-stochastic (Tauchen 1986)."""
    if not (std > 0 and -1 < correlation < 1 and len(levels) > 1 and (np.diff(levels) > 0).all()):
        raise ValueError(
            f"a Gauss-Markov chain needs rising levels, a positive spread and a correlation in (-1, 1), got {std:g} and {correlation:g}"
        )
    edges = (levels[1:] + levels[:-1]) / 2
    centre = mean + correlation * (levels - mean)
    below = norm.cdf((edges - centre[:, None]) / (std * np.sqrt(1 - correlation**2)))
    out: Array = np.diff(np.hstack([np.zeros((len(levels), 1)), below, np.ones((len(levels), 1))]), axis=1)
    return out


def exponential_quantiles(mean: float, count: int) -> Array:
    """`count` equiprobable values of an exponential distribution: the mean of each of its slices, so that its mean is kept."""
    edges = np.arange(count + 1) / count
    tail = 1 - edges
    with np.errstate(divide="ignore", invalid="ignore"):
        integral = np.where(tail > 0, tail * (1 - np.log(tail)), 0.0)  # of the quantile function from an edge to 1
    out: Array = mean * count * -np.diff(integral)
    return out


def build(grid: QualityGrid, es: DeviceProfile, ue: DeviceProfile, setting: Setting, radio_w: float, radio_w_per_mbps: float) -> Kernel:
    """The main kernel from what was measured. Reward: -ln MSE to the reference image.

    Energy of a request: edge server and user equipment at their powers, radio at `radio_w` from the first symbol to the last.
    A request whose image never arrives has spent its airtime and earns what a grey picture does; it is late only if that was.
    Errors: ValueError on a setting that cannot be, and on figures of unlike backbones.
    """
    for name, value in asdict(setting).items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be a number, got {value}")
    for name in ("deadline_s", "energy_limit_j", "backlog_top_s", "mean_gap_s"):
        if not np.min(getattr(setting, name)) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(setting, name)}")
    if not 0 < setting.late_limit <= 1:
        raise ValueError(f"late_limit must lie in (0, 1], got {setting.late_limit:g}")
    if not 0 < setting.gamma < 1:
        raise ValueError(f"gamma must lie in (0, 1), got {setting.gamma:g}")
    if not (setting.gaps >= 1 and setting.backlog_cells > 1):
        raise ValueError(f"there must be a gap and two cells of backlog, got {setting.gaps} and {setting.backlog_cells}")
    if not (all(0 <= stay < 1 for stay in setting.phase_stay) and radio_w >= 0 and radio_w_per_mbps >= 0):
        raise ValueError("probabilities to stay in a phase must lie in [0, 1), and the radio's powers not be negative")
    names = {es.backbone, ue.backbone, str(grid.about.get("backbone", es.backbone))}
    if len(names) > 1:
        raise ValueError(f"grid and profiles are of unlike backbones: {', '.join(sorted(names))}")
    n, r = len(grid.steps), len(grid.merge_ratios)
    worked = np.array([es.es_s(d.steps) for d in grid.decisions])  # [A]
    air = grid.airtime_s.transpose(2, 0, 1, 3)[:, :, None]  # [C, P, 1, R, K]
    air = np.broadcast_to(air, (*air.shape[:2], n, *air.shape[3:])).reshape(*air.shape[:2], n * r, -1)
    bits = grid.payload_bits.reshape(grid.classes, n * r)[None, :, :, None]
    draws = np.repeat(grid.airtime_draws_s.transpose(0, 3, 1, 2, 4)[:, :, :, None], n, 3)  # [2, C, P, N, R, H]
    radio_j = radio_w * air + radio_w_per_mbps * bits / 1e6
    ue_j = radio_j + ue.power_w * ue.ue_s()
    share = grid.counts / grid.counts.sum()
    stay = setting.phase_stay
    return Kernel(
        decisions=grid.decisions,
        snr_db=grid.snr_db,
        backlog_s=np.linspace(0, setting.backlog_top_s, setting.backlog_cells),
        channel=gauss_markov(grid.snr_db, setting.snr_mean_db, setting.snr_std_db, setting.snr_correlation),
        prompts=share,
        phases=np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]]),
        reward=-grid.log_mse.transpose(3, 0, 1, 2).reshape(len(grid.snr_db), grid.classes, n * r),
        service_s=worked[:, None] + air,
        deviation_s=draws.reshape(*draws.shape[:3], n * r, -1) - air.mean(-1, keepdims=True),
        energy_j=es.power_w * worked[:, None] + ue_j,
        decode_s=ue.ue_s(),
        gap_s=np.stack([exponential_quantiles(m, setting.gaps) for m in setting.mean_gap_s]),
        deadline_s=setting.deadline_s,
        limits=np.array([setting.late_limit, setting.energy_limit_j]),
        gamma=setting.gamma,
        ue_j=ue_j,
    )


@dataclass(frozen=True)
class Evaluation:
    """Exact discounted means, (1 - gamma) sum gamma^t, of a policy from the start distribution."""

    reward: float
    costs: Array  # [2]
    occupancy: Array  # [S], sums to 1
    reward_values: Array  # [S]: sum gamma^t r, not normalised
    cost_values: Array  # [2, S]


def evaluate(kernel: Kernel, policy: Array) -> Evaluation:
    """Solve a stochastic policy [S, A] exactly: V = (I - gamma P)^-1 r, and its discounted occupancy.

    A request's prompt class tells nothing of the next one, so both systems have one unknown for each channel, phase and backlog.
    """
    c, _, f, w = kernel.shape
    n, gamma, prompts = c * f * w, kernel.gamma, kernel.prompts
    kept = kernel.kept(policy)  # [C, P, F, W, W']
    mean = np.einsum("p,cpfwv->cfwv", prompts, kept)
    onward = np.einsum("cd,fg->cfdg", kernel.channel, kernel.phases)
    own = np.stack([(policy * table).sum(1).reshape(kernel.shape) for table in (kernel.rewards, *kernel.costs)])  # [3, C, P, F, W]
    # what follows on the backlog that a request leaves: U(c, f, w') = E[V(c', p', f', w') | c, f]
    first = np.einsum("cfdg,p,kdpgw->cfwk", onward, prompts, own, optimize=True).reshape(n, -1)
    system = np.einsum("cfdg,dgwv->cfwdgv", onward, mean).reshape(n, n)
    after = np.linalg.solve(np.eye(n) - gamma * system, first).reshape(c, f, w, -1)
    values = own + gamma * np.einsum("cpfwv,cfvk->kcpfw", kept, after, optimize=True)
    flow = np.einsum("cfdg,cfwv->dgvcfw", onward, mean).reshape(n, n)
    start = (1 - gamma) * kernel.stationary.reshape(kernel.shape).sum(1).reshape(n)
    found = np.linalg.solve(np.eye(n) - gamma * flow, start).reshape(c, 1, f, w)
    occupancy = (found * prompts[:, None, None]).reshape(-1)
    flat = values.reshape(len(own), -1)
    means = own.reshape(len(own), -1) @ occupancy
    return Evaluation(float(means[0]), means[1:], occupancy, flat[0], flat[1:])
