"""Steps a second of the vectorised CMDP: `python -m experiments.simulator.run`, 20 decisions and 2,046 states with made-up tables.

Only the speed is measured, so the tables' values do not matter; one process, median of several runs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from experiments import common
from megen.control.cmdp import CMDP
from megen.control.scenarios.main import exponential_quantiles, gauss_markov
from megen.control.simulator import Simulator
from megen.types import Decision


def tables(seed: int) -> CMDP:
    """11 SNRs, 3 prompt classes, 2 phases, 31 backlogs, 20 decisions; all else random."""
    rng = np.random.default_rng(seed)
    snr_db = np.arange(-6.0, 25.0, 3.0)
    decisions = tuple(Decision(n, r) for n in (1, 2, 4, 8, 12) for r in (0.0, 0.25, 0.5, 0.75))
    service = rng.uniform(0.05, 1.0, (11, 3, 20, 8))
    return CMDP(
        decisions=decisions,
        snr_db=snr_db,
        backlog_s=np.linspace(0, 3, 31),
        channel=gauss_markov(snr_db, 6.0, 6.0, 0.9),
        prompts=np.full(3, 1 / 3),
        phases=np.array([[0.9, 0.1], [0.2, 0.8]]),
        reward=rng.random((11, 3, 20)),
        service_s=service,
        cost_tables={"energy_j": 30 * service},
        decode_s=0.2,
        gap_s=np.stack([exponential_quantiles(m, 8) for m in (0.5, 2.0)]),
        deadline_s=1.0,
        cost_names=("late", "energy_j"),
        limits=np.array([0.05, 20.0]),
        gamma=0.98,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    cmdp, rng = tables(0), np.random.default_rng(0)
    simulator, rates = Simulator(cmdp), []
    for _ in range(7):
        state = simulator.start(args.links, rng)
        action = rng.integers(cmdp.actions, size=args.links)
        began = time.perf_counter()
        for _ in range(args.steps):
            state, _ = simulator.step(state, action, rng)
        rates.append(args.links * args.steps / (time.perf_counter() - began))
    common.write("simulator", {"links": args.links, "env_steps_per_s": statistics.median(rates), "states": cmdp.states})


if __name__ == "__main__":
    main()
