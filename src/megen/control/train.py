"""A training of a policy from beginning to end, in a folder of its own: what `megen control train` does."""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from megen import run_folder
from megen.control import lp
from megen.control import policy as policies
from megen.control.cmdp import CMDP
from megen.control.cvpo import learner as cvpo
from megen.control.policy import Policy
from megen.errors import InputError
from megen.files import write_text
from megen.types import check_number

if TYPE_CHECKING:
    from megen.control.baselines.lagrangian import LagrangianRecipe

Array = NDArray[np.float64]
ALGORITHMS = ("cvpo", "cvpo-value", "ppo-lag", "sac-lag", "fixed-penalty")  # cvpo-value: the published form of the constraint
# where the multipliers' rates are others than the recipe's, which are PPO's: `experiments/prices` found them
RATES: dict[str, dict[str, Any]] = {"sac-lag": {"multiplier_lr": 0.2}, "fixed-penalty": {"multiplier_lr": 0.0, "multiplier_gain": 0.0}}
# in a long run a first policy that overloads the server fills its queue for good, and costs a thousand times their limits teach nothing
LONG_RUN: dict[str, Any] = {"caution": 1.0, "warm_up_steps": 200, "batch": 1024}
LONG_RUN_RATES: dict[str, Any] = {"multiplier_lr": 0.1, "multiplier_gain": 1.0}  # of four pairs the best for SAC, by ten seeds for PPO too
ITERATIONS = cvpo.Recipe().iterations
SAMPLES_AN_ITERATION = cvpo.Recipe().links * cvpo.Recipe().horizon
FILE, MARK = policies.FILE, "training.json"
Row = dict[str, float]


def train(
    cmdp: CMDP,
    algorithm: str,
    seed: int,
    iterations: int,
    folder: Path,
    about: dict[str, Any],
    *,
    on_row: Callable[[Row], None] = lambda row: None,
    recipe: cvpo.Recipe | LagrangianRecipe | None = None,
) -> tuple[Policy, list[Row]]:
    """Learn a policy, or take the one that `folder` holds of the same training; also its figures of every iteration.

    `folder` gets progress.csv as it goes and at last policy.npz with `about`. MEG-CVPO goes on after an interruption, the
    baselines start over. Also logs to TensorBoard where that is installed. `recipe` None: the usual one of algorithm, seed and iterations.
    A controller looks a policy's reward up in `about["reward"]`; without it the reward is taken to be `reference`.
    Errors: InputError on an algorithm that is none or needs the extra `baselines`, on limits that no policy keeps, and where the
    folder holds another training. While it learns, the whole process computes on one thread (`one_thread`).
    """
    if algorithm not in ALGORITHMS:
        raise InputError(f"the algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    check_number("seed", seed, 0, whole=True)
    check_number("iterations", iterations, 1, whole=True)
    recipe = recipe or _usual_recipe(cmdp, algorithm, seed, iterations)
    options = {"algorithm": algorithm, "seed": seed, "iterations": iterations}
    if not (folder / FILE).is_file():
        lp.check(cmdp)
    with run_folder.held(folder, {**options, "process": cmdp.digest, "recipe": asdict(recipe)}, MARK):
        if (folder / FILE).is_file():
            return policies.load(folder / FILE), read_rows(folder / "progress.csv", cmdp)
        return _train(cmdp, algorithm, recipe, folder, {**about, **options}, on_row)


def _train(
    cmdp: CMDP,
    algorithm: str,
    recipe: cvpo.Recipe | LagrangianRecipe,
    folder: Path,
    about: dict[str, Any],
    on_row: Callable[[Row], None],
) -> tuple[Policy, list[Row]]:
    with one_thread():
        if isinstance(recipe, cvpo.Recipe):
            table, rows = _train_cvpo(cmdp, recipe, folder, on_row)
        else:
            table, rows = _train_lagrangian(cmdp, algorithm, recipe, folder, on_row)
    policy = policies.policy_of(cmdp, table, {**about, "samples": about["iterations"] * SAMPLES_AN_ITERATION})
    policies.save(policy, folder / FILE)
    return policy, rows


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, in the whole process, until the block ends; then as many as before.

    The networks are small, and threads would wait for each other. PyTorch has no narrower limit: other work of the process that
    needs its threads meanwhile goes into another process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _usual_recipe(cmdp: CMDP, algorithm: str, seed: int, iterations: int) -> cvpo.Recipe | LagrangianRecipe:
    if algorithm.startswith("cvpo"):
        form = "value" if algorithm == "cvpo-value" else "advantage"
        return cvpo.Recipe(seed=seed, iterations=iterations, form=form, **(LONG_RUN if cmdp.gamma == 1 else {}))
    recipe = lagrangian_recipe(algorithm, seed, iterations)
    return replace(recipe, **LONG_RUN_RATES) if cmdp.gamma == 1 and algorithm != "fixed-penalty" else recipe


def _train_cvpo(cmdp: CMDP, recipe: cvpo.Recipe, folder: Path, on_row: Callable[[Row], None]) -> tuple[Array, list[Row]]:
    checkpoint = folder / "cvpo.safetensors"
    finished = cvpo.load(cmdp, recipe, checkpoint).iteration if checkpoint.is_file() else 0
    unit = cmdp.reward_scale / cmdp.limits  # the learner's multipliers are of relative costs, its rewards in units
    with contextlib.closing(_Log(cmdp, folder / "progress.csv", finished, on_row)) as log:
        learner = cvpo.train(cmdp, recipe, lambda p: log(p.samples, p.reward, p.costs, p.duals.multipliers * unit), checkpoint)
        return learner.table(), log.rows


def lagrangian_recipe(algorithm: str, seed: int, iterations: int) -> LagrangianRecipe:
    """What a baseline learns by: as many requests and as wide networks as MEG-CVPO. Errors: InputError without the extra `baselines`."""
    try:
        from megen.control.baselines.lagrangian import LagrangianRecipe
    except ImportError as error:
        raise InputError(f'{algorithm} needs Stable-Baselines3 ({error}): install it with pip install "megen[baselines]"') from error
    like = cvpo.Recipe()
    recipe = LagrangianRecipe(iterations * SAMPLES_AN_ITERATION, like.links, like.horizon, like.width, seed=seed)
    return replace(recipe, **RATES.get(algorithm, {}))


def _train_lagrangian(
    cmdp: CMDP, algorithm: str, recipe: LagrangianRecipe, folder: Path, on_row: Callable[[Row], None]
) -> tuple[Array, list[Row]]:
    from megen.control.baselines import lagrangian

    unit = cmdp.reward_scale / lagrangian.units(cmdp)
    if algorithm == "fixed-penalty":
        recipe = replace(recipe, penalty=tuple((lp.solve(cmdp).multipliers / unit).tolist()))
    learn = lagrangian.sac if algorithm == "sac-lag" else lagrangian.ppo
    with contextlib.closing(_Log(cmdp, folder / "progress.csv", 0, on_row)) as log:
        table = learn(cmdp, recipe, lambda c: log(c.samples, c.reward, c.costs, c.multipliers * unit))
        return table, log.rows


class _Log:
    """Rows of figures: held, written to CSV and to TensorBoard, and handed to `on_row`."""

    def __init__(self, cmdp: CMDP, path: Path, finished: int, on_row: Callable[[Row], None]) -> None:
        self.names, self._path = columns(cmdp), path
        self.rows = read_rows(path, cmdp)[:finished]
        self._began = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        self._on_row, self._board = on_row, _tensorboard(path.parent)

    def __call__(self, samples: int, reward: float, costs: Array, multipliers: Array) -> None:
        values = [float(samples), time.monotonic() - self._began, reward, *costs.tolist(), *multipliers.tolist()]
        row = dict(zip(self.names, values, strict=True))
        self.rows.append(row)
        lines = [",".join(self.names), *(",".join(repr(r[n]) for n in self.names) for r in self.rows)]
        write_text(self._path, "\n".join(lines) + "\n")
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, samples)
        self._on_row(row)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def columns(cmdp: CMDP) -> list[str]:
    """The columns of a log; multipliers in reward per unit of cost."""
    return ["samples", "seconds", "reward", *cmdp.cost_names, *(f"multiplier_{n}" for n in cmdp.cost_names)]


def read_rows(path: Path, cmdp: CMDP) -> list[Row]:
    """Rows of an earlier log, none where there is no log. Errors: InputError on one that is broken."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        try:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
            if rows and list(rows[0]) != columns(cmdp):
                raise InputError("its columns are others")
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} is not a log of this version ({error}): remove its folder to start over") from error
    return rows


def _tensorboard(folder: Path) -> Any | None:
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    return None
