"""What engine, protocol and app add to one request of a lone user, and what requests take in memory on both sides.

`python -m experiments.serving.overhead` writes `overhead.json`. Pairs of the same request in turn: stages called directly, the pipeline in
one process, and the Python user equipment over a loopback socket to a server process of its own. Then a thousand requests one after the
other, not decoded, and `megen ask` in a process of its own, for its peak.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from megen.codec.arriving import Arriving
from megen.codec.header import decode_header
from megen.cost.device_profile import DeviceProfile
from megen.link import PerfectLink
from megen.pipeline import Pipeline
from megen.protocol import PREVIEW, Frame
from megen.types import Decision, Payload
from megen.ue import Receiver
from megen.ue.client import Client

PROMPT = "a castle at dawn, fog, pine trees"


class Untaken(Arriving):
    """A payload of which nothing is decoded."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def take(self, number: int, part: bytes) -> None: ...

    def features(self) -> Any:
        return self.payload


@dataclass(frozen=True)
class Undecoded(Receiver):
    """A receiver that leaves the cores to the server: what it decodes is black."""

    def arriving(self, payload: Payload) -> Arriving:
        return Untaken(payload)

    def image_of(self, features: Any) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Paced(Undecoded):
    """One that takes a phone's seconds for what it gets, cleaning included, and no core."""

    phone: DeviceProfile | None = None

    def image_of(self, features: Any) -> np.ndarray:
        header = decode_header(features.header)
        assert self.phone is not None
        time.sleep(self.phone.ue_s(Decision(1, 0.5 if features.merge_map else 0.0, header.depth / 4)))
        return super().image_of(features)


def undecoded(phone: DeviceProfile | None = None) -> Undecoded:
    """The bundled backbone's, `Paced` where a phone is given."""
    whole = Receiver.load("scenes")
    parts = {f.name: getattr(whole, f.name) for f in fields(whole)}
    return Undecoded(**parts) if phone is None else Paced(**parts, phone=phone)


WITH_PEAK = """
import atexit, runpy, sys
atexit.register(lambda: print(*[x for x in open("/proc/self/status") if x.startswith("VmHWM")], file=sys.stderr))
runpy.run_module("megen", run_name="__main__")
"""


def peak_of_ask_mb(url: str) -> float:
    """Peak memory of a `megen ask` with one picture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", WITH_PEAK, "ask", PROMPT, "--server", url, "--steps", "4", "--out", f"{folder}/picture.png"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(said.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


@contextlib.contextmanager
def served(*options: str, program: tuple[str, ...] = ("-m", "megen")) -> Iterator[tuple[str, int]]:
    """A server process; its address and its number."""
    command = [sys.executable, *program, "serve", "--port", "0", "--requests-a-minute", "1000000", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        yield line.split()[-1].rstrip("/"), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def resident_mb(number: int) -> float:
    """Memory of a process."""
    fields = Path(f"/proc/{number}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def asked(url: str, receiver: Receiver, steps: int, seed: int) -> tuple[float, dict[str, float], int | None]:
    """Seconds at the user equipment, the server's by stage, and after which step the first preview came."""
    previews: list[int] = []

    def on_event(event: object) -> None:
        if isinstance(event, Frame) and event.kind == PREVIEW:
            previews.append(event.part)

    answer = await Client([url], receiver=receiver, on_event=on_event).ask(PROMPT, seed=seed, steps=steps, merge_ratio=0.0, as_typed=True)
    return answer.latency_s, answer.report["latency_s"], previews[0] if previews else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000, help="of the memory's measurement, of one step each")
    args = parser.parse_args()
    pipe = Pipeline.load(link=PerfectLink(), as_typed=True)
    receiver = Receiver.load("scenes")
    rows: list[dict[str, Any]] = []
    memory: list[float] = []
    with served() as (url, number):
        for seed in range(-2, args.pairs):
            began_s = time.perf_counter()
            made = pipe(PROMPT, seed=abs(seed), steps=4)
            here_s = time.perf_counter() - began_s
            own = made.report.latency_s
            there_s, stages, preview = asyncio.run(asked(url, receiver, 4, abs(seed)))
            if seed >= 0:  # the first two warm both sides up
                es_s = sum(stages[k] for k in ("queue", "text", "denoise", "merge", "code"))
                rows.append({"pipeline_s": here_s, "socket_s": there_s, "stages_s": own.es, "served_s": es_s, "preview": preview})
                print(f"{seed + 1}/{args.pairs}: {rows[-1]}", file=sys.stderr, flush=True)
        ask_mb, quiet = peak_of_ask_mb(url), undecoded()
        for seed in range(args.requests):
            asyncio.run(asked(url, quiet, 1, seed))
            if seed % max(1, args.requests // 50) == 0:
                memory.append(resident_mb(number))
                print(f"{seed}/{args.requests}: {memory[-1]:.0f} MB", file=sys.stderr, flush=True)
    warm = memory[len(memory) // 5 :]
    result = {
        "socket_over_pipeline": common.estimate([r["socket_s"] / r["pipeline_s"] for r in rows]),
        "socket_over_pipeline_median": float(np.median([r["socket_s"] / r["pipeline_s"] for r in rows])),
        "served_over_stages": common.estimate([r["served_s"] / r["stages_s"] for r in rows]),
        "served_over_stages_median": float(np.median([r["served_s"] / r["stages_s"] for r in rows])),
        "first_preview_after_steps": [r["preview"] for r in rows],
        "ask_peak_mb": ask_mb,
        "memory_mb": {"least": min(warm), "most": max(warm), "requests": args.requests} if warm else None,
    }
    common.write("overhead", result)


if __name__ == "__main__":
    main()
