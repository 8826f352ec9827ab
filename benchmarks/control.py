"""Learned policies over several seeds beside the exact optimum and every baseline: `python benchmarks/control.py --seeds 10`.

Each training is `megen control train` in a folder of its own, which is read where it is finished: an interrupted run goes on.
With `--ship` the first seed's policies become the shipped ones.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

import common
from megen.control import cvpo, evaluation, lp, policy, released, session, shield, shipped
from megen.control.kernel import Kernel, evaluate
from megen.control_commands import HORIZONS

BURST = 0  # the phase of the policy map
BUDGET_SEEDS = 3
WITHIN = 0.1  # of a limit: a rollout's mean cost has a standard error of some 4 %


def of_seeds(kernel: Kernel, runs: list[common.Run], episodes: int, horizon: int, best: float, early: float) -> dict:
    """Aggregates over seeds of one algorithm, whose rows tell of `early` requests ago."""
    figures = [session.figures(kernel, run.table, episodes, horizon, seed, best) for seed, run in enumerate(runs)]
    names, found = kernel.cost_names, {"seeds": len(runs)}

    def told(values: list[float]) -> dict:
        return asdict(evaluation.aggregate(values))

    for key in ("reward", "gap", "latency_s"):
        found[key] = told([f[key] for f in figures])
    for key in ("costs", "over_limit", "violation_rate"):
        found[key] = {n: told([f[key][n] for f in figures]) for n in names}
    curves = [binned(run.rows, ("samples", "reward", *names), early) for run in runs]
    costs = [np.array([c[n] for n in names]).T for c in curves]
    samples = [np.array(c["samples"]) for c in curves]
    regrets = [evaluation.regret(c, kernel.limits, s) for c, s in zip(costs, samples, strict=True)]
    found["regret"] = {n: told([float(r[k]) for r in regrets]) for k, n in enumerate(names)}
    found["regret"]["sum"] = told([float(r.sum()) for r in regrets])
    until = [evaluation.samples_until_feasible(c, kernel.limits, s, WITHIN) for c, s in zip(costs, samples, strict=True)]
    found["samples_until_feasible"] = [u if np.isfinite(u) else None for u in until]
    found["seconds_until_feasible"] = [_seconds_at(run.rows, u) for run, u in zip(runs, until, strict=True)]
    found["prices"] = {n: told([_last_quarter(run.rows, f"price_{n}") for run in runs]) for n in names}  # in the last quarter
    found["seconds"] = told([run.rows[-1]["seconds"] for run in runs])
    found["every_seed"] = [{"gap": f["gap"], "over_limit": f["over_limit"]} for f in figures]
    found["episode_cost_quantiles"] = {n: np.mean([f["episode_cost_quantiles"][n] for f in figures], 0).tolist() for n in names}
    found["curves"] = curves
    return found


def _seconds_at(rows: list[session.Row], samples: float) -> float | None:
    """When a training had made so many requests; None where it never had."""
    after = [row["seconds"] for row in rows if row["samples"] >= samples]
    return after[0] if after else None


def _last_quarter(rows: list[session.Row], name: str) -> float:
    """The mean of a column over the last quarter of a training."""
    return float(np.mean([row[name] for row in rows if row["samples"] > 0.75 * rows[-1]["samples"]]))


def binned(rows: list[session.Row], names: tuple[str, ...], early: float) -> dict[str, list[float]]:
    """Rows as means over equal numbers of requests, some 500 episodes each: short ones would count more noise as excess.

    The baselines' rows are of episodes that have ended, whose discounted means tell of `early` requests before.
    """
    rows = [r for r in rows if r["samples"] > early]
    bins = np.ceil((np.array([r["samples"] for r in rows]) - early) / session.SAMPLES_AN_ITERATION - 1e-9).astype(int)
    kept = {k: [float(np.mean([r[k] for r, b in zip(rows, bins, strict=True) if b == i])) for i in np.unique(bins)] for k in names}
    return {**kept, "samples": [float(i * session.SAMPLES_AN_ITERATION) for i in np.unique(bins)]}


def policy_map(kernel: Kernel, table: np.ndarray) -> dict:
    """Mean steps and merge ratio by SNR and backlog in a burst, prompt classes by their shares: [C][W]."""
    shares = np.einsum("p,cpwa->cwa", kernel.prompts, table.reshape(*kernel.shape, -1)[:, :, BURST])
    steps, ratios = (np.array([getattr(d, name) for d in kernel.decisions], float) for name in ("steps", "merge_ratio"))
    return {"steps": (shares @ steps).tolist(), "merge_ratio": (shares @ ratios).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=session.ITERATIONS)
    parser.add_argument("--algorithms", default=",".join(session.ALGORITHMS), help="a number of seeds after a colon, as in sac-lag:5")
    parser.add_argument("--budgets", default="5,10,20", help="also train MEG-CVPO for so many iterations, by three seeds")
    parser.add_argument("--env", choices=("main", "as-released"), default="main")
    parser.add_argument("--deadline-s", type=float, default=released.LATENCY_LIMIT_S, help="as-released: limit of the mean latency")
    parser.add_argument("--energy-limit-j", type=float, default=released.ENERGY_LIMIT_J, help="as-released: limit of the mean energy")
    parser.add_argument("--name", help="of the result (default: control, control-as-released)")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--horizon", type=int, help="requests an episode (default: 200; as-released: 64)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--work", type=Path, default=Path("out/control"))
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    main_env = args.env == "main"
    args.horizon = args.horizon or HORIZONS[args.env]
    kernel = shipped.main_kernel() if main_env else released.released_kernel(None, args.deadline_s, args.energy_limit_j)
    if args.ship and kernel.digest != (shipped.main_kernel() if main_env else released.released_kernel()).digest:
        parser.error("--ship takes the limits that the command line has by default: leave --deadline-s and --energy-limit-j out")
    work = args.work / (args.name or args.env)
    budgets = [b for b in map(int, args.budgets.split(",")) if b != args.iterations] if main_env and args.budgets else []
    named = [part.partition(":") for part in args.algorithms.split(",")]
    seeds = {name: int(count or args.seeds) for name, _, count in named}
    tasks = [(name, seed, args.iterations) for name in seeds for seed in range(seeds[name])]
    tasks += [("cvpo", seed, budget) for budget in budgets for seed in range(min(BUDGET_SEEDS, seeds.get("cvpo", 0)))]
    optimum = lp.solve(kernel)
    best = optimum.reward
    guard = shield.calibrate(kernel, 0.05)
    found = session.evaluate_all(kernel, optimum, {}, args.episodes, args.horizon, 0, guard, lambda text: print(text, file=sys.stderr))
    runs = common.train_all([common.Task(kernel, *task, work / "-".join(map(str, task))) for task in tasks], args.jobs, args.env)
    by_task = dict(zip(tasks, runs, strict=True))
    found |= {"episodes": args.episodes, "horizon": args.horizon, "learned": {}}
    found["maps"] = {"lp": policy_map(kernel, optimum.policy)} if main_env else {}
    for name in seeds:
        own = [by_task[name, seed, args.iterations] for seed in range(seeds[name])]
        early = 0.0 if name.startswith("cvpo") else cvpo.Recipe().links * (cvpo.Recipe().horizon - 1 / (1 - kernel.gamma))
        found["learned"][name] = of_seeds(kernel, own, args.episodes, args.horizon, best, early)
        found["learned"][name]["first_seed_shielded"] = session.shielded(kernel, own[0].table, guard, args.episodes, args.horizon, 0, best)
        if main_env:
            found["maps"][name] = policy_map(kernel, own[0].table)
        if args.ship:
            target = policy.SHIPPED / args.env / f"{name}.npz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / f"{name}-0-{args.iterations}" / session.FILE, target)
    found["snr_db"], found["backlog_s"] = kernel.snr_db.tolist(), kernel.backlog_s.tolist()
    found["budgets"] = {}
    for budget in [*budgets, args.iterations] if budgets else []:
        exact = [evaluate(kernel, by_task["cvpo", seed, budget].table) for seed in range(min(BUDGET_SEEDS, seeds.get("cvpo", 0)))]
        kept = [{"gap": 1 - e.reward / best, "over_limit": kernel.named(e.costs / kernel.limits - 1)} for e in exact]
        found["budgets"][str(budget * session.SAMPLES_AN_ITERATION)] = kept
    common.write(args.name or ("control" if main_env else "control-as-released"), found)


if __name__ == "__main__":
    main()
