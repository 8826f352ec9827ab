"""What looser limits buy: the best mean PSNR to the reference image against the deadline and against the energy limit.

`python -m experiments.tradeoff.run`: the linear program's optimum, MEG-CVPO (one seed a point), the best policy found that does
not see the backlog, and the best fixed mixture, all evaluated exactly.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

from experiments import common
from megen.control import lp, report, train
from megen.control.cmdp import CMDP, evaluate
from megen.control.scenarios.main import main_cmdp
from megen.control.scenarios.scenario import Scenario

RULES = ("backlog-blind", "fixed-mixture")


def figures(cmdp: CMDP, table: train.Array) -> dict:
    """PSNR of the mean logarithm of the error in dB, and the costs."""
    exact = evaluate(cmdp, table)
    return {"psnr_db": 10 / math.log(10) * exact.reward, "costs": cmdp.named(exact.costs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deadlines-s", default="0.5,0.6,0.7,0.85,1.1")
    parser.add_argument("--energies-j", default="4.5,5.5,7.5,9")
    parser.add_argument("--iterations", type=int, default=train.ITERATIONS, help="of MEG-CVPO at each point")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/tradeoff"))
    args = parser.parse_args()
    usual = Scenario()
    points = [("deadline_s", float(v)) for v in args.deadlines_s.split(",")]
    points += [("energy_limit_j", float(v)) for v in args.energies_j.split(",")]
    cmdps = [main_cmdp(replace(usual, **{name: value})) for name, value in points]
    rows: list[dict] = []
    for (name, value), cmdp in zip(points, cmdps, strict=True):
        print(name, value, file=sys.stderr)
        try:
            tables = {"lp": lp.solve(cmdp).policy}
        except lp.InfeasibleError as error:
            rows.append({name: value, "infeasible": str(error)})
            continue
        tables |= {rule: report.RULES[rule](cmdp) for rule in RULES}
        rows.append({name: value, **{rule: figures(cmdp, table) for rule, table in tables.items()}})
    able = [i for i, row in enumerate(rows) if "infeasible" not in row]
    folders = [args.work / f"{name}-{value:g}-{args.iterations}" for name, value in points]
    tasks = [common.Task(cmdps[i], "cvpo", 0, args.iterations, folders[i]) for i in able]
    for i, run in zip(able, common.train_all(tasks, args.jobs, "main"), strict=True):
        rows[i]["cvpo"] = figures(cmdps[i], run.table)
    limits = {"deadline_s": usual.deadline_s, "late_limit": usual.late_limit, "energy_limit_j": usual.energy_limit_j}
    common.write("tradeoff", {"usual": limits, "points": rows})


if __name__ == "__main__":
    main()
