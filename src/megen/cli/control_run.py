"""What `megen control` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from megen import console
from megen.cli import output
from megen.control import fit, lp, planner, report, shield
from megen.control import policy as policies
from megen.control.cmdp import CMDP
from megen.control.controller import PLAN
from megen.control.judge import Process, drawn_from, judge
from megen.control.scenarios import reference
from megen.control.scenarios import scenario as scenarios
from megen.control.scenarios.main import bundled_grid, main_cmdp, profiles_of
from megen.control.scenarios.scenario import Scenario, long_run
from megen.cost import device_profile
from megen.cost import quality_grid as quality
from megen.cost.device_profile import PHONE, SERVER
from megen.errors import InputError
from megen.files import check_writable, emit
from megen.provenance import provenance

SCENARIOS = {"main": Scenario(), "long-run": long_run()}
SHOWN = {  # beside the reward
    "attributes": ("attributes, %", 100),
    "psnr_db": ("PSNR, dB", 1),
    "latency_s": ("latency, s", 1),
    "energy_j": ("energy, J", 1),
}
HORIZONS = {"main": 200, "long-run": 200, "as-released": reference.SLOTS}  # requests of an episode


def control(args: argparse.Namespace) -> None:
    """Plan, train, evaluate or fit."""
    if args.what == "fit":
        _fit(args)
        return
    if args.what == "plan":
        _plan(args)
        return
    for option, bounds in {"seed": (0, 2**31 - 1), "iterations": (1, 10**6), "episodes": (2, 10**6), "horizon": (1, 10**5)}.items():
        value = getattr(args, option, None)
        if value is not None and not bounds[0] <= value <= bounds[1]:
            raise InputError(f"--{option} must lie in [{bounds[0]}, {bounds[1]}], got {value}")
    if args.what == "train":
        _train(args, cmdp_of(args))
        return
    planned = _planned_scenario(args)
    if planned is None:
        scenario = _changed(SCENARIOS[args.env], args) if args.env in SCENARIOS else None
        _evaluate(args, cmdp_of(args), scenario)
    else:
        _name_profiles(args)
        _evaluate(args, main_cmdp(planned, quality.load(args.quality) if args.quality else None, args.server, args.phone), planned)


def _name_profiles(args: argparse.Namespace) -> None:
    """Plans are for the bundled profiles of today where none is named, and not for those of a benchmark's tables."""
    args.server, args.phone = args.server or SERVER, args.phone or PHONE


def _planned_scenario(args: argparse.Namespace) -> Scenario | None:
    """The scenario that the policy to evaluate was planned for; None where it is no plan."""
    if args.policy == PLAN:
        return _changed(long_run(), args)
    path = Path(args.policy) if args.policy else None
    if path is None or not path.is_file():
        return None
    about = policies.load(path).about
    return _changed(scenarios.of(about["scenario"]), args) if "scenario" in about else None


def cmdp_of(args: argparse.Namespace) -> CMDP:
    """The CMDP of the options. Errors: InputError on figures that cannot be, or that the environment does not have."""
    grid = quality.load(args.quality) if args.quality else None
    if args.env == "as-released":
        for option in ("late_limit", "gap_s", "snr_mean_db", "reward", "server", "phone"):
            if getattr(args, option) is not None:
                raise InputError(f"--{option.replace('_', '-')} is the main process's: as-released takes --deadline-s and --energy-limit-j")
        limits = {"latency_limit_s": args.deadline_s, "energy_limit_j": args.energy_limit_j}
        return reference.reference_cmdp(grid, **{k: v for k, v in limits.items() if v is not None})
    return main_cmdp(_changed(SCENARIOS[args.env], args), grid, args.server, args.phone)


def _changed(scenario: Scenario, args: argparse.Namespace) -> Scenario:
    """A scenario with what the options give."""
    given = {
        "deadline_s": args.deadline_s,
        "late_limit": args.late_limit,
        "energy_limit_j": args.energy_limit_j,
        "tardiness_limit_s": getattr(args, "tardiness_limit_s", None),
        "mean_gap_s": _pair(args.gap_s) if args.gap_s else None,
        "snr_mean_db": args.snr_mean_db,
        "reward": args.reward,
    }
    return replace(scenario, **{k: v for k, v in given.items() if v is not None})


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--gap-s takes two mean gaps in s, in a burst and between bursts, such as 0.5,2; got {text!r}") from None
    return first, second


def _process(scenario: Scenario, args: argparse.Namespace) -> Process:
    """What the options say a policy meets."""
    grid = quality.load(args.quality) if args.quality else bundled_grid(scenario)
    return Process(scenario, grid, *profiles_of(scenario, args.server, args.phone))


def _check_targets(*targets: Path | str | None) -> None:
    """Refuse a file that cannot be written before any work. Errors: InputError."""
    for target in targets:
        if target not in (None, "-"):
            check_writable(Path(str(target)))


def _plan(args: argparse.Namespace) -> None:
    _check_targets(args.out, args.json)
    _name_profiles(args)
    scenario = _changed(scenarios.load(args.scenario) if args.scenario else long_run(), args)
    process = _process(scenario, args)
    plan = planner.plan(scenario, process.grid, process.server, process.phone, relax=args.relax)
    best, names = plan.optimum, plan.cmdp.cost_names
    figures = {
        "reward": best.reward,
        "bound": best.bound,
        "costs": dict(zip(names, best.costs.tolist(), strict=True)),
        "limits": plan.limits,
        "asked": scenario.limits,
        "duals": dict(zip(names, best.multipliers.tolist(), strict=True)),
        "cpu_s": plan.cpu_s,
        "assumed": [f"server {process.server.name}", f"phone {process.phone.name}"],
        "made_by": provenance(),
    }
    if args.out:
        policies.save(plan.policy, args.out)
    for name in plan.relaxed:
        limit = f"{name} {scenario.limits[name]:g}"
        print(f"megen: no policy keeps the limit {limit}: planned for {plan.limits[name]:.4g}", file=sys.stderr)
    if args.json is not None:
        emit(figures, args.json)
        return
    columns = zip(names, best.costs, plan.limits.values(), best.multipliers, strict=True)
    rows = [{"cost": name, "mean": mean, "limit": limit, "multiplier": dual} for name, mean, limit, dual in columns]
    print(f"reward {best.reward:.5g} (no policy earns more than {best.bound:.5g}), {plan.cpu_s:.2f} CPU s")
    print(output.table(rows, list(rows[0])))
    if args.out:
        print(args.out)


def _fit(args: argparse.Namespace) -> None:
    targets = [args.out, args.server_out, args.phone_out]
    _check_targets(*targets, args.json)
    fitted, made_by = fit.fit(fit.read(args.log)), provenance()
    if args.out:
        scenarios.save(fitted.scenario, args.out, made_by)
    for target, profile in (
        (args.server_out, fitted.server(device_profile.load(SERVER))),
        (args.phone_out, fitted.phone(device_profile.load(PHONE))),
    ):
        if target:
            device_profile.save(profile, target, made_by)
    if args.json is not None:
        emit({**fitted.figures(), "made_by": made_by}, args.json)
        return
    print(output.table([{"what": k, "value": str(v)} for k, v in fitted.figures().items()], ("what", "value")))
    for target in filter(None, targets):
        print(target)


def _train(args: argparse.Namespace, cmdp: CMDP) -> None:
    from megen.control import train

    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out} is a file: name a folder")
    total = args.iterations or train.ITERATIONS
    reward = args.reward or (SCENARIOS[args.env].reward if args.env in SCENARIOS else "reference")
    about = {"env": args.env, "reward": reward, **provenance()}
    with console.bar(args.algorithm, total, every=10) as update:
        done = 0

        def show(row: train.Row) -> None:
            nonlocal done
            now = min(total, int(row["samples"]) // train.SAMPLES_AN_ITERATION)
            if now > done:  # the baselines report several times an iteration
                update(now, "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("samples", "seconds")))
            done = now

        train.train(cmdp, args.algorithm, args.seed, total, args.out, about, on_row=show)
    print(args.out / train.FILE)


def _evaluate(args: argparse.Namespace, cmdp: CMDP, scenario: Scenario | None) -> None:
    _check_targets(args.json)
    guard, plan = shield.calibrate(cmdp, args.alpha), report.EpisodePlan(args.episodes, args.horizon or HORIZONS[args.env], args.seed)
    lp.check(cmdp)
    made = {"made_by": provenance()}
    with_judge = _judged(args, cmdp, scenario) if scenario else None
    with console.status("policies") as say:
        say(args.policy or "lp")
        table = None if args.policy in (None, "lp", PLAN) else _table_of(args.policy, args.env, cmdp)  # a wrong name is refused at once
        say("lp")
        best = lp.solve(cmdp)
        if args.policy is not None:
            table = best.policy if table is None else table
            figures = report.evaluate_one(cmdp, table, guard, plan, best.reward)
            if with_judge:
                say("the process as described")
                figures["continuous"] = with_judge(table)
            _show({"policy": args.policy, "env": args.env, **figures, **made}, {args.policy: figures}, args.json)
            return
        bundled = {name: policies.load(path) for name, path in policies.bundled(args.env).items()}
        learned = {name: policies.table_of(p, cmdp) for name, p in bundled.items() if p.about.get("process") == cmdp.digest}
        figures = report.evaluate_all(cmdp, best, learned, guard, plan, say)
        _show({"env": args.env, **figures, **made}, figures["policies"], args.json)
    if strangers := sorted(bundled.keys() - learned.keys()):
        print(f"megen: left out, as learned on another CMDP: the bundled {', '.join(strangers)}", file=sys.stderr)


def _judged(args: argparse.Namespace, cmdp: CMDP, scenario: Scenario) -> Callable[[report.Array], dict[str, Any]]:
    """What the judge off the tables says of a policy's table."""
    process = _process(scenario, args)

    def figures(table: report.Array) -> dict[str, Any]:
        return judge(process, drawn_from(policies.of_table(cmdp, table, {}, scenario.own_budgets), process), seed=args.seed).figures()

    return figures


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
            **{head: scale * row[key] for key, (head, scale) in SHOWN.items() if key in row},
        }
        for name, row in policies_.items()
    ]
    limits = ", ".join(f"{name} {value:g}" for name, value in figures["limits"].items())
    print(f"limits: {limits} (means of the discrete CMDP)\n{output.table(rows, list(rows[0]))}")
    if judged := figures.get("continuous"):
        over = [f"{name} {100 * v:+.1f} ± {100 * judged['over_limit_error'][name]:.1f} %" for name, v in judged["over_limit"].items()]
        print(f"on the process as described, over the limits: {', '.join(over)}")


def _table_of(name: str, env: str, cmdp: CMDP) -> report.Array:
    """The table of a policy by its name, or from a file or a training's folder."""
    if name in report.RULES:
        return report.RULES[name](cmdp)
    return policies.table_of(policies.find(name, (env,), ("lp", *report.RULES)), cmdp)
