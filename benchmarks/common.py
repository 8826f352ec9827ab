"""What every benchmark shares: where results go, what they say of their making, and trainings side by side."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megen.models.weights import provenance

RESULTS = Path(__file__).parent / "results"


def made_by() -> dict[str, Any]:
    """Provenance of what a benchmark makes; its command is no `megen`."""
    return {**provenance(), "command": " ".join(["python", *sys.argv])}


def write(name: str, result: dict[str, Any]) -> None:
    """Write `results/NAME.json` with provenance, and print the result as one JSON line."""
    RESULTS.mkdir(exist_ok=True)
    made = {**made_by(), "date": time.strftime("%Y-%m-%d")}
    temporary = RESULTS / f"{name}.json.tmp"
    temporary.write_text(json.dumps({**result, "made_by": made}, indent=2) + "\n")
    os.replace(temporary, RESULTS / f"{name}.json")
    print(json.dumps(result))


@dataclass(frozen=True)
class Run:
    """A learned policy [S, A] and the rows of its log."""

    table: np.ndarray
    rows: list[dict[str, float]]


class Task(NamedTuple):
    """One training; `recipe` None: the usual one."""

    kernel: Any
    algorithm: str
    seed: int
    iterations: int
    folder: Path
    recipe: Any = None


def train_all(tasks: Sequence[Task], jobs: int, env: str) -> list[Run]:
    """Train, `jobs` at a time; a folder with a finished training is read."""
    about = {"env": env, **made_by()}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(_train, task, about) for task in tasks]
        for done, future in enumerate(as_completed(futures), 1):
            task = tasks[futures.index(future)]
            print(f"{done}/{len(tasks)}: {task.algorithm}, seed {task.seed}, {task.iterations} iterations", file=sys.stderr)
        return [future.result() for future in futures]


def _train(task: Task, about: dict[str, Any]) -> Run:
    from megen.control import policy, session

    made, rows = session.train(task.kernel, task.algorithm, task.seed, task.iterations, task.folder, about, recipe=task.recipe)
    return Run(policy.table_of(made, task.kernel), rows)
