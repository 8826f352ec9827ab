"""How long a denoising step takes by how PyTorch's threads wait: alone, in batches, and beside a process that wants a core.

`python -m experiments.spinning.run` writes `result.json`: milliseconds of a step of 1 and of 8 images. Each way of waiting is a process of
its own, as PyTorch reads it when it loads; all are measured in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import numpy as np

from experiments import common
from megen.threads import SPINS

WAYS = {
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "as megen": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": SPINS},
    "ten times as long": {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": f"{SPINS}0"},
    "PyTorch's own": {},
}
BATCHES = (1, 8)
STEP = """
import sys
import torch
from megen.evaluation.device_profile import median_s, step_of
from megen.halves import transmitter_of
backbone = transmitter_of().backbone
with torch.inference_mode():
    print(*(1e3 * median_s(step_of(backbone, rows), int(sys.argv[1])) for rows in map(int, sys.argv[2:])))
"""
BUSY = "while True: pass"


def steps_ms(way: dict[str, str], repeats: int) -> list[float]:
    """Milliseconds of a step of each batch, in a process of its own."""
    rest = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", STEP, str(repeats), *map(str, BATCHES)]
    return [float(x) for x in subprocess.run(command, env=rest | way, capture_output=True, text=True, check=True).stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=30, help="steps of a process; the median counts")
    args = parser.parse_args()
    taken: dict[str, dict[str, list[list[float]]]] = {name: {way: [] for way in WAYS} for name in ("alone", "beside a busy process")}
    for number in range(args.rounds):
        for name, found in taken.items():
            busy = None if name == "alone" else subprocess.Popen([sys.executable, "-c", BUSY])
            try:
                for way, environment in WAYS.items():
                    found[way].append(steps_ms(environment, args.repeats))
            finally:
                if busy is not None:
                    busy.kill()
                    busy.wait()
            print(f"round {number + 1}/{args.rounds}, {name}: { {w: v[-1] for w, v in found.items()} }", file=sys.stderr, flush=True)
    result: dict[str, Any] = {
        name: {
            way: {f"{rows} together": common.estimate(column) for rows, column in zip(BATCHES, np.array(rounds).T, strict=True)}
            for way, rounds in found.items()
        }
        for name, found in taken.items()
    }
    common.write("spinning", {"step_ms": result, "ways": WAYS})


if __name__ == "__main__":
    main()
