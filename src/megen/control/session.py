"""A training or an evaluation of policies from beginning to end: what `megen control` does."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from megen.control import baselines, cvpo, evaluation, lp, shield
from megen.control import policy as policies
from megen.control.kernel import Kernel, evaluate
from megen.control.policy import Policy
from megen.files import write_text

if TYPE_CHECKING:
    from megen.control.lagrangian import LagrangianRecipe

Array = NDArray[np.float64]
ALGORITHMS = ("cvpo", "cvpo-value", "ppo-lag", "sac-lag", "fixed-penalty")  # cvpo-value: the published form of the constraint
# where the prices' rates are others than the recipe's, which are PPO's: `benchmarks/prices.py` found them
PRICES: dict[str, dict[str, Any]] = {"sac-lag": {"price_lr": 0.2}, "fixed-penalty": {"price_lr": 0.0, "price_gain": 0.0}}
ITERATIONS = cvpo.Recipe().iterations
SAMPLES_AN_ITERATION = cvpo.Recipe().links * cvpo.Recipe().horizon
FILE = "policy.npz"
QUANTILES = np.linspace(0, 1, 41)
Row = dict[str, float]


def train(
    kernel: Kernel,
    algorithm: str,
    seed: int,
    iterations: int,
    folder: Path,
    about: dict[str, Any],
    on_row: Callable[[Row], None] = lambda row: None,
    recipe: cvpo.Recipe | LagrangianRecipe | None = None,
) -> tuple[Policy, list[Row]]:
    """Learn a policy, or take the one that `folder` holds of the same training; also its figures of every iteration.

    `folder` gets progress.csv as it goes and at last policy.npz with `about`. MEG-CVPO goes on after an interruption, the
    baselines begin anew. Also logs to TensorBoard where that is installed. `recipe` None: the usual one of algorithm, seed and iterations.
    Errors: ValueError on an algorithm that is none or needs the extra `baselines`, on limits that no policy keeps, and where the
    folder holds another training.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    recipe = recipe or _usual_recipe(algorithm, seed, iterations)
    made = {"algorithm": algorithm, "seed": seed, "iterations": iterations}
    mark = json.dumps({**made, "process": kernel.digest, "recipe": asdict(recipe)})
    told, log = folder / "training.json", folder / "progress.csv"
    if told.is_file() and told.read_text() != mark:
        raise ValueError(f"{folder} holds another training (see {told.name}): name another folder with --out, or remove it")
    if told.is_file() and (folder / FILE).is_file():
        return policies.load(folder / FILE), read_rows(log, kernel)
    lp.check(kernel)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error.strerror}): name another folder with --out") from error
    write_text(told, mark)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are small: threads would wait for each other
    try:
        if isinstance(recipe, cvpo.Recipe):
            table, rows = _train_cvpo(kernel, recipe, folder, on_row)
        else:
            table, rows = _train_lagrangian(kernel, algorithm, recipe, folder, on_row)
    finally:
        torch.set_num_threads(threads)
    policy = policies.policy_of(kernel, table, {**about, **made, "samples": iterations * SAMPLES_AN_ITERATION})
    policies.save(policy, folder / FILE)
    return policy, rows


def _usual_recipe(algorithm: str, seed: int, iterations: int) -> cvpo.Recipe | LagrangianRecipe:
    if algorithm.startswith("cvpo"):
        return cvpo.Recipe(seed=seed, iterations=iterations, form="value" if algorithm == "cvpo-value" else "advantage")
    return lagrangian_recipe(algorithm, seed, iterations)


def _train_cvpo(kernel: Kernel, recipe: cvpo.Recipe, folder: Path, on_row: Callable[[Row], None]) -> tuple[Array, list[Row]]:
    checkpoint = folder / "cvpo.safetensors"
    kept = cvpo.load(kernel, recipe, checkpoint).iteration if checkpoint.is_file() else 0
    unit = kernel.reward_unit / kernel.limits  # the learner's prices are of relative costs, its rewards in units
    with contextlib.closing(_Log(kernel, folder / "progress.csv", kept, on_row)) as log:
        learner = cvpo.train(kernel, recipe, lambda p: log(p.samples, p.reward, p.costs, p.duals.prices * unit), checkpoint)
        return learner.table(), log.rows


def lagrangian_recipe(algorithm: str, seed: int, iterations: int) -> LagrangianRecipe:
    """What a baseline learns by: as many requests and as wide networks as MEG-CVPO. Errors: ValueError without the extra `baselines`."""
    try:
        from megen.control.lagrangian import LagrangianRecipe
    except ImportError as error:
        raise ValueError(f'{algorithm} needs Stable-Baselines3 ({error}): install it with pip install "megen[baselines]"') from error
    like = cvpo.Recipe()
    recipe = LagrangianRecipe(iterations * SAMPLES_AN_ITERATION, like.links, like.horizon, like.width, seed=seed)
    return replace(recipe, **PRICES.get(algorithm, {}))


def _train_lagrangian(
    kernel: Kernel, algorithm: str, recipe: LagrangianRecipe, folder: Path, on_row: Callable[[Row], None]
) -> tuple[Array, list[Row]]:
    from megen.control import lagrangian

    unit = kernel.reward_unit / kernel.cost_units
    if algorithm == "fixed-penalty":
        recipe = replace(recipe, penalty=tuple((lp.solve(kernel).prices / unit).tolist()))
    learn = lagrangian.sac if algorithm == "sac-lag" else lagrangian.ppo
    with contextlib.closing(_Log(kernel, folder / "progress.csv", 0, on_row)) as log:
        table = learn(kernel, recipe, lambda c: log(c.samples, c.reward, c.costs, c.prices * unit))
        return table, log.rows


class _Log:
    """Rows of figures: kept, written to CSV, to TensorBoard, and told."""

    def __init__(self, kernel: Kernel, path: Path, kept: int, on_row: Callable[[Row], None]) -> None:
        self.names, self._path = names_of(kernel), path
        self.rows = read_rows(path, kernel)[:kept]
        self._began = time.monotonic() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        self._on_row, self._board = on_row, _tensorboard(path.parent)

    def __call__(self, samples: int, reward: float, costs: Array, prices: Array) -> None:
        values = [float(samples), time.monotonic() - self._began, reward, *costs.tolist(), *prices.tolist()]
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


def names_of(kernel: Kernel) -> list[str]:
    """The columns of a log; prices in reward per unit of cost."""
    return ["samples", "seconds", "reward", *kernel.cost_names, *(f"price_{n}" for n in kernel.cost_names)]


def read_rows(path: Path, kernel: Kernel) -> list[Row]:
    """Rows of an earlier log, none where there is no log. Errors: ValueError on one that is broken."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        try:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
            if rows and list(rows[0]) != names_of(kernel):
                raise ValueError("its columns are others")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a log of this version ({error}): remove its folder to begin anew") from error
    return rows


def _tensorboard(folder: Path) -> Any | None:
    with contextlib.suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))
    return None


RULES: dict[str, Callable[[Kernel], Array]] = {
    "unconstrained": lambda kernel: lp.solve(kernel, constrained=False).policy,
    "myopic": baselines.myopic,
    **{name: partial(baselines.blind, sees=sees) for name, sees in baselines.BLIND.items()},
    "fixed": lambda kernel: baselines.best_fixed(kernel)[0],
    "greedy": baselines.greedy,
    "random": baselines.random,
}


def figures(kernel: Kernel, policy: Array, count: int, horizon: int, seed: int, best: float) -> dict[str, Any]:
    """Exact means of a policy, its gap to the optimum's reward, and what its single episodes do."""
    exact = evaluate(kernel, policy)
    found = evaluation.episodes(kernel, policy, count, horizon, np.random.default_rng([seed, 1]))
    names = kernel.cost_names
    spread = np.quantile(found.costs, QUANTILES, axis=1).T
    return {
        "reward": exact.reward,
        "gap": (best - exact.reward) / abs(best),
        "costs": kernel.named(exact.costs),
        "over_limit": kernel.named(exact.costs / kernel.limits - 1),
        "latency_s": float(exact.occupancy @ (policy * kernel.latency_s).sum(1)),
        **({} if kernel.ue_energy_j is None else {"ue_energy_j": float(exact.occupancy @ (policy * kernel.ue_energy_j).sum(1))}),
        "episode_reward": float(found.reward.mean()),
        "episode_reward_error": float(found.reward.std() / np.sqrt(count)),
        "violation_rate": kernel.named(evaluation.violation_rate(found, kernel.limits)),
        "episode_cost_quantiles": dict(zip(names, spread.tolist(), strict=True)),
    }


def evaluate_one(kernel: Kernel, best: float, policy: Array, count: int, horizon: int, seed: int, guard: shield.Shield) -> dict[str, Any]:
    """Figures of one policy beside the optimum's reward, alone and under the shield."""
    return {
        "limits": kernel.named(kernel.limits),
        "lp_reward": best,
        **figures(kernel, policy, count, horizon, seed, best),
        "shielded": shielded(kernel, policy, guard, count, horizon, seed, best),
    }


def evaluate_all(
    kernel: Kernel,
    best: lp.Optimum,
    learned: dict[str, Array],
    count: int,
    horizon: int,
    seed: int,
    guard: shield.Shield,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """The optimum, every rule, every policy that sees a part, the learned ones, and those under the shield."""
    tables = {"lp": best.policy}
    for name, make in RULES.items():
        say(name)
        tables[name] = make(kernel)
    tables |= learned
    say("episodes")
    policies = {name: figures(kernel, table, count, horizon, seed, best.reward) for name, table in tables.items()}
    for name in ("lp", *learned):
        policies[f"{name}, shielded"] = shielded(kernel, tables[name], guard, count, horizon, seed, best.reward)
    return {
        "limits": kernel.named(kernel.limits),
        "prices": kernel.named(best.prices),
        "decisions": [[d.steps, d.merge_ratio] for d in kernel.decisions],
        "states": kernel.states,
        "process": kernel.digest,
        "policies": policies,
    }


def shielded(kernel: Kernel, policy: Array, guard: shield.Shield, count: int, horizon: int, seed: int, best: float) -> dict[str, Any]:
    """Figures of a policy under the shield, and how many of the requests that it has a choice for are on time."""
    table = shield.shielded(kernel, policy, guard)
    on_time, reached = shield.coverage(kernel, table, guard)
    told = {"alpha": guard.alpha, "coverage": on_time, "requests_with_a_choice": reached}
    told |= {"within_margin_by_class": shield.within_margin(kernel, guard).tolist()}
    return {**told, **figures(kernel, table, count, horizon, seed, best)}
