"""How exact is a load that is fitted to a log? `python -m experiments.plans.fits` writes `fits.json` (a quarter of an hour of one core).

Logs of the process that plans assume, at its plan's decisions; every fitted quantity by the truth. The mean SNR's error is held against
the least that any estimate of it can have.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from experiments import common
from experiments.plans.run import REQUESTS, SPREAD, by_truth
from megen.control import fit, planner
from megen.control.judge import Process, drawn_from, simulated_log
from megen.control.scenarios.scenario import long_run
from megen.cost import device_profile, quality_grid
from megen.cost.device_profile import DeviceProfile


def precision(grid: quality_grid.QualityGrid, server: DeviceProfile, phone: DeviceProfile, requests: int, logs: int) -> dict[str, Any]:
    """Errors of a fit over so many logs, relative to the truth; and the least that the mean SNR's can be, of an AR(1) process of which
    n values are seen (Cramér and Rao's bound): std sqrt((1 + rho) / ((1 - rho) n + 2 rho))."""
    truth = long_run()
    process = Process(truth, grid, server, phone)
    policy = planner.plan(truth, grid, server, phone).policy
    streams = [np.random.default_rng([seed, 12]) for seed in range(logs)]
    found = [fit.fit(simulated_log(process, drawn_from(policy, process), requests, rng)) for rng in streams]
    ratios = [by_truth(one, truth, server, phone) for one in found]
    errors = {name: np.array([row[name] for row in ratios]) - 1 for name in ratios[0]}
    rho = truth.snr_correlation
    bound = truth.snr_std_db * np.sqrt((1 + rho) / ((1 - rho) * requests + 2 * rho)) / truth.snr_mean_db
    return {
        "requests": requests,
        "logs": logs,
        "errors": {
            n: {"mean": float(e.mean()), "rms": float(np.sqrt((e**2).mean())), "largest": float(np.abs(e).max())} for n, e in errors.items()
        },
        "least_rms_of_snr_mean_db": float(bound),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=int, default=40)
    args = parser.parse_args()
    grid = quality_grid.load()
    server, phone = (replace(device_profile.load(name), spread=SPREAD) for name in device_profile.LONG_RUN)
    rows = [precision(grid, server, phone, requests, args.logs) for requests in (REQUESTS, 4 * REQUESTS)]
    print(rows, file=sys.stderr)
    common.write("fits", {"fits": rows})


if __name__ == "__main__":
    main()
