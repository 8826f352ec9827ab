"""Wall time of whole commands, process start included, after one warm-up run each."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

PROMPT = "a lighthouse at sunset, snowy mountains, pine trees"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "x.png")
        commands = {
            "python_alone_s": [sys.executable, "-c", "pass"],
            "import_megen_s": [sys.executable, "-c", "import megen"],
            "help_s": [sys.executable, "-m", "megen.cli", "--help"],
            "generate_4_steps_s": [sys.executable, "-m", "megen.cli", "generate", PROMPT, "--steps", "4", "--out", out],
        }
        found = {}
        for name, command in commands.items():
            times = []
            for _ in range(args.repeats + 1):
                began = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times.append(time.perf_counter() - began)
            found[name] = statistics.median(times[1:])
    common.write("startup", found)


if __name__ == "__main__":
    main()
