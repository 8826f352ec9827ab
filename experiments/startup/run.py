"""What starting costs: wall time of whole commands after one warm-up run each, memory of the user equipment, time of one decision."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import common

PROMPT = "a lighthouse at sunset, snowy mountains, pine trees"
RECEIVE = """
import resource, sys
from megen.cli.main import main
assert main(["receive", *sys.argv[1:]]) == 0
assert "torch" not in sys.modules
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
DECIDE = """
import time
from megen import Budget, ChannelState, Controller, Observation
controller = Controller.load()
observation = Observation(ChannelState(6.0, 1e6, 0.0), arrival_phase=1, budget=Budget(0.7), prompt="a castle at dawn, fog")
controller(observation)
start = time.perf_counter()
for _ in range(1000):
    controller(observation)
print((time.perf_counter() - start) / 1000)
"""


def timed(command: list[str], repeats: int) -> float:
    """Median wall seconds of a command."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def last_line(code: str, *arguments: str) -> float:
    """The number that a Python program prints last."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, payload = str(Path(folder) / "x.png"), str(Path(folder) / "payload")
        generate = [sys.executable, "-m", "megen", "generate", PROMPT, "--steps", "4", "--out", out, "--payload", payload]
        commands = {
            "python_alone_s": [sys.executable, "-c", "pass"],
            "import_megen_s": [sys.executable, "-c", "import megen"],
            "help_s": [sys.executable, "-m", "megen", "--help"],
            "import_ue_s": [sys.executable, "-c", "import megen.ue"],
            "generate_4_steps_s": generate,
            "receive_s": [sys.executable, "-m", "megen", "receive", payload, "--out", out],
        }
        subprocess.run(generate, check=True, capture_output=True)
        result = {name: timed(command, args.repeats) for name, command in commands.items()}
        result["receive_peak_mb"] = last_line(RECEIVE, payload, "--out", out) / 1024
    result["decision_s"] = last_line(DECIDE)
    common.write("startup", result)


if __name__ == "__main__":
    main()
