"""Deadlines over a real socket whose rate is shaped: the controller beside fixed choices and beside downloading a WebP picture.

`python -m experiments.serving.rates` writes `rates.json`: for each rate and deadline the share of late pictures, which of the requests the
server said that they fit, seconds, and bytes that crossed. Lone requests, one after the other, through a TCP proxy of this process, or with
`--link tbf` from a network namespace whose interface is shaped by the kernel (Linux, as root; `rates-tbf.json`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np

from experiments import common
from experiments.serving import namespace
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


@dataclass(frozen=True)
class Trial:
    """What is measured: rates, deadlines, and how many requests of the controller and of each other way."""

    rates_bps: list[float]
    deadlines_s: list[float]
    requests: int
    others: int

    async def at(self, url: str, receiver: Receiver, rate_bps: float) -> list[dict[str, Any]]:
        """All ways at one rate."""
        rows, count = [], {"controller": self.requests}
        for deadline_s in self.deadlines_s:
            counts = {name: count.get(name, self.others) for name in (*ARMS, CENTRAL)}
            ways = {name: await arm(name, url, receiver, deadline_s, n) for name, n in counts.items() if n}
            rows.append({"rate_bps": rate_bps, "deadline_s": deadline_s, "ways": ways})
            print(rows[-1], file=sys.stderr, flush=True)
        return rows


async def warmed(url: str) -> Receiver:
    """A receiver, after some requests that do not count."""
    receiver = Receiver.load("scenes")
    for _ in range(3):
        await Client([url], receiver=receiver).ask(PROMPTS[0], steps=2)
    return receiver


def by_proxy(trial: Trial) -> list[dict[str, Any]]:
    """Through a proxy of this process."""

    async def measure(url: str) -> list[dict[str, Any]]:
        rows = list[dict[str, Any]]()
        for rate_bps in trial.rates_bps:
            async with proxied(urlsplit(url).port or 0, down_bps=rate_bps) as (_, through):
                rows += await trial.at(through, await warmed(through), rate_bps)
        return rows

    with served() as (url, _):
        return asyncio.run(measure(url))


def by_kernel(trial: Trial) -> list[dict[str, Any]]:
    """From a namespace whose link the kernel shapes."""
    rows = list[dict[str, Any]]()
    with namespace.linked() as at_most, served("--host", namespace.SERVER, "--insecure") as (url, _):
        for rate_bps in trial.rates_bps:
            at_most(rate_bps)
            with namespace.inside():
                receiver = asyncio.run(warmed(url))
                rows += asyncio.run(trial.at(url, receiver, rate_bps))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates-bps", default="3e5,1e6,5e6")
    parser.add_argument("--deadlines-s", default="1,2,4")
    parser.add_argument("--requests", type=int, default=20, help="of the controller, for each rate and deadline")
    parser.add_argument("--others", type=int, default=8, help="of each other way")
    parser.add_argument("--link", choices=("proxy", "tbf"), default="proxy")
    args = parser.parse_args()
    rates, deadlines = ([float(x) for x in text.split(",")] for text in (args.rates_bps, args.deadlines_s))
    trial = Trial(rates, deadlines, args.requests, args.others)
    rows = by_proxy(trial) if args.link == "proxy" else by_kernel(trial)
    about = {"requests": args.requests, "others": args.others, "link": args.link}
    common.write("rates" if args.link == "proxy" else "rates-tbf", {**about, "rows": rows})


if __name__ == "__main__":
    main()
