"""How the learners were tuned: `python -m experiments.prices.run`.

PPO- and SAC-Lagrangian on `Main`: every pair of the integral's rate and the proportional gain of their multipliers, on two seeds that no
other benchmark uses. `--env long-run` (writes `long-run.json`): one seed, four recipes for each learner. Taken is the recipe with the
greatest reward among those whose largest excess over a limit is 1 % at most in the mean over seeds (what is below a limit counts as
kept: it does not make up for another seed's excess), or else the one with the least.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from megen.control import lp, train
from megen.control.cmdp import evaluate
from megen.control.cvpo.learner import Recipe
from megen.control.scenarios.main import main_cmdp
from megen.control.scenarios.scenario import long_run

MOST = 0.01  # excess over a limit
SEEDS = {"main": (100, 101), "long-run": (100,)}
RATES_AND_GAINS = {"main": ((0.2, 0.4, 0.8), (2, 8)), "long-run": ((0.1, 0.4), (1, 8))}
CAUTION_AND_WARM_UP = ((0.0, 1.0), (0, 200))  # MEG-CVPO's, in long runs


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The recipe that is taken."""
    excess = [row["excess"] for row in rows]
    feasible = [i for i, e in enumerate(excess) if e <= MOST]
    return rows[max(feasible, key=lambda i: rows[i]["reward"]) if feasible else int(np.argmin(excess))]


def recipes(name: str, env: str, iterations: int, seed: int) -> list[tuple[dict[str, float], Any]]:
    """What is tried of a learner: the numbers that differ, and the recipe."""
    if name == "cvpo":
        usual = Recipe(seed=seed, iterations=iterations, batch=train.LONG_RUN["batch"])
        tried = [{"caution": c, "warm_up_steps": w} for c, w in itertools.product(*CAUTION_AND_WARM_UP)]
        return [(numbers, replace(usual, **numbers)) for numbers in tried]
    like = train.lagrangian_recipe(name, seed, iterations)
    pairs = itertools.product(*RATES_AND_GAINS[env])
    return [({"price_lr": r, "price_gain": g}, replace(like, multiplier_lr=r, multiplier_gain=g)) for r, g in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", choices=SEEDS, default="main")
    parser.add_argument("--algorithms", help="default: ppo-lag,sac-lag and in long runs cvpo")
    parser.add_argument("--iterations", type=int, default=train.ITERATIONS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/prices"))
    args = parser.parse_args()
    main_env = args.env == "main"
    names = (args.algorithms or ("ppo-lag,sac-lag" if main_env else "cvpo,ppo-lag,sac-lag")).split(",")
    cmdp = main_cmdp() if main_env else main_cmdp(long_run())
    tasks: dict[tuple[str, int, int], common.Task] = {}
    tried: dict[str, list[dict[str, float]]] = {}
    for name, seed in itertools.product(names, SEEDS[args.env]):
        options = recipes(name, args.env, args.iterations, seed)
        tried[name] = [numbers for numbers, _ in options]
        for i, (numbers, recipe) in enumerate(options):
            mark = "-".join(f"{v:g}" for v in numbers.values())
            folder = args.work / ("" if main_env else args.env) / f"{name}-{mark}-{seed}-{args.iterations}"
            tasks[name, i, seed] = common.Task(cmdp, name, seed, args.iterations, folder, recipe)
    runs = dict(zip(tasks, common.train_all(list(tasks.values()), args.jobs, args.env), strict=True))
    exact = {key: evaluate(cmdp, run.table) for key, run in runs.items()}
    optimum = lp.solve(cmdp).reward
    result: dict[str, Any] = {}
    for name in names:
        rows = []
        for i, numbers in enumerate(tried[name]):
            found = [exact[name, i, seed] for seed in SEEDS[args.env]]
            over = np.array([e.costs / cmdp.limits - 1 for e in found])
            reward = float(np.mean([e.reward for e in found]))
            excess = float(np.maximum(over.max(1), 0.0).mean())
            every_seed = [{"reward": e.reward, "over_limit": o.tolist()} for e, o in zip(found, over, strict=True)]
            means = {"reward": reward, "gap": 1 - reward / optimum, "over_limit": cmdp.named(over.mean(0)), "excess": excess}
            rows.append({**numbers, **means, "every_seed": every_seed})
        taken = best(rows)
        result[name] = {"taken": {k: taken[k] for k in tried[name][0]}, "pairs": rows}
    common.write("prices" if main_env else args.env, result)


if __name__ == "__main__":
    main()
