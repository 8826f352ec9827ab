"""Exact plans for a context: what is known of the load, the limits, and the profiles of both machines; half a second each."""

from __future__ import annotations

import time
from dataclasses import dataclass

from megen.control import lp
from megen.control import policy as policies
from megen.control.cmdp import CMDP
from megen.control.lp import InfeasibleError, Optimum
from megen.control.policy import Policy
from megen.control.scenarios.main import build_cmdp
from megen.control.scenarios.scenario import Scenario
from megen.cost.device_profile import DeviceProfile
from megen.cost.quality_grid import QualityGrid

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
    about = {"algorithm": "plan", "scenario": scenario.plain(), "limits": limits, "bound": optimum.bound, "relaxed": list(relaxed)}
    policy = policies.of_table(cmdp, optimum.policy, about, scenario.own_budgets)
    return Plan(policy, optimum, cmdp, limits, relaxed, time.process_time() - began)
