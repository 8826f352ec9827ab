"""A scenario from a log: arrivals, channel, budgets and service times of the requests that a server had.

Arrivals are a hidden Markov chain of two phases with exponential gaps, fitted by maximum likelihood; the channel's moments are those of
the SNRs that successive requests found; service times are a line in the steps. A log is JSON lines, one a request (`Request`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from megen.control.scenarios.scenario import BudgetClass, Scenario, long_run
from megen.cost.device_profile import DeviceProfile
from megen.errors import InputError
from megen.files import read_text
from megen.types import QUANTISER_BITS, Decision

Array = NDArray[np.float64]
LEAST = 200  # requests that say anything of arrivals and channel
MOST_BUDGETS = 4
SHOWN = "shown"  # status of a request whose picture arrived; lines of another one, such as failed or cancelled, have no outcome


@dataclass(frozen=True)
class Request:
    """One line of a log: when it came, what was seen, what was decided, and what became of it. Errors: InputError on what cannot be.

    {"arrival_s": 12.5, "observation": {"snr_db": 6.1, "backlog_s": 0.2, "deadline_s": 0.7, "energy_j": null},
     "decision": {"steps": 4, "merge_ratio": 0.5, "quantiser_bits": 5.0},
     "outcome": {"es_s": 0.2, "air_s": 0.05, "ue_s": 0.18, "latency_s": 0.63}}
    """

    arrival_s: float
    snr_db: float
    steps: int
    merge_ratio: float
    es_s: float  # text, steps, merging and coding
    air_s: float
    ue_s: float
    backlog_s: float = 0.0
    latency_s: float = 0.0
    deadline_s: float | None = None  # of its own
    energy_j: float | None = None
    quantiser_bits: float = QUANTISER_BITS

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (isinstance(value, bool | str) or not math.isfinite(value)):
                raise InputError(f"{name} must be a finite number, got {value!r}")
        for name in ("es_s", "air_s", "ue_s", "backlog_s", "latency_s"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def decision(self) -> Decision:
        """What was decided."""
        return Decision(self.steps, self.merge_ratio, self.quantiser_bits)

    def line(self) -> str:
        """The request as a line of a log."""
        parts = {
            "observation": ("snr_db", "backlog_s", "deadline_s", "energy_j"),
            "decision": ("steps", "merge_ratio", "quantiser_bits"),
            "outcome": ("es_s", "air_s", "ue_s", "latency_s"),
        }
        nested = {part: {name: getattr(self, name) for name in names} for part, names in parts.items()}
        return json.dumps({"arrival_s": self.arrival_s, **nested})


@dataclass(frozen=True)
class Fit:
    """What a log says: the scenario, the edge server's line a + b steps with its relative spread, and the phone's seconds with theirs."""

    scenario: Scenario
    es_fixed_s: float
    es_step_s: float
    es_spread: float
    ue_s: float
    ue_spread: float
    decisions: tuple[Decision, ...]  # of the requests

    @property
    def requests(self) -> int:
        """How many there were."""
        return len(self.decisions)

    def server(self, profile: DeviceProfile) -> DeviceProfile:
        """The edge server's profile with these seconds."""
        scale = self.es_fixed_s / max(profile.es_s(0), 1e-9)
        parts = {name: getattr(profile, name) * scale for name in ("text_s", "refine_s", "merge_s", "code_s", "code_first_s")}
        return replace(profile, **parts, step_s=self.es_step_s, spread=self.es_spread, source=f"fitted to {self.requests} requests")

    def phone(self, profile: DeviceProfile) -> DeviceProfile:
        """The phone's profile with these seconds."""
        scale = self.ue_s / max(float(np.mean([profile.ue_s(d) for d in self.decisions])), 1e-9)
        parts = {name: getattr(profile, name) * scale for name in ("arrive_s", "arrive_last_s", "decode_s", "clean_s")}
        return replace(profile, **parts, spread=self.ue_spread, source=f"fitted to {self.requests} requests")

    def figures(self) -> dict[str, Any]:
        """What was fitted, by name."""
        s = self.scenario
        budgets = [{"deadline_s": b.deadline_s, "share": b.share} for b in s.budgets]
        arrivals = {"mean_gap_s": list(s.mean_gap_s), "phase_stay": list(s.phase_stay)}
        channel = {"snr_mean_db": s.snr_mean_db, "snr_std_db": s.snr_std_db, "snr_correlation": s.snr_correlation}
        es = {"es_fixed_s": self.es_fixed_s, "es_step_s": self.es_step_s, "es_spread": self.es_spread}
        return {"requests": self.requests, **arrivals, **channel, **es, "ue_s": self.ue_s, "ue_spread": self.ue_spread, "budgets": budgets}


def read(path: Path) -> list[Request]:
    """The requests of a log whose picture was shown, in their order. Errors: InputError naming the line that is none."""
    out = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if row.get("status", SHOWN) != SHOWN:
                continue
            seen, chosen, outcome = row["observation"], row["decision"], row["outcome"]
            values: dict[str, Any] = {name: float(outcome[name]) for name in ("es_s", "air_s", "ue_s", "latency_s")}
            values |= {"snr_db": float(seen["snr_db"]), "backlog_s": float(seen.get("backlog_s", 0.0))}
            values |= {name: seen.get(name) for name in ("deadline_s", "energy_j")}
            values |= {"steps": int(chosen["steps"]), "merge_ratio": float(chosen["merge_ratio"])}
            values["quantiser_bits"] = float(chosen.get("quantiser_bits", QUANTISER_BITS))
            out.append(Request(float(row["arrival_s"]), **values))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{path}, line {number} is no request of a log ({error}): see docs/control.md for its schema") from error
    return out


def fit(requests: Sequence[Request]) -> Fit:
    """Errors: InputError with fewer than `LEAST` requests, with arrivals that do not rise, or with one step count alone."""
    scenario = load_of(requests)
    steps, es_s, ue_s = (np.array([getattr(r, name) for r in requests], float) for name in ("steps", "es_s", "ue_s"))
    if np.ptp(steps) == 0:
        raise InputError(f"all requests have {int(steps[0])} steps: what a step takes needs two step counts at least")
    step_s, fixed_s = np.polyfit(steps, es_s, 1, w=1 / np.maximum(es_s, 1e-9))
    line = np.maximum(fixed_s + step_s * steps, 1e-9)
    decisions = tuple(r.decision for r in requests)
    spreads = float((es_s / line).std()), _ue_spread(decisions, ue_s)
    return Fit(scenario, max(float(fixed_s), 0.0), max(float(step_s), 0.0), spreads[0], float(ue_s.mean()), spreads[1], decisions)


def _ue_spread(decisions: Sequence[Decision], ue_s: Array) -> float:
    """The phone's relative spread around the mean of features of one quantiser, merged or not: some are cleaned first."""
    _, alike = np.unique([(d.merge_ratio > 0, d.quantiser_bits) for d in decisions], axis=0, return_inverse=True)
    counts = np.bincount(alike.ravel())
    means_s = np.bincount(alike.ravel(), ue_s) / counts
    off = ue_s / np.maximum(means_s[alike.ravel()], 1e-9) - 1
    return float(np.sqrt(np.square(off).sum() / max(len(off) - len(counts), 1)))


def load_of(requests: Sequence[Request]) -> Scenario:
    """Arrivals, channel and budgets alone.

    Errors: InputError with fewer than `LEAST` requests, with arrivals that do not rise, and with none but at one time.
    """
    if len(requests) < LEAST:
        raise InputError(f"a fit needs at least {LEAST} requests, got {len(requests)}")
    arrivals, snr = (np.array([getattr(r, name) for r in requests], float) for name in ("arrival_s", "snr_db"))
    gaps = np.diff(arrivals)
    if not (gaps >= 0).all():
        raise InputError(f"arrivals must rise, request {int(np.argmax(gaps < 0)) + 2} comes before the one before it")
    if not gaps.any():
        raise InputError("all requests came at the same time: that says nothing of arrivals")
    mean_gap_s, stay = fit_arrivals(gaps)
    centred = snr - snr.mean()
    correlation = float(centred[1:] @ centred[:-1] / max(centred @ centred, 1e-12))
    return long_run(
        mean_gap_s=mean_gap_s,
        phase_stay=stay,
        snr_mean_db=float(snr.mean()),
        snr_std_db=float(max(snr.std(ddof=1), 0.1)),
        snr_correlation=min(max(correlation, -0.99), 0.99),
        budgets=_budgets(requests),
    )


def _budgets(requests: Sequence[Request]) -> tuple[BudgetClass, ...]:
    """Classes of the deadlines that requests bring, each at its shortest; none where no request brings one."""
    own = np.array([r.deadline_s for r in requests if r.deadline_s is not None])
    if not len(own):
        return ()
    edges = np.unique(own)
    if len(edges) > MOST_BUDGETS:
        edges = np.unique(np.quantile(own, np.arange(MOST_BUDGETS) / MOST_BUDGETS))
    number = np.searchsorted(edges, own, side="right") - 1
    return tuple(BudgetClass(float(edge), share=float((number == k).mean())) for k, edge in enumerate(edges))


def fit_arrivals(gaps: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean gaps in s (in a burst, between bursts) and the probabilities that the next request finds the same phase."""
    mean = max(float(gaps.mean()), 1e-9)

    def loss(x: Array) -> float:
        means = np.clip(np.exp(x[:2]), 1e-6 * mean, 1e6 * mean)
        return -log_likelihood(gaps, means, 1 / (1 + np.exp(-x[2:])))

    starts = [np.array([np.log(mean * a), np.log(mean * b), stay, stay]) for a, b in ((0.4, 2.0), (0.7, 1.4)) for stay in (0.8, 2.0)]
    best = min(
        (minimize(loss, x, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-3}) for x in starts), key=lambda r: float(r.fun)
    )
    means, stay = np.exp(best.x[:2]), np.minimum(1 / (1 + np.exp(-best.x[2:])), 0.999)
    order = np.argsort(means)
    (a, b), (p, q) = means[order].tolist(), stay[order].tolist()
    return (a, b), (p, q)


def log_likelihood(gaps: Array, mean_gap_s: Array, stay: Array) -> float:
    """Of gaps under a hidden chain of two phases: the product of N matrices, halved in number again and again."""
    change = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
    density = np.exp(-gaps[:, None] / mean_gap_s) / mean_gap_s
    product = density[:, :, None] * change  # [N, 2, 2]
    total = 0.0
    while len(product) > 1:
        scale = np.maximum(product.max((1, 2)), 1e-300)
        total += float(np.log(scale).sum())
        product = product / scale[:, None, None]
        if len(product) % 2:
            product = np.concatenate([product, np.eye(2)[None]])
        product = product[::2] @ product[1::2]
    share = np.array([1 - stay[1], 1 - stay[0]]) + 1e-12
    return total + float(np.log(max(share / share.sum() @ product[0] @ np.ones(2), 1e-300)))


@dataclass
class PhaseFilter:
    """The probability that requests come in a burst, from the gaps between them (Bayes' rule, one gap at a time)."""

    mean_gap_s: tuple[float, float]
    phase_stay: tuple[float, float]
    burst: float = 0.5

    def update(self, gap_s: float) -> int:
        """Take in the gap before a new request; returns the phase that is more probable for what follows: 0 in a burst, 1 between."""
        a, b = (math.exp(-gap_s / m) / m for m in self.mean_gap_s)
        weight = self.burst * a / max(self.burst * a + (1 - self.burst) * b, 1e-300)
        self.burst = weight * self.phase_stay[0] + (1 - weight) * (1 - self.phase_stay[1])
        return int(self.burst < 0.5)
