"""MEG-CVPO on the tests' small process, several seeds, against its exact optimum: `python -m experiments.cvpo.run --seeds 3`.

Also MEG-CVPO with exact critics by both forms of the constraint. All evaluations are exact (`control/cmdp.py`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from experiments import common
from megen.control import lp
from megen.control.cmdp import evaluate
from megen.control.cvpo import learner as cvpo
from megen.control.cvpo import tabular

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.control.conftest import make_cmdp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--links", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    small = make_cmdp()
    best = lp.solve(small)
    result: dict = {
        "lp": {"reward": best.reward, "costs": best.costs.tolist(), "prices": best.multipliers.tolist()},
        "limits": small.limits.tolist(),
    }
    for form in tabular.FORMS:
        policy, _ = tabular.run(small, 40, form=form)
        exact = evaluate(small, policy)
        result[f"exact critics, {form} form"] = {"gap": 1 - exact.reward / best.reward, "costs": exact.costs.tolist()}
    result["networks"] = []
    for seed in range(args.seeds):
        began = time.perf_counter()
        learner = cvpo.train(small, cvpo.Recipe(links=args.links, seed=seed))
        exact = evaluate(small, learner.table())
        over = (exact.costs / small.limits - 1).tolist()
        row = {"seed": seed, "gap": 1 - exact.reward / best.reward, "costs_over_limits": over, "samples": learner.samples}
        result["networks"].append({**row, "seconds": time.perf_counter() - began})
        print(result["networks"][-1], file=sys.stderr)
    common.write("cvpo", result)


if __name__ == "__main__":
    main()
