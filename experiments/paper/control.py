"""The source's control figures in its own setting: performance against power and both limits, and learning beside the exact optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from megen.control import lp
from megen.control.cmdp import CMDP, evaluate
from megen.control.scenarios.reference import reference_cmdp
from megen.errors import InputError

POWERS_DBM = (15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
LATENCY_LIMITS_S = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
ENERGY_LIMITS_J = (250.0, 300.0, 350.0, 400.0, 450.0, 500.0, 600.0)
LATENCY_S, ENERGY_J = 2.0, 400.0  # limits that bind, where the other is swept


def sweeps() -> dict[str, list[dict[str, Any]]]:
    """The exact optimum, the best single decision, and the plain split, against power and against either limit."""
    return {
        "power_dbm": [_point(value, reference_cmdp(None, LATENCY_S, ENERGY_J, power_dbm=value)) for value in POWERS_DBM],
        "latency_limit_s": [_point(value, reference_cmdp(None, value, 600.0)) for value in LATENCY_LIMITS_S],
        "energy_limit_j": [_point(value, reference_cmdp(None, 3.0, value)) for value in ENERGY_LIMITS_J],
    }


def _point(value: float, cmdp: CMDP) -> dict[str, Any]:
    try:
        best = lp.solve(cmdp)
    except InputError as error:  # no policy keeps the limits there
        return {"value": value, "infeasible": str(error)}
    found = evaluate(cmdp, best.policy)
    fixed = {str((d.steps, d.merge_ratio)): _fixed(cmdp, i) for i, d in enumerate(cmdp.decisions)}
    kept = {name: row for name, row in fixed.items() if all(c <= limit + 1e-9 for c, limit in zip(row["costs"], cmdp.limits, strict=True))}
    single = max(kept, key=lambda name: kept[name]["reward"]) if kept else None
    return {
        "value": value,
        "optimum": {"reward": float(found.reward), "costs": np.asarray(found.costs).tolist()},
        "best_single": None if single is None else {"decision": single, **kept[single]},
        "plain_split_twelve_steps": fixed.get("(12, 0.0)"),
    }


def _fixed(cmdp: CMDP, decision: int) -> dict[str, Any]:
    table = np.zeros((cmdp.states, len(cmdp.decisions)))
    table[:, decision] = 1
    found = evaluate(cmdp, table)
    return {"reward": float(found.reward), "costs": np.asarray(found.costs).tolist()}


def no_consequences() -> float:
    """How much the next state depends on the decision: the largest difference of transition probabilities. 0: a bandit."""
    cmdp = reference_cmdp()
    moves = [cmdp.transition_of(np.full(cmdp.states, decision)) for decision in range(len(cmdp.decisions))]
    return float(max(np.abs(own - moves[0]).max() for own in moves))


def learning(iterations: int, seeds: int, jobs: int, work: Path) -> dict[str, Any]:
    """Reward and both costs against requests, MEG-CVPO beside PPO-Lagrangian, where both limits bind; and the optimum."""
    cmdp = reference_cmdp(None, LATENCY_S, ENERGY_J)
    tasks = [common.Task(cmdp, name, seed, iterations, work / f"{name}-{seed}") for name in ("cvpo", "ppo-lag") for seed in range(seeds)]
    runs = common.train_all(tasks, jobs, "as-released")
    curves: dict[str, list[Any]] = {}
    for task, run in zip(tasks, runs, strict=True):
        found = evaluate(cmdp, run.table)
        rows = [{k: row[k] for k in ("samples", "reward", *cmdp.cost_names)} for row in run.rows]
        curves.setdefault(task.algorithm, []).append(
            {"rows": rows, "reward": float(found.reward), "costs": np.asarray(found.costs).tolist()}
        )
    return {"limits": cmdp.limits.tolist(), "optimum": float(lp.solve(cmdp).reward), "curves": curves}
