"""Users who wait for their picture and ask again, on one engine: batching by the step beside what does without it.

`python -m experiments.serving.load` writes `load.json`: seconds of the whole, images a second, and how long requests of 1 and of 12 steps
took. All disciplines run in one process, one after the other, `--repeats` times in turn; figures are ratios to one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments import common
from megen.diffusion import denoise
from megen.diffusion.denoise import Rows
from megen.halves import halves
from megen.serving.engine import LocalEngine, _Ticket
from megen.serving.job import Finished, Job
from megen.types import Decision

STEPS = (1, 1, 2, 4, 4, 4, 8, 12)  # of the requests, in turn
PROMPTS = ("a castle at dawn, fog", "a lighthouse at night, a full moon", "a cottage at noon, pine trees", "a sailboat at sunset, the sea")

Waiting = list[tuple[Job, asyncio.Future[None]]]
Pick = Callable[[Waiting, list[Job]], int | None]  # of those that wait, beside those that run


class RoundRobin(LocalEngine):
    """All requests in turn, a step each, without batching."""

    def _step(self, tickets: list[_Ticket], rows: Rows) -> tuple[list[_Ticket], Rows | None]:
        first, rest = denoise.keep(rows, [0]), denoise.keep(rows, range(1, len(rows))) if len(rows) > 1 else None
        left, row = super()._step(tickets[:1], first)
        if rest is None:
            return left, row
        return [*tickets[1:], *left], rest if row is None else denoise.join(rest, row)


def first(waiting: Waiting, running: list[Job]) -> int | None:
    """In the order of arrival."""
    return 0


def shortest(waiting: Waiting, running: list[Job]) -> int | None:
    """The fewest steps first."""
    return int(np.argmin([job.decision.steps for job, _ in waiting]))


def equal_steps(waiting: Waiting, running: list[Job]) -> int | None:
    """Static batches: those of as many steps as the first that waits, together, and none joins later."""
    if running and waiting[0][1] is not None and any(job.decision.steps != running[0].decision.steps for job in running):
        return None
    wanted = running[0].decision.steps if running else waiting[0][0].decision.steps
    return next((k for k, (job, _) in enumerate(waiting) if job.decision.steps == wanted), None)


async def run(
    engine: LocalEngine, rows: int, pick: Pick, users: int, requests: int, static: bool
) -> tuple[float, list[tuple[int, float]], list]:
    """Users with their requests; returns seconds of the whole, (steps, seconds) of each, and payloads."""
    jobs = [Job(PROMPTS[k % len(PROMPTS)], k, Decision(STEPS[k * 5 % len(STEPS)])) for k in range(requests)]
    waiting: Waiting = []
    running: list[Job] = []
    taken: list[tuple[int, float]] = []
    payloads: list[Any] = [None] * requests
    open_ = True

    def admit() -> None:
        nonlocal open_
        if static and not running:
            open_ = True
        while waiting and len(running) < rows and open_:
            number = pick(waiting, running)
            if number is None:
                break
            job, turn = waiting.pop(number)
            running.append(job)
            turn.set_result(None)
        if static and running:
            open_ = False

    async def one(number: int) -> None:
        began_s = time.monotonic()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append((jobs[number], turn))
        asyncio.get_running_loop().call_soon(admit)
        await turn
        async for event in engine.run(jobs[number]):
            if isinstance(event, Finished):
                payloads[number] = event.transmission.payload
        running.remove(jobs[number])
        taken.append((jobs[number].decision.steps, time.monotonic() - began_s))
        admit()

    async def user(numbers: range) -> None:
        for number in numbers:
            await one(number)

    began_s = time.monotonic()
    await asyncio.gather(*(user(range(k, requests, users)) for k in range(users)))
    return time.monotonic() - began_s, taken, payloads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", default="4,8,16")
    args = parser.parse_args()
    transmitter, _ = halves()
    batched = {f"batched by the step, {n} rows": (LocalEngine, int(n), first, False) for n in args.rows.split(",")}
    disciplines: dict[str, tuple[type[LocalEngine], int, Pick, bool]] = {
        "one at a time": (LocalEngine, 1, first, False),
        "one at a time, shortest first": (LocalEngine, 1, shortest, False),
        "round robin": (RoundRobin, 16, first, False),
        "static batches of equal steps, 8 rows": (LocalEngine, 8, equal_steps, True),
        **batched,
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in disciplines}
    alone: list[Any] = []
    equal = dict.fromkeys(batched, 0)
    for repeat in range(args.repeats):
        for name, (kind, count, pick, static) in disciplines.items():
            engine = kind(transmitter, rows=count)
            seconds, taken, payloads = asyncio.run(run(engine, count, pick, args.users, args.requests, static))
            engine.close()
            short, long = ([s for steps, s in taken if steps == n] for n in (1, 12))
            figures = {"seconds": seconds, "short_p50_s": float(np.median(short)), "long_p95_s": float(np.quantile(long, 0.95))}
            rows[name].append(figures)
            print(f"{repeat + 1}/{args.repeats} {name}: {figures}", file=sys.stderr, flush=True)
            if name == "one at a time":
                alone = payloads
            elif name in equal:
                equal[name] = sum(a == b for a, b in zip(alone, payloads, strict=True))
    base = rows["one at a time"]

    def ratio(name: str, figure: str) -> list[float]:
        return [mine[figure] / theirs[figure] for mine, theirs in zip(rows[name], base, strict=True)]

    result = {
        name: {
            "throughput": common.estimate([1 / r for r in ratio(name, "seconds")]),
            "short_p50": common.estimate(ratio(name, "short_p50_s")),
            "long_p95": common.estimate(ratio(name, "long_p95_s")),
            "images_a_second": args.requests / float(np.mean([r["seconds"] for r in rows[name]])),
            **({"payloads_equal_to_alone": equal[name]} if name in equal else {}),
        }
        for name in disciplines
    }
    about = {"users": args.users, "requests": args.requests, "steps": STEPS, "threads": torch.get_num_threads(), "repeats": args.repeats}
    common.write("load", {**about, "disciplines": result})


if __name__ == "__main__":
    main()
