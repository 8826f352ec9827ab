"""Does a plan that follows keep its limits, where it learns of a change from the requests alone?

`python -m experiments.adaptation.run`: in each context of `experiments/plans` a server begins with the plan for the assumed load, sees
`--requests` requests one after another, and plans again where something has moved. The plan that it then has is judged off the tables,
beside the one that it began with and the plan of somebody who knows the context.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from experiments import common
from experiments.plans.run import SPREAD, contexts
from megen.control import planner
from megen.control.adaptive import WINDOW, Adaptive
from megen.control.controller import Controller
from megen.control.judge import Process, Verdict, drawn_from, judge, simulated_log
from megen.control.policy import Policy
from megen.control.scenarios.scenario import long_run
from megen.cost import device_profile, quality_grid

ROUNDS = 4  # the log is simulated in so many parts, each under the plan that then runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=ROUNDS * WINDOW)
    parser.add_argument("--links", type=int, default=512)
    args = parser.parse_args()
    grid = quality_grid.load()
    server, phone = (replace(device_profile.load(name), spread=SPREAD) for name in device_profile.LONG_RUN)
    usual = planner.plan(long_run(), grid, server, phone).policy
    rows: dict[str, Any] = {}
    for number, (name, (scenario, es, ue)) in enumerate(contexts(server, phone).items()):
        process = Process(scenario, grid, es, ue)
        limits = replace(long_run(), deadline_s=scenario.deadline_s)  # a deadline is the operator's, no request tells it
        begun = planner.plan(limits, grid, server, phone).policy if limits != long_run() else usual
        adaptive = Adaptive(Controller(begun, grid, server, phone), limits)
        start_s = 0.0
        for part in range(ROUNDS):
            choose = drawn_from(adaptive.planned.controller.policy, process)
            log = simulated_log(process, choose, args.requests // ROUNDS, np.random.default_rng([number, part]))
            for request in log:
                adaptive.observe(replace(request, arrival_s=start_s + request.arrival_s))
            start_s += log[-1].arrival_s + 1.0

        def verdict(policy: Policy, process: Process = process) -> Verdict:
            return judge(process, drawn_from(policy, process), links=args.links, requests=1000, seed=2)

        knowing = planner.plan(scenario, grid, es, ue, relax=True)
        figures = {"before": verdict(begun), "after": verdict(adaptive.planned.controller.policy), "knowing": verdict(knowing.policy)}
        rows[name] = {
            **{key: value.figures() for key, value in figures.items()},
            "reward_by_that_of_the_knowing": figures["after"].means["reward"].mean / figures["knowing"].means["reward"].mean,
            "notes": list(adaptive.notes),
            "relaxed": list(knowing.relaxed),
        }
        over = {key: {k: round(1 + m.mean, 2) for k, m in value.over_limit.items()} for key, value in figures.items()}
        print(f"{name}: {over}, planned again {len(adaptive.notes)} times", file=sys.stderr)
    common.write("adaptation", {"requests": args.requests, "window": WINDOW, "stage_spread": SPREAD, "contexts": rows})


if __name__ == "__main__":
    main()
