"""What is known of the load and asked of it. NumPy only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.cost import device_profile
from megen.cost.device_profile import DeviceProfile
from megen.cost.quality_grid import REWARDS, QualityGrid
from megen.errors import InputError
from megen.files import read_text, write_json
from megen.types import QUANTISER_BITS, Budget, check_number, check_quantiser_bits, check_type

Array = NDArray[np.float64]
SLOWED = 0.01, 100.0  # bounds of a factor
USUAL_STEPS = 4  # of the bundled backbone
LEAST, MOST, MOST_DB = 1e-6, 1e9, 100.0  # what a linear program can tell from nothing, and what still has a meaning
PAIRS = ("mean_gap_s", "phase_stay")
TUPLES = (*PAIRS, "quantiser_bits", "budgets")
OPEN = ("tardiness_limit_s",)  # None: no limit
COUNTS = {"backlog_cells": 2, "gaps": 1, "cells_to_deadline": 1}  # whole numbers, and the least of each
MOST_STATES = 10_000  # of one axis of the tables
POSITIVE = ("deadline_s", "energy_limit_j", "tardiness_limit_s", "backlog_top_s", "mean_gap_s", "snr_std_db")
BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    "late_limit": (lambda x: LEAST <= x <= 1, f"[{LEAST:g}, 1]"),
    "gamma": (lambda x: 0 < x <= 1, "(0, 1]"),
    "snr_correlation": (lambda x: -1 < x < 1, "(-1, 1)"),
    "phase_stay": (lambda x: 0 <= x < 1, "[0, 1)"),
    "snr_mean_db": (lambda x: abs(x) <= MOST_DB, f"[-{MOST_DB:g}, {MOST_DB:g}]"),
}
MOST_CELLS = 40  # up to the latest deadline: tables grow with their square
WIDER = 1.25  # how much wider each cell of the backlog is than the one before it, beyond the deadline


@dataclass(frozen=True)
class BudgetClass:
    """A share of the requests, and what each of them may take. Errors: InputError on what is not positive."""

    deadline_s: float = 0.7
    energy_j: float = math.inf
    share: float = 1.0

    def __post_init__(self) -> None:
        check_number("deadline_s of a budget class", self.deadline_s, LEAST, MOST)
        if self.energy_j != math.inf:
            check_number("energy_j of a budget class", self.energy_j, LEAST, MOST)
        check_number("share of a budget class", self.share, LEAST, MOST)


@dataclass(frozen=True)
class Scenario:
    """What is known of the load and asked of it, beside the measured grid and profiles; the defaults are assumed.

    With `gamma` 1 limits bound long-run means. Errors: InputError on what cannot be.
    """

    deadline_s: float = 0.7
    late_limit: float = 0.05
    energy_limit_j: float = 6.4
    tardiness_limit_s: float | None = None  # of the mean of [latency - deadline]+
    budgets: tuple[BudgetClass, ...] = ()  # of single requests; none: all have `deadline_s`
    mean_gap_s: tuple[float, float] = (0.2, 1.0)  # in a burst, and between bursts
    phase_stay: tuple[float, float] = (0.9, 0.8)  # probability that the next request finds the same phase
    snr_mean_db: float = 6.0
    snr_std_db: float = 6.0
    snr_correlation: float = 0.9  # from one request to the next
    backlog_top_s: float = 3.0
    backlog_cells: int = 31
    gaps: int = 8
    gamma: float = 0.98
    reward: str = "reference"  # what a request earns, of the quality grid's `REWARDS`
    quantiser_bits: tuple[float, ...] = (QUANTISER_BITS,)  # of the decisions; none: all that the grid holds
    cells_to_deadline: int = 14  # where lateness is smooth
    smooth: bool = False  # lateness of a cell is the mean over the backlogs that it stands for, not that of its centre

    def __post_init__(self) -> None:
        for name in TUPLES:
            value = getattr(self, name)
            if not isinstance(value, tuple) or (name in PAIRS and len(value) != 2):
                raise InputError(f"{name} must be a tuple{' of two' if name in PAIRS else ''}, got {value!r}")
        for name in POSITIVE:
            for value in self._numbers(name):
                check_number(name, value, LEAST, MOST)
        for name, (inside, bounds) in BOUNDS.items():
            for value in self._numbers(name):
                check_number(name, value)
                if not inside(value):
                    each = "each " if name in PAIRS else ""
                    raise InputError(f"{each}{name} must lie in {bounds}, got {value}")
        for name, least in COUNTS.items():
            check_number(name, getattr(self, name), least, MOST_STATES, whole=True)
        if self.reward not in REWARDS:
            raise InputError(f"reward must be one of {', '.join(REWARDS)}, got {self.reward!r}")
        for bits in self.quantiser_bits:
            check_quantiser_bits(bits)
        for budget in self.budgets:
            check_type("each of budgets", budget, BudgetClass)

    def _numbers(self, name: str) -> tuple[float, ...]:
        """A field's one number or two; none where it may be left open and is."""
        value = getattr(self, name)
        if value is None and name in OPEN:
            return ()
        return value if name in PAIRS else (value,)

    def plain(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        values: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        values["budgets"] = [{k: v for k, v in b.items() if v != math.inf} for b in values["budgets"]]
        return values

    @property
    def classes(self) -> tuple[BudgetClass, ...]:
        """The budget classes, their shares of sum 1."""
        given = self.budgets or (BudgetClass(self.deadline_s),)
        total = sum(b.share for b in given)
        return tuple(replace(b, share=b.share / total) for b in given)

    @property
    def own_budgets(self) -> tuple[Budget, ...]:
        """The budget of each class, as a request brings it; none where no request has one of its own."""
        return tuple(Budget(b.deadline_s, b.energy_j if math.isfinite(b.energy_j) else None) for b in self.budgets)

    @property
    def backlog_s(self) -> Array:
        """Cells of the backlog [W]: even up to the top, or where lateness is smooth finer up to the deadlines and then ever wider."""
        if not self.smooth:
            return np.linspace(0, self.backlog_top_s, int(self.backlog_cells))
        latest = max(b.deadline_s for b in self.classes)
        width = max(min(max(latest / self.cells_to_deadline, 0.025), 0.1), latest / MOST_CELLS)
        cells = [*np.arange(0, latest + 0.3, width)]
        while cells[-1] < self.backlog_top_s:
            width *= WIDER
            cells.append(cells[-1] + width)
        return np.array(cells)

    def slowed(self, factor: float) -> Scenario:
        """The same for machines that take `factor` times as long: gaps, deadlines, tardiness and energy are as many times as large."""
        check_number("factor", factor, *SLOWED)
        late = None if self.tardiness_limit_s is None else factor * self.tardiness_limit_s
        budgets = tuple(replace(b, deadline_s=factor * b.deadline_s, energy_j=factor * b.energy_j) for b in self.budgets)
        return replace(
            self,
            deadline_s=factor * self.deadline_s,
            energy_limit_j=factor * self.energy_limit_j,
            tardiness_limit_s=late,
            budgets=budgets,
            mean_gap_s=(factor * self.mean_gap_s[0], factor * self.mean_gap_s[1]),
            backlog_top_s=factor * self.backlog_top_s,
        )

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each cost."""
        tardiness = {} if self.tardiness_limit_s is None else {"tardiness_s": self.tardiness_limit_s}
        return {"late": self.late_limit, "energy_j": self.energy_limit_j, **tardiness}


def long_run(**given: Any) -> Scenario:
    """A scenario whose plans hold on the process as described: long-run means, fine and smooth tables, a limit of the
    tardiness; the reward is what is seen, and every quantiser may be chosen.
    """
    return Scenario(**{**LONG_RUN, **given})


def assumed_for(grid: QualityGrid, server: DeviceProfile, phone: DeviceProfile) -> Scenario:
    """The assumed load of a backbone with a quality grid of its own, on machines of these profiles.

    Times are as many times longer, and the energy limit as many times larger, as an image of its middle number of steps takes more than
    one of the bundled backbone on the bundled profiles; of the bundled backbone itself the same number of steps is compared. Where the grid
    does not say what is seen, the reward is closeness to the most steps.
    """

    def of(steps: int, server: DeviceProfile, phone: DeviceProfile) -> Array:
        es_s = server.es_s(steps)
        return np.array([es_s + phone.ue_s(), server.power_w * es_s + phone.power_w * phone.ue_s()])

    bundled = device_profile.load(device_profile.SERVER), device_profile.load(device_profile.PHONE)
    steps = USUAL_STEPS if server.backbone == bundled[0].backbone else int(grid.steps[len(grid.steps) // 2])
    slower, costlier = np.maximum(of(steps, server, phone) / of(USUAL_STEPS, *bundled), 1.0).tolist()
    scenario = long_run(reward="reference" if grid.seen is None else "seen")
    return replace(scenario.slowed(min(slower, SLOWED[1])), energy_limit_j=costlier * scenario.energy_limit_j)


LONG_RUN: dict[str, Any] = {
    "gamma": 1.0,
    "backlog_top_s": 12.0,
    "gaps": 16,
    "smooth": True,
    "tardiness_limit_s": 0.0075,
    "reward": "seen",
    "quantiser_bits": (),
}


def save(scenario: Scenario, path: Path, about: dict[str, Any]) -> None:
    """Write a scenario as JSON, its provenance under `made_by`."""
    write_json(path, {**scenario.plain(), "made_by": about})


def of(values: dict[str, Any]) -> Scenario:
    """A scenario from what `plain` gave; what it does not hold is as `long_run`. Errors: InputError on another name; TypeError."""
    if unknown := values.keys() - {f.name for f in fields(Scenario)}:
        raise InputError(f"unknown: {', '.join(sorted(unknown))}")
    budgets = tuple(BudgetClass(**b) for b in values.get("budgets", []))
    given: dict[str, Any] = {**values, "budgets": budgets}
    given.update({name: tuple(values[name]) for name in ("mean_gap_s", "phase_stay", "quantiser_bits") if name in values})
    return long_run(**given)


def load(path: Path) -> Scenario:
    """Read a scenario; what it does not hold is as `long_run`. Errors: InputError where the file is missing or broken."""
    try:
        values = json.loads(read_text(path))
        values.pop("made_by", None)
        return of(values)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path} is not a scenario ({error}): write it with megen control fit") from error
