"""What it saves that parts of a picture cross while others are coded and decoded.

`python -m experiments.serving.streaming` writes `streaming.json`. The same requests in turn to two servers, through links of several
rates: one server and user equipment as they are, and two that code, send and decode all parts one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from unittest import mock
from urllib.parse import urlsplit

import numpy as np

from experiments import common
from experiments.serving.overhead import PROMPT, served
from experiments.serving.proxy import proxied
from megen.ue import Receiver
from megen.ue.client import Client
from megen.ue.decoding import Decoding

RATES_BPS = (0.3e6, 1e6, 5e6, None)
WHOLE = """
import runpy
from megen.serving.service import Service
Service._coded = lambda self, served, part: None
runpy.run_module("megen", run_name="__main__")
"""


async def asked(url: str, rate_bps: float | None, receiver: Receiver, seed: int, *, whole: bool) -> tuple[float, float]:
    """Seconds to the picture, and of them what this side took after the last part had arrived."""
    at_the_end = mock.patch.object(Decoding, "more", return_value=None) if whole else contextlib.nullcontext()
    async with proxied(urlsplit(url).port or 80, rate_bps) as (_, through):
        with at_the_end:
            client = Client([through if rate_bps else url], receiver=receiver)
            answer = await client.ask(PROMPT, seed=seed, steps=4, merge_ratio=0.0, quantiser_bits=5.0, as_typed=True, previews=False)
    return answer.latency_s, answer.decode_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30, help="of requests at each rate")
    args = parser.parse_args()
    receiver, result = Receiver.load("scenes"), {}
    with served() as (streaming, _), served(program=("-c", WHOLE)) as (whole, _):
        for rate_bps in RATES_BPS:
            rows = []
            for seed in range(-2, args.pairs):
                taken = {}
                for name, url in (("streaming", streaming), ("whole", whole))[:: 1 if seed % 2 else -1]:  # which comes first changes
                    taken[name] = asyncio.run(asked(url, rate_bps, receiver, abs(seed), whole=name == "whole"))
                rows.append((*taken["streaming"], *taken["whole"]))
            values = np.array(rows[2:])  # the first two warm both sides up
            latency_s, decode_s, latency_whole_s, decode_whole_s = values.T
            name = f"{rate_bps / 1e6:g} Mbit/s" if rate_bps else "loopback"
            result[name] = {
                "latency_s": common.estimate(latency_s),
                "latency_whole_s": common.estimate(latency_whole_s),
                "saved_s": common.estimate(latency_whole_s - latency_s),
                "saved_median_s": float(np.median(latency_whole_s - latency_s)),
                "saved_share": common.estimate(1 - latency_s / latency_whole_s),
                "decode_s": common.estimate(decode_s),
                "decode_whole_s": common.estimate(decode_whole_s),
            }
            print(f"{name}: {result[name]['saved_s']}", file=sys.stderr, flush=True)
    common.write("streaming", {"pairs": args.pairs, "steps": 4, "quantiser_bits": 5.0, "rates": result})


if __name__ == "__main__":
    main()
