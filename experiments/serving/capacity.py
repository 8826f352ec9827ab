"""The capacity model beside a server: `python -m experiments.serving.capacity` writes `capacity.json`.

This machine's profile is measured, then requests come to a server process at random times, at several shares of what its engine can do.
From each request's arrival to its last part: as forecast with the work beside the steps on other cores and on its own, and as measured.
Users decode nothing, so that the cores are the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments import common
from experiments.serving.load import PROMPTS
from experiments.serving.overhead import served, undecoded
from megen.cost import device_profile
from megen.cost.device_profile import DeviceProfile
from megen.evaluation.device_profile import profile
from megen.halves import halves
from megen.serving.capacity import Load, simulate
from megen.ue.client import Client

STEPS, SHARES = (1, 2, 4, 8), (0.3, 0.3, 0.3, 0.1)
ROWS = 8


def most_an_hour(server: DeviceProfile) -> float:
    """What an engine does of these requests with whole batches."""
    batch_s = server.batch_step_s(ROWS) * float(np.average(STEPS, weights=SHARES)) + server.batch_refine_s(ROWS)
    return 3600 * ROWS / batch_s


async def offered(url: str, arrivals_s: np.ndarray, steps: np.ndarray) -> list[float]:
    """Requests at their times; seconds of each."""
    client, began_s = Client([url], receiver=undecoded(), patience_s=600), time.monotonic()

    async def one(number: int) -> float:
        await asyncio.sleep(max(0.0, began_s + arrivals_s[number] - time.monotonic()))
        prompt = PROMPTS[number % len(PROMPTS)]
        answer = await client.ask(prompt, seed=number, steps=int(steps[number]), merge_ratio=0.25, as_typed=True, previews=False)
        return answer.latency_s

    return list(await asyncio.gather(*(one(k) for k in range(len(steps)))))


def figures(seconds: Any) -> dict[str, float]:
    """Mean, median and 95th percentile."""
    return {"mean_s": float(np.mean(seconds)), "p50_s": float(np.median(seconds)), "p95_s": float(np.quantile(seconds, 0.95))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=120, help="at each load")
    parser.add_argument("--loads", default="0.3,0.6,0.8", help="shares of what whole batches could do")
    parser.add_argument("--repeats", type=int, default=9, help="of each stage, for the profile")
    args = parser.parse_args()
    server = profile(*halves("scenes"), "this machine", args.repeats, device_profile.load("cpu").power_w)
    rows = []
    with served("--rows", str(ROWS), "--connections", str(args.requests)) as (url, _):
        asyncio.run(offered(url, np.zeros(4), np.array([4, 2, 1, 1])))  # warms up
        for seed, share in enumerate(map(float, args.loads.split(","))):
            load = Load(share * most_an_hour(server), 60.0, STEPS, SHARES)
            arrivals_s, steps = load.draw(args.requests, np.random.default_rng(seed))
            forecast = {
                name: figures(simulate(arrivals_s, steps.tolist(), 1, ROWS, server, np.random.default_rng(0), name == "shared cores")[0])
                for name in ("other cores", "shared cores")
            }
            measured = asyncio.run(offered(url, arrivals_s, steps))
            rows.append({"share": share, "requests_an_hour": load.requests_an_hour})
            rows[-1] |= {"forecast": forecast, "measured": figures(measured)}
            print(rows[-1], file=sys.stderr, flush=True)
    about = {"rows_a_batch": ROWS, "steps": STEPS, "shares": SHARES, "requests": args.requests, "profile": asdict(server)}
    common.write("capacity", {**about, "loads": rows})


if __name__ == "__main__":
    main()
