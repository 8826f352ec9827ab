"""Learners, rules and the exact plan on `LongRun`, judged off the tables: means over the limits, and strong violation.

`python -m experiments.long_run.run --algorithms cvpo:10` trains ten seeds and judges each over 1.5 million requests. Always k:
k steps, no merging, the default quantiser. The rules are tuned on the process itself.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.long_run import rule
from experiments.plans.run import SPREAD
from megen.control import planner, report, train
from megen.control import policy as policies
from megen.control.cmdp import evaluate
from megen.control.judge import Choose, Process, Verdict, drawn_from, judge
from megen.control.scenarios.main import build_cmdp
from megen.control.scenarios.scenario import long_run
from megen.cost import device_profile, quality_grid
from megen.types import Decision


def over_seeds(verdicts: list[Verdict]) -> dict[str, Any]:
    """Aggregates of every figure over seeds, and the worst seed's excess."""
    figures = [v.figures() for v in verdicts]
    names = figures[0]["over_limit"]
    aggregates = {
        "over_limit": {n: vars(report.aggregate([f["over_limit"][n] for f in figures])) for n in names},
        "strong_violation": {n: vars(report.aggregate([f["strong_violation"][n] for f in figures])) for n in names},
        "means": {n: vars(report.aggregate([f["means"][n]["mean"] for f in figures])) for n in figures[0]["means"]},
    }
    return {**aggregates, "worst_over_limit": {n: max(f["over_limit"][n] for f in figures) for n in names}, "seeds": len(figures)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", default="cvpo:10,ppo-lag:10,sac-lag:10", help="with the number of seeds after a colon; none: ''")
    parser.add_argument("--iterations", type=int, default=train.ITERATIONS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--links", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=1400)
    parser.add_argument("--cap-s", type=float, default=120.0, help="of each rule's tuning, CPU seconds")
    parser.add_argument("--work", type=Path, default=Path("out/control/long-run"))
    parser.add_argument("--ship", action="store_true", help="bundle the first seed of each algorithm")
    args = parser.parse_args()
    grid, scenario = quality_grid.load(), long_run()
    server, phone = (replace(device_profile.load(name), spread=SPREAD) for name in device_profile.LONG_RUN)
    process, cmdp = Process(scenario, grid, server, phone), build_cmdp(grid, server, phone, scenario)

    def judged(choose: Choose) -> Verdict:
        return judge(process, choose, links=args.links, requests=args.requests, seed=3)

    def always(decision: Decision) -> Choose:
        number = process.grid.decisions.index(decision)
        return lambda c, p, b, f, w, rng: np.full(len(w), number)

    plan = planner.plan(scenario, grid, server, phone)
    best = plan.optimum.reward

    def worth(verdict: Verdict) -> float:
        """Reward less what may be above a limit: a sample's mean alone would be tuned to its noise."""
        over = sum(max(0.0, m.mean + 2 * m.error) for m in verdict.over_limit.values())
        return verdict.means["reward"].mean / best - 5 * over

    rows: dict[str, Any] = {"exact plan": judged(drawn_from(plan.policy, process)).figures()}
    rows |= {f"always {n}": judged(always(Decision(n))).figures() for n in grid.steps.tolist()}
    for count in (4, 5):
        numbers = rule.tuned(process, cmdp, count, args.cap_s, worth)
        rows[f"rule of {count} numbers"] = judged(rule.choose_by(numbers, cmdp)).figures() | {
            "numbers": dict(zip(rule.NAMES, numbers.tolist(), strict=False))
        }
    named = [part.partition(":") for part in args.algorithms.split(",") if part]
    tasks = [(name, seed) for name, _, count in named for seed in range(int(count or 10))]
    folders = {task: args.work / f"{task[0]}-{task[1]}-{args.iterations}" for task in tasks}
    trainings = [common.Task(cmdp, *task, args.iterations, folders[task]) for task in tasks]
    runs = dict(zip(tasks, common.train_all(trainings, args.jobs, "long-run", scenario.reward), strict=True))
    learned: dict[str, Any] = {}
    for name, _, _ in named:
        tables = [run.table for (other, _), run in runs.items() if other == name]
        exact = [evaluate(cmdp, table) for table in tables]
        learned[name] = over_seeds([judged(drawn_from(policies.of_table(cmdp, table, {}), process)) for table in tables])
        learned[name]["below_the_optimum"] = vars(report.aggregate([1 - e.reward / best for e in exact]))
        learned[name]["over_limit_on_the_tables"] = {
            n: vars(report.aggregate([e.costs[k] / cmdp.limits[k] - 1 for e in exact])) for k, n in enumerate(cmdp.cost_names)
        }
        learned[name]["seconds"] = [run.rows[-1]["seconds"] for (other, _), run in runs.items() if other == name]
        print(name, learned[name]["over_limit"], learned[name]["below_the_optimum"], file=sys.stderr)
    if args.ship:
        for name, _, _ in named:
            target = policies.BUNDLED / "long-run" / f"{name}.npz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folders[name, 0] / train.FILE, target)
    multipliers = cmdp.named(plan.optimum.multipliers)
    result = {"limits": scenario.limits, "stage_spread": SPREAD, "optimum": best, "bound": plan.optimum.bound, "multipliers": multipliers}
    common.write("long_run", {"process": cmdp.digest, **result, "policies": rows, "learned": learned})


if __name__ == "__main__":
    main()
