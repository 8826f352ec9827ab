"""How far from the exact optimum is a tuned rule of four numbers?

`python -m experiments.simple_rule.run` tunes it twice by differential evolution, a CPU minute each: on the exact tables
(discounted means, as the linear program's) and on the process as described (stationary means, the same random numbers for every
rule), and measures both rules on both.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
from scipy.optimize import differential_evolution

from experiments import common
from experiments.real_process.process import ENERGY_LIMIT_J, LATE_LIMIT, Inputs, Process, as_rows, drawn_from, simulate
from experiments.simple_rule.rule import Rule, Tables
from megen.control import policy

OPTIMUM = common.read("control")["policies"]["lp"]["reward"]
SPANS = np.log([(0.5, 30.0), (2.0, 40.0), (1.0, 40.0), (0.05, 20.0)])  # of the four numbers


def worth(means: dict[str, float]) -> float:
    """The reward by the optimum's, less five times what a cost is above its limit."""
    excess = max(0.0, means["late"] / LATE_LIMIT - 1) + max(0.0, means["energy_j"] / ENERGY_LIMIT_J - 1)
    return means["reward"] / OPTIMUM - 5 * excess


def tuned(
    measure: Callable[[Rule], dict[str, float]], spans: np.ndarray, start: np.ndarray | None, cap_s: float
) -> tuple[Rule, int, float]:
    """The best rule within `spans` [4, 2] (logarithms) by differential evolution, how many were tried, and the CPU seconds."""
    began = time.process_time()
    tried = 0

    def cost(x: np.ndarray) -> float:
        nonlocal tried
        tried += 1
        return -worth(measure(Rule(*np.exp(x))))

    def out_of_time(x: np.ndarray, convergence: float) -> bool:
        return time.process_time() - began > cap_s

    found = differential_evolution(cost, spans, popsize=8, seed=0, x0=start, polish=False, callback=out_of_time)
    return Rule(*map(float, np.exp(found.x))), tried, time.process_time() - began


def on_tables(means: dict[str, float]) -> dict[str, float]:
    """Means, and the distance to the optimum and the limits."""
    by_limit = {"late_by_limit": means["late"] / LATE_LIMIT, "energy_j_by_limit": means["energy_j"] / ENERGY_LIMIT_J}
    return {**means, "below_the_optimum": 1 - means["reward"] / OPTIMUM, **by_limit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cap-s", type=float, default=60.0, help="of each search, CPU seconds")
    parser.add_argument("--requests", type=int, default=1000, help="of each of 1,024 links in the final measurement")
    args = parser.parse_args()
    inputs = Inputs.bundled()
    tables = Tables(inputs)
    first, tried, seconds = tuned(tables.evaluate_rule, SPANS, None, args.cap_s)
    found = {"tuned on the tables": (first, tried, seconds)}
    print(first, tables.evaluate_rule(first), tried, seconds, file=sys.stderr)

    def simulated(rule: Rule) -> dict[str, float]:
        figures = simulate(inputs, rule.chooser(tables), links=2048, burn_in=50, requests=150, seed=1)
        return {name: mean for name, (mean, _) in figures.stationary.items()}

    near = np.log(astuple(first))
    found["tuned on the process as described"] = tuned(simulated, np.stack([near - 0.7, near + 0.7], 1), near, args.cap_s)
    rows = {}
    for name, (rule, count, cpu_s) in found.items():
        figures = simulate(inputs, rule.chooser(tables), Process(), links=1024, burn_in=500, requests=args.requests, seed=2)
        print(name, rule, figures.stationary, file=sys.stderr)
        rows[name] = {
            "rule": {"late": rule.late, "burst": rule.burst, "lull": rule.lull, "backlog": rule.backlog},
            "rules_tried": count,
            "tuning_cpu_s": cpu_s,
            "tables": on_tables(tables.evaluate_rule(rule)),
            "as_described": as_rows(figures),
        }
    learned = policy.find("cvpo")
    figures = simulate(inputs, drawn_from(learned), Process(), links=1024, burn_in=500, requests=args.requests, seed=2)
    documented = common.read("control")["policies"]
    kept = ("myopic", "backlog-blind", "channel-blind", "fixed-mixture", "fixed", "greedy", "random")
    result = {
        "optimum_reward_on_the_tables": OPTIMUM,
        "limits": {"late": LATE_LIMIT, "energy_j": ENERGY_LIMIT_J},
        "rules": rows,
        "bundled cvpo": {"tables": on_tables(tables.evaluate(learned.table)), "as_described": as_rows(figures)},
        "documented_heuristics_on_the_tables": {
            name: {"below_the_optimum": documented[name]["gap"], "over_limit": documented[name]["over_limit"]} for name in kept
        },
    }
    common.write("simple_rule", result)


if __name__ == "__main__":
    main()
