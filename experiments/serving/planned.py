"""Does a plan keep its limits on a real server? `python -m experiments.serving.planned` writes `planned.json`.

The process that a plan for this machine assumes, with real processes: requests come in bursts with exponential gaps, and each finds the
SNR of an AR(1) channel. A server decides them by its plan, denoises, codes, and holds the parts back as long as the digital link at that
SNR would have taken. A user equipment waits as long as its profile says instead of decoding, so that the cores are the server's. Beside
what was measured: what the judge off the tables says of the first plan, drawn from its mixture, and always its most probable decision,
as a server decides. The server plans again where its requests say otherwise; `plans_since` says whether it did.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from experiments.plans.run import SPREAD
from experiments.serving.overhead import undecoded
from megen.control import fit
from megen.control.controller import Controller
from megen.control.judge import Process, drawn_from, judge, simulated_log
from megen.cost.device_profile import DeviceProfile
from megen.cost.energy import RADIO_W, RADIO_W_PER_MBPS
from megen.errors import MegenError
from megen.evaluation.link import prompts
from megen.link import RadioLink
from megen.types import ChannelState, Delivery, Transmission
from megen.ue.client import Client

WARM_UP = 40  # requests that do not count
BATCHES = 10  # of requests in a row, for standard errors


class Channel:
    """A link whose SNR goes on from request to request; a transmission's is that of the request with its seed."""

    def __init__(self, snr_db: list[float]) -> None:
        self.snr_db, self._next = snr_db, 0

    def state(self) -> ChannelState:
        """What the next request finds."""
        self._next += 1
        return ChannelState(self.snr_db[self._next - 1], 1e6)

    def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
        """Carry one transmission."""
        number = int(rng.bit_generator.seed_seq.entropy[0])  # type: ignore[attr-defined]  # the request's seed
        return RadioLink(self.snr_db[number]).send(transmission, rng)


def scheduled(controller: Controller, count: int, seed: int) -> list[fit.Request]:
    """When requests come and the SNR that each finds, as the judge draws them; what else it says of them plays no part."""
    process = Process(controller.scenario, controller.grid, controller.server, controller.phone)
    return simulated_log(process, drawn_from(controller.policy, process), count, np.random.default_rng([seed, 1]))


def serve(count: int, seed: int, log: Path) -> None:
    """The server process; its address is its only line on stdout."""
    from megen.serving import server
    from megen.serving.access import Access, Limits

    link = Channel([request.snr_db for request in scheduled(Controller.load(), count, seed)])
    options = server.Options(log_path=log, link=link)
    app = server.build(options, Access(limits=Limits(10**6, 10**4)))
    server.run(app, server.bound("127.0.0.1", 0), ready=lambda url: print(url, flush=True))
    adaptive = app.service.decider.policy
    notes = ["no plan"] if adaptive is None else list(adaptive.notes)
    log.with_suffix(".notes").write_text(json.dumps(notes))


@contextlib.contextmanager
def served(count: int, seed: int, log: Path) -> Iterator[str]:
    """A server process, and its address."""
    command = [sys.executable, "-m", "experiments.serving.planned", "--serve", str(log), "--requests", str(count), "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


async def offered(url: str, times_s: list[float], phone: DeviceProfile, texts: list[str]) -> tuple[list[float], int]:
    """Requests at their times; bits of each that arrived, and how many did not."""
    client, began_s = Client([url], receiver=undecoded(phone), patience_s=60), time.monotonic()

    async def one(number: int) -> float | None:
        await asyncio.sleep(max(0.0, began_s + times_s[number] - time.monotonic()))
        try:
            answer = await client.ask(texts[number % len(texts)], seed=number, as_typed=True, previews=False)
        except MegenError:
            return None
        assert answer.received is not None
        return float(answer.received.payload.bits()["total"])

    bits = await asyncio.gather(*(one(k) for k in range(len(times_s))))
    return [b for b in bits if b is not None], sum(b is None for b in bits)


def measured(log: list[fit.Request], bits: list[float], controller: Controller) -> dict[str, Any]:
    """Means of the requests that were shown, with standard errors by stretches of requests."""
    es_w, ue_w = controller.powers_w
    deadline_s, limits = controller.scenario.deadline_s, controller.scenario.limits
    rows = {
        "late": [float(r.latency_s > deadline_s) for r in log],
        "energy_j": [es_w * r.es_s + ue_w * r.ue_s + RADIO_W * r.air_s + RADIO_W_PER_MBPS * np.mean(bits) / 1e6 for r in log],
        "tardiness_s": [max(0.0, r.latency_s - deadline_s) for r in log],
        "latency_s": [r.latency_s for r in log],
        "steps": [r.steps for r in log],
        "es_s": [r.es_s for r in log],
        "air_s": [r.air_s for r in log],
        "backlog_s": [r.backlog_s for r in log],
    }
    means = {name: common.estimate(float(part.mean()) for part in np.array_split(np.array(v), BATCHES)) for name, v in rows.items()}
    return {"means": means, "by_limit": {name: means[name]["mean"] / limit for name, limit in limits.items()}, "requests": len(log)}


def forecast(controller: Controller, spread: float) -> dict[str, Any]:
    """What the judge off the tables says of the plan."""
    machines = (replace(machine, spread=spread) for machine in (controller.server, controller.phone))
    process = Process(controller.scenario, controller.grid, *machines)
    table = controller.policy.table
    likeliest = replace(controller.policy, table=np.eye(table.shape[-1])[table.argmax(-1)])
    out = {}
    for name, policy in (("drawn", controller.policy), ("most probable", likeliest)):
        verdict = judge(process, drawn_from(policy, process), links=1024, requests=1000, seed=1)
        means = {k: verdict.means[k].mean for k in ("late", "energy_j", "tardiness_s", "latency_s", "steps")}
        out[name] = {"means": means, "by_limit": {k: 1 + m.mean for k, m in verdict.over_limit.items()}}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", type=Path, metavar="LOG", help="be the server process, and log there")
    args = parser.parse_args()
    if args.serve:
        serve(args.requests, args.seed, args.serve)
        return
    controller = Controller.load()
    scenario = controller.scenario
    texts = prompts(200, args.seed)
    times_s = [request.arrival_s for request in scheduled(controller, args.requests, args.seed)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        with served(args.requests, args.seed, log) as url:
            bits, failed = asyncio.run(offered(url, times_s, controller.phone, texts))
        requests = sorted(fit.read(log), key=lambda r: r.arrival_s)
        notes = json.loads(log.with_suffix(".notes").read_text())
    found = measured(requests[WARM_UP:], bits, controller)
    about = {"limits": scenario.limits, "deadline_s": scenario.deadline_s, "assumptions": controller.assumptions}
    about |= {"undelivered": failed, "plans_since": notes, "profiles": [controller.server.name, controller.phone.name]}
    result = {**about, "measured": found, "judged": forecast(controller, SPREAD), "fitted": fit.fit(requests).figures()}
    print(found, result["judged"], file=sys.stderr)
    common.write("planned", result)


if __name__ == "__main__":
    main()
