"""What do plans for three rewards, and without a choice of quantiser, do within the same limits?

`python -m experiments.rewards.run` plans for the assumed load with each reward, with all quantisers and with the default one, and reports
exact long-run means of the tables.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments import common
from megen.control import planner
from megen.control.cmdp import evaluate
from megen.control.scenarios.scenario import long_run
from megen.cost import device_profile, quality_grid
from megen.cost.quality_grid import REWARDS
from megen.types import QUANTISER_BITS


def means(plan: planner.Plan) -> dict[str, Any]:
    """Exact means of a plan: what is shown of it, its costs, latency, and what it decides."""
    cmdp, policy = plan.cmdp, plan.optimum.policy
    exact = evaluate(cmdp, policy)

    def mean(table: np.ndarray) -> float:
        return float(exact.occupancy @ (policy * table).sum(1))

    decided = {name: np.array([getattr(d, name) for d in cmdp.decisions], float) for name in ("steps", "merge_ratio", "quantiser_bits")}
    return {
        **{name: mean(cmdp.of_states(table[:, :, None])) for name, table in cmdp.shown.items()},
        **cmdp.named(exact.costs),
        "latency_s": mean(cmdp.expected_cost("latency_s")),
        **{name: mean(np.broadcast_to(values, policy.shape)) for name, values in decided.items()},
        "cpu_s": plan.cpu_s,
    }


def main() -> None:
    grid, (server, phone) = quality_grid.load(), map(device_profile.load, device_profile.LONG_RUN)
    rows = {}
    for name, bits in (("all quantisers", ()), ("the default quantiser", (QUANTISER_BITS,))):
        for kind in REWARDS:
            rows[f"{kind}, {name}"] = means(planner.plan(long_run(reward=kind, quantiser_bits=bits), grid, server, phone))
    common.write("rewards", {"limits": long_run().limits, "plans": rows})


if __name__ == "__main__":
    main()
