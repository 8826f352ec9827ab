"""How the prices of PPO- and SAC-Lagrangian were tuned: `python benchmarks/prices.py`.

Every pair of the integral's rate and the proportional gain on seeds that no other benchmark uses. Taken is the pair with the
greatest reward among those whose largest excess over a limit is 1 % at most in the mean over seeds (what is below a limit counts as
kept: it does not make up for another seed's excess), or else the one with the least.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import common
from megen.control import lagrangian, lp, session, shipped
from megen.control.kernel import evaluate
from megen.files import write_text

SEEDS = (100, 101)
MOST = 0.01  # excess over a limit


def run(algorithm: str, rate: float, gain: float, seed: int, iterations: int, work: Path) -> dict:
    """Exact figures of one training, read where `work` holds them of the same process and recipe."""
    torch.set_num_threads(1)
    kernel = shipped.main_kernel()
    recipe = replace(session.lagrangian_recipe(algorithm, seed, iterations), price_lr=rate, price_gain=gain)
    mark = hashlib.sha256(json.dumps([algorithm, kernel.digest, asdict(recipe)]).encode()).hexdigest()[:12]
    kept = work / f"{algorithm}-{rate:g}-{gain:g}-{seed}-{mark}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    exact = evaluate(kernel, (lagrangian.sac if algorithm == "sac-lag" else lagrangian.ppo)(kernel, recipe))
    found = {"reward": exact.reward, "over_limit": (exact.costs / kernel.limits - 1).tolist()}
    write_text(kept, json.dumps(found))
    return found


def best(rows: list[dict]) -> dict:
    """The pair that is taken."""
    excess = [row["excess"] for row in rows]
    kept = [i for i, e in enumerate(excess) if e <= MOST]
    return rows[max(kept, key=lambda i: rows[i]["reward"]) if kept else int(np.argmin(excess))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algorithms", default="ppo-lag,sac-lag")
    parser.add_argument("--rates", default="0.2,0.4,0.8")
    parser.add_argument("--gains", default="2,8")
    parser.add_argument("--iterations", type=int, default=session.ITERATIONS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/prices"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pairs = list(itertools.product(map(float, args.rates.split(",")), map(float, args.gains.split(","))))
    tasks = [(name, *pair, seed, args.iterations) for pair in pairs for seed in SEEDS for name in args.algorithms.split(",")]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        futures = {pool.submit(run, *task, args.work): task for task in tasks}
        for done, future in enumerate(as_completed(futures), 1):
            print(f"{done}/{len(tasks)}:", *futures[future], future.result(), file=sys.stderr)
    by_task = {task: future.result() for future, task in futures.items()}
    kernel = shipped.main_kernel()
    optimum = lp.solve(kernel).reward
    found: dict[str, dict] = {}
    for name in args.algorithms.split(","):
        rows = []
        for rate, gain in pairs:
            seeds = [by_task[name, rate, gain, seed, args.iterations] for seed in SEEDS]
            reward, over = float(np.mean([s["reward"] for s in seeds])), np.mean([s["over_limit"] for s in seeds], 0)
            excess = float(np.mean([max(0.0, *s["over_limit"]) for s in seeds]))
            told = {"reward": reward, "gap": 1 - reward / optimum, "over_limit": kernel.named(over), "excess": excess}
            rows.append({"price_lr": rate, "price_gain": gain, **told, "every_seed": seeds})
        taken = best(rows)
        found[name] = {"taken": {k: taken[k] for k in ("price_lr", "price_gain")}, "pairs": rows}
    common.write("prices", found)


if __name__ == "__main__":
    main()
