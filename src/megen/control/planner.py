"""Exact plans for a context: what is known of the load, the limits, and the profiles of both machines; half a second each."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from megen.control import lp
from megen.control import policy as policies
from megen.control.cmdp import CMDP
from megen.control.lp import InfeasibleError, Optimum
from megen.control.policy import Policy
from megen.control.scenarios.main import BudgetClass, Scenario, build_cmdp, long_run
from megen.cost.device_profile import DeviceProfile
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError
from megen.files import read_text, write_json
from megen.types import Budget

GAP = 1e-4  # of the reward, between plan and bound


@dataclass(frozen=True)
class Plan:
    """The policy, what the tables say of it, and the CPU seconds that planning took.

    `limits` are those that it keeps; where no policy keeps those asked for, the nearest that can be kept, and `relaxed` names them.
    """

    policy: Policy
    optimum: Optimum
    cmdp: CMDP
    limits: dict[str, float]
    relaxed: tuple[str, ...]
    cpu_s: float


def plan(scenario: Scenario, grid: QualityGrid, server: DeviceProfile, phone: DeviceProfile, *, relax: bool = False) -> Plan:
    """The exact plan to `GAP`. With `relax`, limits that no policy keeps give way, as little as they must.

    Errors: InfeasibleError naming the limit that is too tight, without `relax`; InputError as `build_cmdp`.
    """
    began = time.process_time()
    cmdp = build_cmdp(grid, server, phone, scenario)
    try:
        optimum = lp.solve(cmdp, gap=GAP)
    except InfeasibleError:
        if not relax:
            raise
        cmdp = lp.with_limits(cmdp, lp.nearest_limits(cmdp, GAP))
        optimum = lp.solve(cmdp, gap=GAP)
    limits = cmdp.named(cmdp.limits)
    relaxed = tuple(name for name, limit in scenario.limits.items() if limits[name] > limit)
    budgets = tuple(Budget(b.deadline_s, b.energy_j if np.isfinite(b.energy_j) else None) for b in scenario.budgets)
    about = {"algorithm": "plan", "scenario": _plain(scenario), "bound": optimum.bound, "relaxed": list(relaxed)}
    policy = policies.policy_of(cmdp, optimum.policy, about, budgets)
    return Plan(policy, optimum, cmdp, limits, relaxed, time.process_time() - began)


def _plain(scenario: Scenario) -> dict[str, Any]:
    values = asdict(scenario)
    values["budgets"] = [{k: v for k, v in b.items() if v != float("inf")} for b in values["budgets"]]
    return values


def save_scenario(scenario: Scenario, path: Path, about: dict[str, Any]) -> None:
    """Write a scenario as JSON, its provenance under `made_by`."""
    write_json(path, {**_plain(scenario), "made_by": about})


def load_scenario(path: Path) -> Scenario:
    """Read a scenario; what it does not hold is as `long_run`. Errors: InputError where the file is missing or broken."""
    try:
        values = json.loads(read_text(path))
        values.pop("made_by", None)
        if unknown := values.keys() - {f.name for f in fields(Scenario)}:
            raise InputError(f"unknown: {', '.join(sorted(unknown))}")
        budgets = tuple(BudgetClass(**b) for b in values.pop("budgets", []))
        pairs = {name: tuple(values[name]) for name in ("mean_gap_s", "phase_stay") if name in values}
        return long_run(**{**values, **pairs}, budgets=budgets)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{path} is not a scenario ({error}): write it with megen control fit") from error
