"""MEG-CVPO on the tests' small process, several seeds, against its exact optimum: `python benchmarks/cvpo.py --seeds 3`.

Also MEG-CVPO with exact critics by both forms of the constraint. All evaluations are exact (`control/kernel.py`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import common
from megen.control import cvpo, kernel, lp, tabular

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.control.conftest import make_kernel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--links", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    small = make_kernel()
    best = lp.solve(small)
    found: dict = {
        "lp": {"reward": best.reward, "costs": best.costs.tolist(), "prices": best.prices.tolist()},
        "limits": small.limits.tolist(),
    }
    for form in tabular.FORMS:
        policy, _ = tabular.run(small, 40, form=form)
        got = kernel.evaluate(small, policy)
        found[f"exact critics, {form} form"] = {"gap": 1 - got.reward / best.reward, "costs": got.costs.tolist()}
    found["networks"] = []
    for seed in range(args.seeds):
        began = time.perf_counter()
        learner = cvpo.train(small, cvpo.Recipe(links=args.links, seed=seed))
        got = kernel.evaluate(small, learner.table())
        over = (got.costs / small.limits - 1).tolist()
        row = {"seed": seed, "gap": 1 - got.reward / best.reward, "costs_over_limits": over, "samples": learner.samples}
        found["networks"].append({**row, "seconds": time.perf_counter() - began})
        print(found["networks"][-1], file=sys.stderr)
    common.write("cvpo", found)


if __name__ == "__main__":
    main()
