"""Do the limits hold on the process that the documentation describes, or on its tables alone?

`python -m experiments.real_process.run` (about three minutes on a slow core) runs bundled policies and "twelve steps always" on the
process as described, and on four others, each cut one step closer to the tables.
"""

from __future__ import annotations

import argparse
import sys

from experiments import common
from experiments.real_process.process import (
    DEADLINE_S,
    ENERGY_LIMIT_J,
    GAMMA,
    LATE_LIMIT,
    Choose,
    Inputs,
    Process,
    always,
    as_rows,
    drawn_from,
    simulate,
)
from megen.control import policy

LADDER = {
    "as described": Process(),
    "airtimes as the tables": Process(airtime=False),
    "and the channel": Process(airtime=False, channel=False),
    "and the gaps": Process(airtime=False, channel=False, gaps=False),
    "all as the tables": Process(airtime=False, channel=False, gaps=False, backlog=False),
}
POLICIES = ("cvpo", "ppo-lag")
TWELVE = "twelve steps always, nothing merged"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, default=1024, help="a multiple of 64")
    parser.add_argument("--requests", type=int, default=1500, help="that count, of each link")
    args = parser.parse_args()
    inputs = Inputs.bundled()
    chosen: dict[str, Choose] = {name: drawn_from(policy.find(name)) for name in POLICIES}
    chosen[TWELVE] = always(inputs, 12, 0.0)
    result: dict = {"deadline_s": DEADLINE_S, "limits": {"late": LATE_LIMIT, "energy_j": ENERGY_LIMIT_J}, "gamma": GAMMA, "policies": {}}
    for name, choose in chosen.items():
        rows = {}
        for step, process in LADDER.items():
            heavy = name == TWELVE  # the server is busy 95 % of the time: its backlog takes thousands of requests to settle
            if heavy and step not in ("as described", "all as the tables"):
                continue
            burn_in = 8 * args.requests if heavy else args.requests
            figures = simulate(inputs, choose, process, links=args.links, burn_in=burn_in, requests=args.requests, seed=len(rows))
            rows[step] = as_rows(figures)
            late, latency = figures.stationary["late"], figures.stationary["latency_s"]
            print(f"{name}, {step}: late {late[0]:.4f} ± {late[1]:.4f}, latency {latency[0]:.3f} ± {latency[1]:.3f} s", file=sys.stderr)
        result["policies"][name] = rows
    common.write("real_process", result)


if __name__ == "__main__":
    main()
