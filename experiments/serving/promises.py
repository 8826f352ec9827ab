"""Are promises kept where users share the server? `python -m experiments.serving.promises` writes `promises.json`.

Users who ask with a deadline, wait for their picture, think for a moment and ask again, as many at once as each row says. A user equipment
waits as long as its profile says instead of decoding, cleaning included, so that the cores are the server's. For each number of users:
which requests the server said that they fit, how many of those were late, and how many of the others; `failed` brought no picture.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import common
from experiments.serving.overhead import served, undecoded
from megen.control.controller import Controller
from megen.errors import MegenError
from megen.evaluation.link import prompts
from megen.ue import Receiver
from megen.ue.client import Client

THINKING_S = 0.5  # in the mean
WARM_UP = 20  # requests that do not count


@dataclass(frozen=True)
class Asked:
    """What became of one request."""

    deadline_s: float
    promised: bool
    latency_s: float
    steps: int


async def user(client: Client, number: int, deadlines_s: list[float], texts: list[str], count: int) -> list[Asked]:
    """The requests of one user, one after the other."""
    rng, out = np.random.default_rng([number, 7]), []
    for k in range(count):
        await asyncio.sleep(rng.exponential(THINKING_S))
        deadline_s, began_s = float(rng.choice(deadlines_s)), time.monotonic()
        try:
            answer = await client.ask(
                texts[(number + k) % len(texts)], seed=1000 * number + k, as_typed=True, previews=False, deadline_s=deadline_s
            )
        except MegenError as error:
            print(error, file=sys.stderr, flush=True)
            out.append(Asked(deadline_s, False, math.nan, 0))
            continue
        out.append(Asked(deadline_s, bool(answer.accepted.fits), time.monotonic() - began_s, answer.accepted.decision.steps))
    return out


async def crowd(url: str, receiver: Receiver, users: int, deadlines_s: list[float], requests: int) -> list[Asked]:
    """All users at once."""
    client, texts = Client([url], receiver=receiver, patience_s=60), prompts(200, 0)
    lists = await asyncio.gather(*(user(client, number, deadlines_s, texts, -(-requests // users)) for number in range(users)))
    return [asked for one in lists for asked in one]


def row(users: int, deadline_s: float, asked: list[Asked]) -> dict[str, Any]:
    """Of the requests with one deadline, at least two."""
    failed = sum(math.isnan(a.latency_s) for a in asked)
    asked = [a for a in asked if not math.isnan(a.latency_s)]
    promised = np.array([a.promised for a in asked])
    late = np.array([a.latency_s > deadline_s for a in asked], float)
    return {
        "users": users,
        "deadline_s": deadline_s,
        "requests": len(asked),
        "failed": failed,
        "promised": float(promised.mean()),
        "late_of_promised": common.estimate(late[promised]) if promised.sum() > 1 else None,
        "late_of_others": common.estimate(late[~promised]) if (~promised).sum() > 1 else None,
        "latency_s": common.estimate([a.latency_s for a in asked]),
        "steps": float(np.mean([a.steps for a in asked])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", default="1,4,8,16")
    parser.add_argument("--deadlines-s", default="0.3,0.5,1,2")
    parser.add_argument("--requests", type=int, default=400, help="of each number of users")
    args = parser.parse_args()
    deadlines_s = [float(x) for x in args.deadlines_s.split(",")]
    receiver, rows = undecoded(Controller.load().phone), []
    with served() as (url, _):
        asyncio.run(crowd(url, receiver, 1, deadlines_s, WARM_UP))
        for users in map(int, args.users.split(",")):
            asked = asyncio.run(crowd(url, receiver, users, deadlines_s, args.requests))
            for deadline_s in deadlines_s:
                rows.append(row(users, deadline_s, [a for a in asked if a.deadline_s == deadline_s]))
                print(rows[-1], file=sys.stderr, flush=True)
    kept = [(r["late_of_promised"]["mean"], r["late_of_promised"]["n"]) for r in rows if r["late_of_promised"]]
    late = sum(mean * n for mean, n in kept) / max(sum(n for _, n in kept), 1)
    common.write("promises", {"thinking_s": THINKING_S, "late_of_promised": late, "promised": sum(n for _, n in kept), "rows": rows})


if __name__ == "__main__":
    main()
