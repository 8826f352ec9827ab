"""What `megen control` does, and how `megen generate` asks a policy."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from megen import console
from megen.control import lp, released, session, shield, shipped
from megen.control import policy as policies
from megen.control.kernel import Kernel, Setting
from megen.cost import quality
from megen.files import check_writable, emit
from megen.models.weights import provenance
from megen.types import Budget, ChannelState, Decision, Observation

LEARNED_HZ = 1e6  # the quality grid's bandwidth
GUARD_ALPHA = 0.05
HORIZONS = {"main": 200, "as-released": released.SLOTS}  # requests of an episode


def control(args: argparse.Namespace) -> None:
    """Train a policy, or evaluate policies beside the optimum and every baseline."""
    for option, bounds in {"seed": (0, 2**31 - 1), "iterations": (1, 10**6), "episodes": (2, 10**6), "horizon": (1, 10**5)}.items():
        value = getattr(args, option, None)
        if value is not None and not bounds[0] <= value <= bounds[1]:
            raise ValueError(f"--{option} must lie in [{bounds[0]}, {bounds[1]}], got {value}")
    (_train if args.what == "train" else _evaluate)(args, kernel_of(args))


def kernel_of(args: argparse.Namespace) -> Kernel:
    """The process of the options. Errors: ValueError on figures that cannot be, or that the environment does not have."""
    grid = quality.load(args.quality) if args.quality else None
    if args.env == "as-released":
        for option in ("late_limit", "gap_s", "snr_mean_db", "server", "phone"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option.replace('_', '-')} is the main process's: as-released takes --deadline-s and --energy-limit-j")
        limits = {"latency_limit_s": args.deadline_s, "energy_limit_j": args.energy_limit_j}
        return released.released_kernel(grid, **{k: v for k, v in limits.items() if v is not None})
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
    total = args.iterations or session.ITERATIONS
    with console.bar(args.algorithm, total, every=10) as update:
        done = 0

        def told(row: session.Row) -> None:
            nonlocal done
            now = min(total, int(row["samples"]) // session.SAMPLES_AN_ITERATION)
            if now > done:  # the baselines tell of their prices several times an iteration
                update(now, "  ".join(f"{k} {v:.3g}" for k, v in row.items() if k not in ("samples", "seconds")))
            done = now

        session.train(kernel, args.algorithm, args.seed, total, args.out, {"env": args.env, **provenance()}, told)
    print(args.out / session.FILE)


def _evaluate(args: argparse.Namespace, kernel: Kernel) -> None:
    if args.json != "-":
        check_writable(Path(args.json))
    guard, horizon = shield.calibrate(kernel, args.alpha), args.horizon or HORIZONS[args.env]
    lp.check(kernel)
    made = {"made_by": provenance()}
    with console.status("policies") as say:
        say(args.policy or "lp")
        table = None if args.policy in (None, "lp") else _table_of(args.policy, args.env, kernel)  # a wrong name is told at once
        say("lp")
        best = lp.solve(kernel)
        if args.policy is not None:
            found = session.evaluate_one(
                kernel, best.reward, best.policy if table is None else table, args.episodes, horizon, args.seed, guard
            )
            emit({"policy": args.policy, "env": args.env, **found, **made}, args.json)
            return
        known = {name: policies.load(path) for name, path in policies.shipped(args.env).items()}
        learned = {name: policies.table_of(p, kernel) for name, p in known.items() if p.about.get("process") == kernel.digest}
        found = session.evaluate_all(kernel, best, learned, args.episodes, horizon, args.seed, guard, say)
        emit({"env": args.env, **found, **made}, args.json)
    if strangers := sorted(known.keys() - learned.keys()):
        print(f"megen: left out, as learned on another process: the shipped {', '.join(strangers)}", file=sys.stderr)


def _table_of(name: str, env: str, kernel: Kernel) -> session.Array:
    """The table of a policy by its name, or from a file or a training's folder."""
    if name in session.RULES:
        return session.RULES[name](kernel)
    known = policies.shipped(env)
    path = known.get(name, Path(name))
    if name not in known and not path.exists():
        raise policies.PolicyError(
            f"no policy {name!r}: give {', '.join(('lp', *session.RULES, *known))}, or a path that megen control train wrote"
        )
    return policies.table_of(policies.load(path / session.FILE if path.is_dir() else path), kernel)


def decide(
    prompt: str, steps: int | None, merge_ratio: float | None, channel: ChannelState, budget: Budget, seed: int, backbone: str
) -> Decision:
    """What the shipped policy chooses for a lone request (no backlog, between bursts); a number that is given stays.

    The policy's channel has 1 MHz: another bandwidth counts as the SNR at which 1 MHz has its rate. With a budget only
    decisions count that keep it, the deadline with the shield's certainty; where none does, the soonest. What the policy would
    have chosen of the others goes to the best that is left.
    Errors: ValueError on a number or a backbone that the policy never learned.
    """
    policy, grid = policies.load(policies.SHIPPED / "main" / "cvpo.npz"), quality.load()
    kernel = shipped.main_kernel(grid=grid)
    policies.table_of(policy, kernel)  # refuses a policy of another process
    known = str(grid.about.get("backbone", ""))
    if backbone != known:
        raise ValueError(f"the shipped policy was learned for the backbone {known!r}, not {backbone!r}: give --steps and --merge-ratio")
    assert channel.snr_db is not None
    rate_bps = channel.bandwidth_hz * float(np.log2(1 + 10 ** (channel.snr_db / 10)))
    snr_db = policies.snr_db_of(ChannelState(None, LEARNED_HZ, rate_bps))
    seen = Observation(ChannelState(snr_db, LEARNED_HZ, rate_bps), 0.0, grid.prompt_class(prompt), len(kernel.phases) - 1, budget)
    offered = kernel.decisions
    fits = np.array([steps in (None, d.steps) and (merge_ratio is None or math.isclose(d.merge_ratio, merge_ratio)) for d in offered])
    if not fits.any():
        learned = sorted({d.steps for d in offered}), sorted({d.merge_ratio for d in offered})
        told = [", ".join(f"{x:g}" for x in values) for values in learned]
        raise ValueError(f"the policy never learned that choice: steps are {told[0]}, merge ratios {told[1]}")
    c, p = int(np.abs(kernel.snr_db - snr_db).argmin()), seen.prompt_class
    guard = shield.calibrate(kernel, GUARD_ALPHA)
    latest_s = guard.predicted_s[c, p] + guard.margin_s[c, p]
    keeps = fits & (latest_s <= (budget.deadline_s or np.inf)) & (kernel.energy_j[c, p].mean(-1) <= (budget.energy_j or np.inf))
    if not keeps.any():
        keeps = fits & (latest_s == latest_s[fits].min())
    shares = shield.within(policy.shares(seen), keeps, kernel.reward[c, p])
    return offered[int(np.random.default_rng([seed, 3]).choice(len(offered), p=shares / shares.sum()))]
