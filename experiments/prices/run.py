"""How the multipliers of PPO- and SAC-Lagrangian were tuned: `python -m experiments.prices.run`.

Every pair of the integral's rate and the proportional gain on seeds that no other benchmark uses. Taken is the pair with the
greatest reward among those whose largest excess over a limit is 1 % at most in the mean over seeds (what is below a limit counts as
kept: it does not make up for another seed's excess), or else the one with the least.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments import common
from megen.control import lp, train
from megen.control.cmdp import evaluate
from megen.control.scenarios.main import main_cmdp

SEEDS = (100, 101)
MOST = 0.01  # excess over a limit


def best(rows: list[dict]) -> dict:
    """The pair that is taken."""
    excess = [row["excess"] for row in rows]
    feasible = [i for i, e in enumerate(excess) if e <= MOST]
    return rows[max(feasible, key=lambda i: rows[i]["reward"]) if feasible else int(np.argmin(excess))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", default="ppo-lag,sac-lag")
    parser.add_argument("--rates", default="0.2,0.4,0.8")
    parser.add_argument("--gains", default="2,8")
    parser.add_argument("--iterations", type=int, default=train.ITERATIONS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/prices"))
    args = parser.parse_args()
    cmdp = main_cmdp()
    pairs = list(itertools.product(map(float, args.rates.split(",")), map(float, args.gains.split(","))))
    keys = [(name, rate, gain, seed) for rate, gain in pairs for seed in SEEDS for name in args.algorithms.split(",")]
    tasks = []
    for name, rate, gain, seed in keys:
        recipe = replace(train.lagrangian_recipe(name, seed, args.iterations), multiplier_lr=rate, multiplier_gain=gain)
        folder = args.work / f"{name}-{rate:g}-{gain:g}-{seed}-{args.iterations}"
        tasks.append(common.Task(cmdp, name, seed, args.iterations, folder, recipe))
    exact = [evaluate(cmdp, run.table) for run in common.train_all(tasks, args.jobs, "main")]
    figures = [{"reward": e.reward, "over_limit": (e.costs / cmdp.limits - 1).tolist()} for e in exact]
    by_key = dict(zip(keys, figures, strict=True))
    optimum = lp.solve(cmdp).reward
    result: dict[str, dict] = {}
    for name in args.algorithms.split(","):
        rows = []
        for rate, gain in pairs:
            seeds = [by_key[name, rate, gain, seed] for seed in SEEDS]
            reward, over = float(np.mean([s["reward"] for s in seeds])), np.mean([s["over_limit"] for s in seeds], 0)
            excess = float(np.mean([max(0.0, *s["over_limit"]) for s in seeds]))
            means = {"reward": reward, "gap": 1 - reward / optimum, "over_limit": cmdp.named(over), "excess": excess}
            rows.append({"price_lr": rate, "price_gain": gain, **means, "every_seed": seeds})
        taken = best(rows)
        result[name] = {"taken": {k: taken[k] for k in ("price_lr", "price_gain")}, "pairs": rows}
    common.write("prices", result)


if __name__ == "__main__":
    main()
