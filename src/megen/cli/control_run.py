"""What `megen control` does."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from megen import console
from megen.cli import output
from megen.control import lp, report, shield
from megen.control import policy as policies
from megen.control.cmdp import CMDP
from megen.control.scenarios import reference
from megen.control.scenarios.main import Scenario, main_cmdp
from megen.cost import quality_grid as quality
from megen.errors import InputError
from megen.files import check_writable, emit
from megen.provenance import provenance

HORIZONS = {"main": 200, "as-released": reference.SLOTS}  # requests of an episode


def control(args: argparse.Namespace) -> None:
    """Train a policy, or evaluate policies beside the optimum and every baseline."""
    for option, bounds in {"seed": (0, 2**31 - 1), "iterations": (1, 10**6), "episodes": (2, 10**6), "horizon": (1, 10**5)}.items():
        value = getattr(args, option, None)
        if value is not None and not bounds[0] <= value <= bounds[1]:
            raise InputError(f"--{option} must lie in [{bounds[0]}, {bounds[1]}], got {value}")
    (_train if args.what == "train" else _evaluate)(args, cmdp_of(args))


def cmdp_of(args: argparse.Namespace) -> CMDP:
    """The CMDP of the options. Errors: InputError on figures that cannot be, or that the environment does not have."""
    grid = quality.load(args.quality) if args.quality else None
    if args.env == "as-released":
        for option in ("late_limit", "gap_s", "snr_mean_db", "server", "phone"):
            if getattr(args, option) is not None:
                raise InputError(f"--{option.replace('_', '-')} is the main process's: as-released takes --deadline-s and --energy-limit-j")
        limits = {"latency_limit_s": args.deadline_s, "energy_limit_j": args.energy_limit_j}
        return reference.reference_cmdp(grid, **{k: v for k, v in limits.items() if v is not None})
    given = {
        "deadline_s": args.deadline_s,
        "late_limit": args.late_limit,
        "energy_limit_j": args.energy_limit_j,
        "mean_gap_s": _pair(args.gap_s) if args.gap_s else None,
        "snr_mean_db": args.snr_mean_db,
    }
    scenario = replace(Scenario(), **{k: v for k, v in given.items() if v is not None})
    return main_cmdp(scenario, grid, args.server, args.phone)


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--gap-s takes two mean gaps in s, in a burst and between bursts, such as 0.5,2; got {text!r}") from None
    return first, second


def _train(args: argparse.Namespace, cmdp: CMDP) -> None:
    from megen.control import train

    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out} is a file: name a folder")
    total = args.iterations or train.ITERATIONS
    with console.bar(args.algorithm, total, every=10) as update:
        done = 0

        def show(row: train.Row) -> None:
            nonlocal done
            now = min(total, int(row["samples"]) // train.SAMPLES_AN_ITERATION)
            if now > done:  # the baselines report several times an iteration
                update(now, "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("samples", "seconds")))
            done = now

        train.train(cmdp, args.algorithm, args.seed, total, args.out, {"env": args.env, **provenance()}, on_row=show)
    print(args.out / train.FILE)


def _evaluate(args: argparse.Namespace, cmdp: CMDP) -> None:
    if args.json not in (None, "-"):
        check_writable(Path(args.json))
    guard, plan = shield.calibrate(cmdp, args.alpha), report.EpisodePlan(args.episodes, args.horizon or HORIZONS[args.env], args.seed)
    lp.check(cmdp)
    made = {"made_by": provenance()}
    with console.status("policies") as say:
        say(args.policy or "lp")
        table = None if args.policy in (None, "lp") else _table_of(args.policy, args.env, cmdp)  # a wrong name is refused at once
        say("lp")
        best = lp.solve(cmdp)
        if args.policy is not None:
            figures = report.evaluate_one(cmdp, best.policy if table is None else table, guard, plan, best.reward)
            _show({"policy": args.policy, "env": args.env, **figures, **made}, {args.policy: figures}, args.json)
            return
        bundled = {name: policies.load(path) for name, path in policies.bundled(args.env).items()}
        learned = {name: policies.table_of(p, cmdp) for name, p in bundled.items() if p.about.get("process") == cmdp.digest}
        figures = report.evaluate_all(cmdp, best, learned, guard, plan, say)
        _show({"env": args.env, **figures, **made}, figures["policies"], args.json)
    if strangers := sorted(bundled.keys() - learned.keys()):
        print(f"megen: left out, as learned on another CMDP: the bundled {', '.join(strangers)}", file=sys.stderr)


def _show(figures: dict[str, Any], policies_: dict[str, dict[str, Any]], target: str | None) -> None:
    """A table for a person, or the whole object."""
    if target is not None:
        emit(figures, target)
        return
    rows = [
        {
            "policy": name,
            "reward": row["reward"],
            "below optimum, %": 100 * row["gap"],
            **{f"{cost} over limit, %": 100 * over for cost, over in row["over_limit"].items()},
            "latency, s": row["latency_s"],
        }
        for name, row in policies_.items()
    ]
    limits = ", ".join(f"{name} {value:g}" for name, value in figures["limits"].items())
    print(f"limits: {limits} (means of the discrete CMDP)\n{output.table(rows, list(rows[0]))}")


def _table_of(name: str, env: str, cmdp: CMDP) -> report.Array:
    """The table of a policy by its name, or from a file or a training's folder."""
    if name in report.RULES:
        return report.RULES[name](cmdp)
    return policies.table_of(policies.find(name, env, ("lp", *report.RULES)), cmdp)
