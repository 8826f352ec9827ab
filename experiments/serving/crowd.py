"""Many users at once on a small machine: what becomes of each request, and of the server's memory.

`python -m experiments.serving.crowd` writes `crowd.json`. Every user is a Python user equipment that waits for its picture and asks again;
one in eight requests is given up after its first seconds, one in eight names a deadline that cannot be kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from typing import Any

import numpy as np

from experiments import common
from experiments.serving.load import PROMPTS, STEPS
from experiments.serving.overhead import resident_mb, served
from megen.errors import InputError, RunError
from megen.ue import Receiver
from megen.ue.client import Client

GIVES_UP_S = 2.0
HOPELESS_S = 0.05


async def one(client: Client, number: int) -> tuple[str, float]:
    """What becomes of a request, and in how many seconds."""
    began_s, kind = time.monotonic(), number % 8
    deadline_s = HOPELESS_S if kind == 3 else None
    asking = client.ask(PROMPTS[number % len(PROMPTS)], seed=number, steps=STEPS[number * 5 % len(STEPS)], deadline_s=deadline_s)
    try:
        async with asyncio.timeout(GIVES_UP_S if kind == 5 else None):
            answer = await asking
        outcome = "picture" if answer.image.shape == (1024, 1024, 3) else "broken picture"
    except TimeoutError:
        outcome = "given up by its user"
    except (InputError, RunError) as error:
        outcome = f"refused: {str(error)[:60]}"
    return outcome, time.monotonic() - began_s


async def crowd(url: str, users: int, requests: int) -> list[tuple[str, float]]:
    """All users with their requests in turn."""
    client, out = Client([url], receiver=Receiver.load("scenes"), patience_s=600), list[tuple[str, float]]()

    async def user(numbers: range) -> None:
        for number in numbers:
            out.append(await one(client, number))
            print(f"{len(out)}/{requests}: {out[-1]}", file=sys.stderr, flush=True)

    await asyncio.gather(*(user(range(k, requests, users)) for k in range(users)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200)
    args = parser.parse_args()
    with served() as (url, number):
        asyncio.run(crowd(url, 1, 2))  # warms up
        before_mb, began_s = resident_mb(number), time.monotonic()
        found = asyncio.run(crowd(url, args.users, args.requests))
        seconds, after_mb = time.monotonic() - began_s, resident_mb(number)
    pictures = [s for outcome, s in found if outcome == "picture"]
    result: dict[str, Any] = {
        "users": args.users,
        "requests": args.requests,
        "answered": len(found),
        "outcomes": dict(Counter(outcome for outcome, _ in found)),
        "seconds": seconds,
        "picture_p50_s": float(np.median(pictures)),
        "picture_p95_s": float(np.quantile(pictures, 0.95)),
        "server_memory_mb": {"before": before_mb, "after": after_mb},
    }
    common.write("crowd", result)


if __name__ == "__main__":
    main()
