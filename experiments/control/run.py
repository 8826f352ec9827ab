"""Learned policies over several seeds beside the exact optimum and every baseline: `python -m experiments.control.run --seeds 10`.

Each training is `megen control train` in a folder of its own, which is read where it is finished: an interrupted run goes on.
With `--ship` the first seed's policies become the bundled ones.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from experiments import common
from megen.cli.control_run import HORIZONS
from megen.control import lp, policy, report, shield, train
from megen.control.cmdp import CMDP, evaluate
from megen.control.cvpo import learner as cvpo
from megen.control.report import EpisodePlan
from megen.control.scenarios import reference
from megen.control.scenarios.main import main_cmdp

BURST = 0  # the phase of the policy map
BUDGET_SEEDS = 3
WITHIN = 0.1  # of a limit: a rollout's mean cost has a standard error of some 4 %


def of_seeds(cmdp: CMDP, runs: list[common.Run], plan: EpisodePlan, best: float, early: float) -> dict:
    """Aggregates over seeds of one algorithm, whose rows are of `early` requests ago."""
    figures = [report.figures(cmdp, run.table, replace(plan, seed=seed), best) for seed, run in enumerate(runs)]
    names, result = cmdp.cost_names, {"seeds": len(runs)}

    def aggregate(values: list[float]) -> dict:
        return asdict(report.aggregate(values))

    for key in ("reward", "gap", "latency_s"):
        result[key] = aggregate([f[key] for f in figures])
    for key in ("costs", "over_limit", "violation_rate"):
        result[key] = {n: aggregate([f[key][n] for f in figures]) for n in names}
    curves = [binned(run.rows, ("samples", "reward", *names), early) for run in runs]
    costs = [np.array([c[n] for n in names]).T for c in curves]
    samples = [np.array(c["samples"]) for c in curves]
    regrets = [report.regret(c, cmdp.limits, s) for c, s in zip(costs, samples, strict=True)]
    result["regret"] = {n: aggregate([float(r[k]) for r in regrets]) for k, n in enumerate(names)}
    result["regret"]["sum"] = aggregate([float(r.sum()) for r in regrets])
    until = [report.samples_until_feasible(c, cmdp.limits, s, WITHIN) for c, s in zip(costs, samples, strict=True)]
    result["samples_until_feasible"] = [u if np.isfinite(u) else None for u in until]
    result["seconds_until_feasible"] = [_seconds_at(run.rows, u) for run, u in zip(runs, until, strict=True)]
    result["prices"] = {n: aggregate([_last_quarter(run.rows, f"multiplier_{n}") for run in runs]) for n in names}  # in the last quarter
    result["seconds"] = aggregate([run.rows[-1]["seconds"] for run in runs])
    result["every_seed"] = [{"gap": f["gap"], "over_limit": f["over_limit"]} for f in figures]
    result["episode_cost_quantiles"] = {n: np.mean([f["episode_cost_quantiles"][n] for f in figures], 0).tolist() for n in names}
    result["curves"] = curves
    return result


def _seconds_at(rows: list[train.Row], samples: float) -> float | None:
    """When a training had made so many requests; None where it never had."""
    after = [row["seconds"] for row in rows if row["samples"] >= samples]
    return after[0] if after else None


def _last_quarter(rows: list[train.Row], name: str) -> float:
    """The mean of a column over the last quarter of a training."""
    return float(np.mean([row[name] for row in rows if row["samples"] > 0.75 * rows[-1]["samples"]]))


def binned(rows: list[train.Row], names: tuple[str, ...], early: float) -> dict[str, list[float]]:
    """Rows as means over equal numbers of requests, some 500 episodes each: short ones would count more noise as excess.

    The baselines' rows are of episodes that have ended, whose discounted means are of `early` requests before.
    """
    rows = [r for r in rows if r["samples"] > early]
    bins = np.ceil((np.array([r["samples"] for r in rows]) - early) / train.SAMPLES_AN_ITERATION - 1e-9).astype(int)
    means = {k: [float(np.mean([r[k] for r, b in zip(rows, bins, strict=True) if b == i])) for i in np.unique(bins)] for k in names}
    return {**means, "samples": [float(i * train.SAMPLES_AN_ITERATION) for i in np.unique(bins)]}


def policy_map(cmdp: CMDP, table: np.ndarray) -> dict:
    """Mean steps and merge ratio by SNR and backlog in a burst, prompt classes by their probabilities: [C][W]."""
    probabilities = np.einsum("p,cpwa->cwa", cmdp.prompts, table.reshape(*cmdp.shape, -1)[:, :, BURST])
    steps, ratios = (np.array([getattr(d, name) for d in cmdp.decisions], float) for name in ("steps", "merge_ratio"))
    return {"steps": (probabilities @ steps).tolist(), "merge_ratio": (probabilities @ ratios).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=train.ITERATIONS)
    parser.add_argument("--algorithms", default=",".join(train.ALGORITHMS), help="a number of seeds after a colon, as in sac-lag:5")
    parser.add_argument("--budgets", default="5,10,20", help="also train MEG-CVPO for so many iterations, by three seeds")
    parser.add_argument("--env", choices=("main", "as-released"), default="main")
    parser.add_argument("--deadline-s", type=float, default=reference.LATENCY_LIMIT_S, help="as-released: limit of the mean latency")
    parser.add_argument("--energy-limit-j", type=float, default=reference.ENERGY_LIMIT_J, help="as-released: limit of the mean energy")
    parser.add_argument("--name", help="of the result (default: control, control-as-released)")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--horizon", type=int, help="requests an episode (default: 200; as-released: 64)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--work", type=Path, default=Path("out/control"))
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    main_env = args.env == "main"
    args.horizon = args.horizon or HORIZONS[args.env]
    cmdp = main_cmdp() if main_env else reference.reference_cmdp(None, args.deadline_s, args.energy_limit_j)
    if args.ship and cmdp.digest != (main_cmdp() if main_env else reference.reference_cmdp()).digest:
        parser.error("--ship takes the limits that the command line has by default: leave --deadline-s and --energy-limit-j out")
    work = args.work / (args.name or args.env)
    budgets = [b for b in map(int, args.budgets.split(",")) if b != args.iterations] if main_env and args.budgets else []
    named = [part.partition(":") for part in args.algorithms.split(",")]
    seeds = {name: int(count or args.seeds) for name, _, count in named}
    tasks = [(name, seed, args.iterations) for name in seeds for seed in range(seeds[name])]
    tasks += [("cvpo", seed, budget) for budget in budgets for seed in range(min(BUDGET_SEEDS, seeds.get("cvpo", 0)))]
    optimum = lp.solve(cmdp)
    best = optimum.reward
    guard = shield.calibrate(cmdp, 0.05)
    plan = EpisodePlan(args.episodes, args.horizon, 0)
    result = report.evaluate_all(cmdp, optimum, {}, guard, plan, lambda text: print(text, file=sys.stderr))
    runs = common.train_all([common.Task(cmdp, *task, work / "-".join(map(str, task))) for task in tasks], args.jobs, args.env)
    by_task = dict(zip(tasks, runs, strict=True))
    result |= {"episodes": args.episodes, "horizon": args.horizon, "learned": {}}
    result["maps"] = {"lp": policy_map(cmdp, optimum.policy)} if main_env else {}
    for name in seeds:
        seed_runs = [by_task[name, seed, args.iterations] for seed in range(seeds[name])]
        early = 0.0 if name.startswith("cvpo") else cvpo.Recipe().links * (cvpo.Recipe().horizon - 1 / (1 - cmdp.gamma))
        result["learned"][name] = of_seeds(cmdp, seed_runs, plan, best, early)
        result["learned"][name]["first_seed_shielded"] = report.shielded_figures(cmdp, seed_runs[0].table, guard, plan, best)
        if main_env:
            result["maps"][name] = policy_map(cmdp, seed_runs[0].table)
        if args.ship:
            target = policy.BUNDLED / args.env / f"{name}.npz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / f"{name}-0-{args.iterations}" / train.FILE, target)
    result["snr_db"], result["backlog_s"] = cmdp.snr_db.tolist(), cmdp.backlog_s.tolist()
    result["budgets"] = {}
    for budget in [*budgets, args.iterations] if budgets else []:
        exact = [evaluate(cmdp, by_task["cvpo", seed, budget].table) for seed in range(min(BUDGET_SEEDS, seeds.get("cvpo", 0)))]
        points = [{"gap": 1 - e.reward / best, "over_limit": cmdp.named(e.costs / cmdp.limits - 1)} for e in exact]
        result["budgets"][str(budget * train.SAMPLES_AN_ITERATION)] = points
    common.write(args.name or ("control" if main_env else "control-as-released"), result)


if __name__ == "__main__":
    main()
