"""The source system's figures, in its own setting and in a corrected one: `python -m experiments.paper.run`.

`as-released`: its formulae alone. `claim`: where its saving comes from, and a map of who is fastest (modelled). `samples`: one prompt
over steps, merge ratio and SNR, as a picture. `control`: the exact optimum against power and limits, MEG-CVPO beside PPO-Lagrangian.
`schemes`: what crosses and how long a picture takes by every scheme, 50 prompts at its cell's edge (a quarter of an hour; extra `bench`).
Each part writes a file of its own beside this one; `python -m experiments.paper.figure` draws them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments import common

PARTS = ("as-released", "claim", "samples", "control", "schemes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=common.ROOT / "out" / "paper", help="where trainings go on from")
    parser.add_argument("--suffix", default="", help="of the files that are written")
    args = parser.parse_args()
    parts = tuple(args.parts) or PARTS
    if not set(parts) <= set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}")
    if "as-released" in parts:
        from experiments.paper import as_released

        common.write(f"as-released{args.suffix}", as_released.figures())
    if "claim" in parts:
        from experiments.paper import claim

        common.write(f"claim{args.suffix}", claim.figures())
    if "samples" in parts:
        from experiments.paper import samples

        samples.sheet(common.DOCS / f"paper-samples{args.suffix}.jpg")
    if "control" in parts:
        from experiments.paper import control

        learned = control.learning(args.iterations, args.seeds, args.jobs, args.work)
        found = {"sweeps": control.sweeps(), "next_state_depends_on_the_decision_by": control.no_consequences(), "learning": learned}
        common.write(f"control{args.suffix}", found)
    if "schemes" in parts:
        from experiments.paper import schemes

        common.check_bench()
        common.write(f"schemes{args.suffix}", schemes.measure(args.prompts, args.seed, lambda text: print(text, file=sys.stderr)))


if __name__ == "__main__":
    main()
