"""Learned policies over several seeds beside the exact optimum and every baseline: `python benchmarks/control.py --seeds 10`.

Each training is `megen control train` in a folder of its own, which is read where it is finished: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

import common
from megen.control import evaluation, policy, released, session, shipped
from megen.control.kernel import Kernel
from megen.models.weights import provenance


def of_seeds(kernel: Kernel, runs: list[tuple[np.ndarray, list[session.Row]]], episodes: int, horizon: int, best: float) -> dict:
    """Aggregates over seeds of one algorithm."""
    figures = [session.figures(kernel, table, episodes, horizon, seed, best) for seed, (table, _) in enumerate(runs)]
    names, found = kernel.cost_names, {"seeds": len(runs)}

    def told(values: list[float]) -> dict:
        return asdict(evaluation.aggregate(values))

    for key in ("reward", "gap"):
        found[key] = told([f[key] for f in figures])
    for key in ("costs", "over_limit", "violation_share"):
        found[key] = {n: told([f[key][n] for f in figures]) for n in names}
    costs = [np.array([[r[n] for n in names] for r in rows]) for _, rows in runs]
    samples = [np.array([r["samples"] for r in rows]) for _, rows in runs]
    regrets = [evaluation.regret(c, kernel.limits, s) for c, s in zip(costs, samples, strict=True)]
    found["regret"] = {n: told([float(r[k]) for r in regrets]) for k, n in enumerate(names)}
    found["samples_until_feasible"] = [evaluation.samples_until_feasible(c, kernel.limits, s) for c, s in zip(costs, samples, strict=True)]
    found["seconds"] = told([rows[-1]["seconds"] for _, rows in runs])
    found["every_seed"] = [{"gap": f["gap"], "over_limit": f["over_limit"]} for f in figures]
    found["curves"] = [{k: [r[k] for r in rows] for k in ("samples", "reward", *names)} for _, rows in runs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=session.ITERATIONS)
    parser.add_argument("--algorithms", default=",".join(session.ALGORITHMS))
    parser.add_argument("--variant", choices=("main", "as-released"), default="main")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--horizon", type=int, default=200)
    parser.add_argument("--work", type=Path, default=Path("out/control"))
    args = parser.parse_args()
    kernel = shipped.main_kernel() if args.variant == "main" else released.released_kernel()
    found = session.evaluate_all(kernel, {}, args.episodes, args.horizon, 0, 0.05, lambda text: print(text, file=sys.stderr))
    best = found["policies"]["LP optimum"]["reward"]
    found["learned"] = {}
    for algorithm in args.algorithms.split(","):
        runs = []
        for seed in range(args.seeds):
            folder = args.work / args.variant / f"{algorithm}-{seed}"
            made, rows = session.train(kernel, algorithm, seed, args.iterations, folder, provenance())
            runs.append((policy.table_of(made, kernel), rows))
            print(algorithm, seed, runs[-1][1][-1], file=sys.stderr)
        found["learned"][algorithm] = of_seeds(kernel, runs, args.episodes, args.horizon, best)
    common.write("control" if args.variant == "main" else "control-as-released", found)


if __name__ == "__main__":
    main()
