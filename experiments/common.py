"""What the experiments share: where results go, what they say of their making, and trainings side by side.

An experiment is a folder: `python -m experiments.NAME.run` from the repository's top writes `experiments/NAME/result.json`,
`python -m experiments.NAME.figure` draws from that file alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megen.files import emit, write_json
from megen.provenance import provenance

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCS = ROOT / "docs"


def folder() -> Path:
    """The folder of the experiment that runs."""
    return Path(sys.argv[0]).resolve().parent


def made_by() -> dict[str, Any]:
    """Provenance of what an experiment makes; its command is no `megen`."""
    script = Path(sys.argv[0]).resolve()
    module = ".".join(script.relative_to(ROOT).with_suffix("").parts) if script.is_relative_to(ROOT) else script.name
    return {**provenance(), "command": " ".join(["python", "-m", module, *sys.argv[1:]])}


def write(name: str, result: dict[str, Any]) -> None:
    """Write the running experiment's `result.json`, or `NAME.json` beside it where it has a name of its own, with provenance; print it."""
    file = "result.json" if name == folder().name else f"{name}.json"
    write_json(folder() / file, {**result, "made_by": {**made_by(), "date": time.strftime("%Y-%m-%d")}})
    emit(result, "-")


def name_of(backbone: str, experiment: str) -> str:
    """What a result of a backbone is called: as the experiment for the bundled one, else by its folder, `weights` by the one around it."""
    folder = Path(backbone).resolve()
    return experiment if backbone == "scenes" else (folder.parent if folder.name == "weights" else folder).name


def check_bench() -> None:
    """End with one line where what the extra `bench` brings is missing, instead of leaving JPEG XL out of a table."""
    missing = [name for name in ("pillow_jxl", "ssimulacra2") if find_spec(name) is None]
    if missing:
        sys.exit(f"this experiment needs {' and '.join(missing)}: pip install -e '.[bench]'")


def read(name: str, file: str = "result") -> dict[str, Any]:
    """A result that an experiment wrote."""
    result: dict[str, Any] = json.loads((HERE / name / f"{file}.json").read_text(encoding="utf-8"))
    return result


def estimate(values: Iterable[float]) -> dict[str, float]:
    """Mean of independent values, its standard error, and how many they are."""
    sample = np.array(list(values), float)
    error = sample.std(ddof=1) / np.sqrt(len(sample)) if len(sample) > 1 else np.nan
    return {"mean": float(sample.mean()), "standard_error": float(error), "n": len(sample)}


@dataclass(frozen=True)
class Run:
    """A learned policy [S, A] and the rows of its log."""

    table: np.ndarray
    rows: list[dict[str, float]]


class Task(NamedTuple):
    """One training; `recipe` None: the usual one."""

    cmdp: Any
    algorithm: str
    seed: int
    iterations: int
    folder: Path
    recipe: Any = None


def train_all(tasks: Sequence[Task], jobs: int, env: str, reward: str = "reference") -> list[Run]:
    """Train, `jobs` at a time; a folder with a finished training is read."""
    from megen.training.latents import start_worker

    about = {"env": env, "reward": reward, **made_by()}
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=start_worker) as pool:
        futures = [pool.submit(_train, task, about) for task in tasks]
        for done, future in enumerate(as_completed(futures), 1):
            task = tasks[futures.index(future)]
            print(f"{done}/{len(tasks)}: {task.algorithm}, seed {task.seed}, {task.iterations} iterations", file=sys.stderr)
        return [future.result() for future in futures]


def _train(task: Task, about: dict[str, Any]) -> Run:
    from megen.control import policy, train

    learned, rows = train.train(task.cmdp, task.algorithm, task.seed, task.iterations, task.folder, about, recipe=task.recipe)
    return Run(policy.table_of(learned, task.cmdp), rows)
