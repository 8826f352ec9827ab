"""A training or an evaluation of policies from beginning to end: what `megen control` does."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megen.control import baselines, cvpo, evaluation, lp, shield
from megen.control.kernel import Kernel, evaluate

Array = NDArray[np.float64]
ALGORITHMS = ("cvpo", "ppo-lagrangian", "sac-lagrangian", "fixed-penalty")
ITERATIONS = cvpo.Recipe().iterations
SAMPLES_AN_ITERATION = cvpo.Recipe().links * cvpo.Recipe().horizon
CALIBRATION = 500  # held-out requests of the shield, of every SNR class and decision
Row = dict[str, float]


def train(
    kernel: Kernel, algorithm: str, seed: int, iterations: int | None, folder: Path, on_row: Callable[[Row], None] = lambda row: None
) -> tuple[Array, list[Row]]:
    """Learn a policy; returns its table [S, A] and a row of figures an iteration, which `folder`/progress.csv gets as they come.

    MEG-CVPO goes on from `folder`; the baselines begin anew. Also logs to TensorBoard where that is installed.
    Errors: ValueError on an algorithm that is none, or that needs the extra `baselines`.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are small: threads would wait for each other
    try:
        if algorithm == "cvpo":
            return _train_cvpo(kernel, seed, iterations, folder, on_row)
        return _train_lagrangian(kernel, algorithm, seed, iterations, folder, on_row)
    finally:
        torch.set_num_threads(threads)


def _train_cvpo(kernel: Kernel, seed: int, iterations: int | None, folder: Path, on_row: Callable[[Row], None]) -> tuple[Array, list[Row]]:
    recipe = cvpo.Recipe(seed=seed) if iterations is None else cvpo.Recipe(seed=seed, iterations=iterations)
    checkpoint = folder / "cvpo.safetensors"
    kept = cvpo.load(kernel, recipe, checkpoint).iteration if checkpoint.is_file() else 0
    with _log(kernel, folder / "progress.csv", kept, on_row) as log:

        def told(p: cvpo.Progress) -> None:
            log(p.samples, p.reward, p.costs, p.duals.prices)

        learner = cvpo.train(kernel, recipe, told, checkpoint)
        return learner.table(), log.rows


def _train_lagrangian(
    kernel: Kernel, algorithm: str, seed: int, iterations: int | None, folder: Path, on_row: Callable[[Row], None]
) -> tuple[Array, list[Row]]:
    try:
        from megen.control import lagrangian
    except ImportError as error:
        raise ValueError(f'{algorithm} needs Stable-Baselines3 ({error}): install it with pip install "megen[baselines]"') from error
    whole, samples = cvpo.Recipe(), (iterations or ITERATIONS) * SAMPLES_AN_ITERATION
    penalty = tuple((lp.solve(kernel).prices * kernel.limits / kernel.reward.std()).tolist()) if algorithm == "fixed-penalty" else None
    recipe = lagrangian.LagrangianRecipe(samples, whole.links, whole.horizon, whole.width, penalty=penalty, seed=seed)
    learn = lagrangian.sac if algorithm == "sac-lagrangian" else lagrangian.ppo
    with _log(kernel, folder / "progress.csv", 0, on_row) as log:
        table = learn(kernel, recipe, lambda c: log(c.samples, c.reward, c.costs, c.prices))
        return table, log.rows


class _Log:
    """Rows of figures: kept, written to CSV, to TensorBoard, and told."""

    def __init__(self, kernel: Kernel, path: Path, kept: int, on_row: Callable[[Row], None]) -> None:
        self.names = ["samples", "seconds", "reward", *kernel.cost_names, *(f"price_{n}" for n in kernel.cost_names)]
        self.rows = _read(path, self.names)[:kept]
        self._began = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        self._file = path.open("w", newline="")
        self._csv = csv.DictWriter(self._file, self.names)
        self._csv.writeheader()
        self._csv.writerows(self.rows)
        self._on_row, self._board = on_row, _tensorboard(path.parent)

    def __call__(self, samples: int, reward: float, costs: Array, prices: Array) -> None:
        values = [float(samples), time.monotonic() - self._began, reward, *costs.tolist(), *prices.tolist()]
        row = dict(zip(self.names, values, strict=True))
        self.rows.append(row)
        self._csv.writerow(row)
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, samples)
        self._on_row(row)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


@contextlib.contextmanager
def _log(kernel: Kernel, path: Path, kept: int, on_row: Callable[[Row], None]) -> Iterator[_Log]:
    log = _Log(kernel, path, kept, on_row)
    try:
        yield log
    finally:
        log.close()


def _read(path: Path, names: list[str]) -> list[Row]:
    """Rows of an earlier log; none where it is missing or another's."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            return []
        return [{k: float(v) for k, v in row.items()} for row in reader]


def _tensorboard(folder: Path) -> Any | None:
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    return None


def figures(kernel: Kernel, policy: Array, count: int, horizon: int, seed: int, best: float) -> dict[str, Any]:
    """Exact means of a policy, its gap to the optimum's reward, and what its single episodes do."""
    exact = evaluate(kernel, policy)
    found = evaluation.episodes(kernel, policy, count, horizon, np.random.default_rng([seed, 1]))
    names = kernel.cost_names
    return {
        "reward": exact.reward,
        "gap": (best - exact.reward) / abs(best),
        "costs": dict(zip(names, exact.costs.tolist(), strict=True)),
        "over_limit": dict(zip(names, (exact.costs / kernel.limits - 1).tolist(), strict=True)),
        "episode_reward": float(found.reward.mean()),
        "episode_reward_error": float(found.reward.std() / np.sqrt(count)),
        "violation_share": dict(zip(names, evaluation.violation_share(found, kernel.limits).tolist(), strict=True)),
        "late_share": found.late,
    }


def evaluate_all(
    kernel: Kernel,
    learned: dict[str, Array],
    count: int,
    horizon: int,
    seed: int,
    alpha: float,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """The optimum, every rule, every policy that sees a part, the learned ones, and those under the shield.

    Errors: lp.InfeasibleError on limits that no policy keeps.
    """
    say("the optimum")
    best, free = lp.solve(kernel), lp.solve(kernel, constrained=False)
    tables = {"LP optimum": best.policy, "unconstrained optimum": free.policy}
    rules: dict[str, Callable[[Kernel], Array]] = {
        "myopic": baselines.myopic,
        **{name: partial(baselines.blind, sees=sees) for name, sees in baselines.BLIND.items()},
        "best fixed decision": lambda kernel: baselines.best_fixed(kernel)[0],
        "greedy per slot": baselines.greedy,
        "random": baselines.random,
    }
    for name, make in rules.items():
        say(name)
        tables[name] = make(kernel)
    tables |= learned
    guard = shield.calibrate(kernel, CALIBRATION, alpha, np.random.default_rng([seed, 2]))
    tables |= {f"{name}, shielded": shield.shielded(kernel, tables[name], guard) for name in ("LP optimum", *learned)}
    say("episodes")
    policies = {name: figures(kernel, table, count, horizon, seed, best.reward) for name, table in tables.items()}
    return {
        "limits": dict(zip(kernel.cost_names, kernel.limits.tolist(), strict=True)),
        "prices": dict(zip(kernel.cost_names, best.prices.tolist(), strict=True)),
        "decisions": [[d.steps, d.merge_ratio] for d in kernel.decisions],
        "states": kernel.states,
        "process": kernel.digest,
        "shield_alpha": alpha,
        "policies": policies,
    }
