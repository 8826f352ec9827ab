"""Deadlines over a real socket whose rate is shaped: the controller beside fixed choices and beside downloading a WebP picture.

`python -m experiments.serving.rates` writes `rates.json`: for each rate and deadline the share of late pictures, which of the requests the
server said that they fit, seconds, and bytes that crossed. Lone requests, one after the other, through a TCP proxy of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np

from experiments import common
from experiments.serving.overhead import served
from experiments.serving.proxy import proxied
from megen.ue import Receiver
from megen.ue.client import Client

PROMPTS = ("a castle at dawn, fog", "a lighthouse at night, a full moon", "a cottage at noon, pine trees", "a sailboat at sunset, the sea")
ARMS: dict[str, dict[str, Any]] = {"controller": {}, "always 12 steps": {"steps": 12}, "always 4 steps": {"steps": 4}}
CENTRAL = "WebP from the server, 4 steps"
LONGEST_S = 60.0


def download(url: str, prompt: str, seed: int) -> int:
    """The images call: the edge server decodes, a WebP picture crosses. Bytes of the answer's picture."""
    body = {
        "prompt": prompt,
        "seed": seed,
        "quality": "medium",
        "output_format": "webp",
        "output_compression": 80,
        "response_format": "url",
    }
    request = Request(f"{url}/v1/images/generations", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=LONGEST_S) as answer:
        link = json.load(answer)["data"][0]["url"]
    with urlopen(url + urlsplit(link).path, timeout=LONGEST_S) as answer:
        return len(answer.read())


async def arm(name: str, url: str, receiver: Receiver, deadline_s: float, requests: int) -> dict[str, Any]:
    """Lone requests of one way."""
    taken, crossed, fits, steps = [], [], [], []
    for k in range(requests):
        prompt = PROMPTS[k % len(PROMPTS)]
        began_s = time.monotonic()
        if name == CENTRAL:
            crossed.append(await asyncio.to_thread(download, url, prompt, k))
        else:
            answer = await Client([url], receiver=receiver).ask(prompt, seed=k, deadline_s=deadline_s, previews=False, **ARMS[name])
            crossed.append(sum(answer.received.payload.bits().values()) // 16)  # the parts and their total
            fits.append(bool(answer.accepted.fits))
            steps.append(answer.accepted.decision.steps)
        taken.append(time.monotonic() - began_s)
    late = np.array(taken) > deadline_s
    out = {"late": common.estimate(late.astype(float)), "seconds": common.estimate(taken), "bytes": float(np.mean(crossed))}
    if fits:
        promised = np.array(fits)
        out |= {"promised": float(promised.mean()), "late_of_promised": float(late[promised].mean()) if promised.any() else None}
        out |= {"mean_steps": float(np.mean(steps))}
    return out


async def measure(url: str, rates_bps: list[float], deadlines_s: list[float], requests: int) -> list[dict[str, Any]]:
    """All ways at all rates and deadlines."""
    receiver, rows = Receiver.load("scenes"), []
    for _ in range(3):
        await Client([url], receiver=receiver).ask(PROMPTS[0], steps=2)  # warms up
    for rate_bps in rates_bps:
        async with proxied(urlsplit(url).port or 0, down_bps=rate_bps) as (_, through):
            for deadline_s in deadlines_s:
                ways = {name: await arm(name, through, receiver, deadline_s, requests) for name in (*ARMS, CENTRAL)}
                rows.append({"rate_bps": rate_bps, "deadline_s": deadline_s, "ways": ways})
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates-bps", default="3e5,1e6,5e6")
    parser.add_argument("--deadlines-s", default="1,2,4")
    parser.add_argument("--requests", type=int, default=20, help="for each way, rate and deadline")
    args = parser.parse_args()
    rates, deadlines = ([float(x) for x in text.split(",")] for text in (args.rates_bps, args.deadlines_s))
    with served() as (url, _):
        common.write("rates", {"requests": args.requests, "rows": asyncio.run(measure(url, rates, deadlines, args.requests))})


if __name__ == "__main__":
    main()
