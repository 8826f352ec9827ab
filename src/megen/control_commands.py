"""What `megen control` does, and how `megen generate` asks a policy."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megen.control import policy as policies
from megen.control import released, session, shipped
from megen.control.kernel import Kernel, Setting
from megen.cost import quality
from megen.files import replacing
from megen.models.weights import provenance
from megen.types import Budget, ChannelState, Decision, Observation

FILE = "policy.npz"


def control(args: argparse.Namespace) -> None:
    """Train a policy, or evaluate policies beside the optimum and every baseline."""
    for option, bounds in {"seed": (0, 2**31 - 1), "iterations": (1, 10**6), "episodes": (2, 10**6), "horizon": (1, 10**5)}.items():
        value = getattr(args, option, None)
        if value is not None and not bounds[0] <= value <= bounds[1]:
            raise ValueError(f"--{option} must lie in [{bounds[0]}, {bounds[1]}], got {value}")
    (_train if args.what == "train" else _evaluate)(args, kernel_of(args))


def kernel_of(args: argparse.Namespace) -> Kernel:
    """The process of the options. Errors: ValueError on figures that cannot be."""
    grid = quality.load(args.quality) if args.quality else None
    if args.variant == "as-released":
        return released.released_kernel(grid)
    given = {
        "deadline_s": args.deadline_s,
        "late_limit": args.late_limit,
        "energy_limit_j": args.energy_limit_j,
        "mean_gap_s": _pair(args.gap_s) if args.gap_s else None,
        "snr_mean_db": args.snr_mean_db,
    }
    setting = replace(Setting(), **{k: v for k, v in given.items() if v is not None})
    return shipped.main_kernel(setting, grid, args.server, args.phone)


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--gap-s takes two mean gaps in s, in a burst and between bursts, such as 0.5,2; got {text!r}") from None
    return first, second


def _train(args: argparse.Namespace, kernel: Kernel) -> None:
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{args.out} is a file: name a folder")
    console = Console(stderr=True)
    columns = (TextColumn(args.algorithm), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[shown]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        total = args.iterations or session.ITERATIONS
        task = bar.add_task("", total=total, shown="")

        def told(row: session.Row) -> None:
            done = min(total, round(row["samples"] / session.SAMPLES_AN_ITERATION))
            shown = "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("samples", "seconds"))
            bar.update(task, completed=done, shown=shown)
            if not console.is_terminal and done % 10 == 0:
                print(f"{args.algorithm} {done}/{total}  {shown}", file=sys.stderr)

        table, rows = session.train(kernel, args.algorithm, args.seed, args.iterations, args.out, told)
    about = {"algorithm": args.algorithm, "seed": args.seed, "samples": rows[-1]["samples"], "seconds": rows[-1]["seconds"]}
    policies.save(policies.policy_of(kernel, table, {**about, "variant": args.variant, **provenance()}), args.out / FILE)
    print(args.out / FILE)


def _evaluate(args: argparse.Namespace, kernel: Kernel) -> None:
    if args.json != "-" and Path(args.json).is_dir():
        raise ValueError(f"{args.json} is a folder: name a file in it")
    if not 0 < args.alpha < 1:
        raise ValueError(f"--alpha must lie in (0, 1), got {args.alpha}")
    learned: dict[str, session.Array] = {}
    for path in args.policies or ([policies.SHIPPED] if policies.SHIPPED.is_file() and args.variant == "main" else []):
        policy = policies.load(path / FILE if path.is_dir() else path)
        name = f"{policy.about.get('algorithm', path.stem)}, seed {policy.about.get('seed', '?')}"
        learned[name if name not in learned else f"{name}, {path}"] = policies.table_of(policy, kernel)
    console = Console(stderr=True)
    with console.status("policies") as status:
        say = status.update if console.is_terminal else (lambda text: None)
        found: dict[str, Any] = session.evaluate_all(kernel, learned, args.episodes, args.horizon, args.seed, args.alpha, say)
    text = json.dumps({**found, "made_by": provenance()}, indent=2 if args.json != "-" else None) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    with replacing(Path(args.json)) as temporary:
        temporary.write_text(text)


def decide(
    prompt: str, steps: int | None, merge_ratio: float | None, channel: ChannelState, budget: Budget, seed: int, backbone: str
) -> Decision:
    """What the shipped policy chooses for a lone request (no backlog, between bursts); a number that is given stays.

    Errors: policies.PolicyError where none ships, ValueError where it never learned the number or the backbone.
    """
    policy, grid = policies.load(), quality.load()
    known = str(grid.about.get("backbone", ""))
    if backbone != known:
        raise ValueError(f"the shipped policy was learned for the backbone {known!r}, not {backbone!r}: give --steps and --merge-ratio")
    seen = Observation(channel, 0.0, grid.prompt_class(prompt), policy.table.shape[2] - 1, budget)
    fits = np.array(
        [
            (steps is None or d.steps == steps) and (merge_ratio is None or math.isclose(d.merge_ratio, merge_ratio))
            for d in policy.decisions
        ]
    )
    if not fits.any():
        offered = sorted({d.steps for d in policy.decisions}) if steps is not None else sorted({d.merge_ratio for d in policy.decisions})
        raise ValueError(f"the policy never learned that number: auto goes with one of {', '.join(f'{x:g}' for x in offered)}")
    shares = np.where(fits, policy.shares(seen) + 1e-9, 0.0)
    return policy.decisions[int(np.random.default_rng([seed, 3]).choice(len(shares), p=shares / shares.sum()))]
