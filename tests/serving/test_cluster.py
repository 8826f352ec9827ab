"""Replicas under Ray Serve: what they make is what one engine makes, and one that dies is not seen by the phone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import torch

from megen.errors import InputError
from megen.halves import halves
from megen.models import placement
from megen.protocol.messages import Done, Generate, Stepped
from megen.scenes.completion import Completion
from megen.serving.decider import Decider
from megen.serving.service import Service, Settings
from megen.types import ChannelState

cluster = pytest.importorskip("megen.serving.cluster", reason="needs the extra cluster: pip install 'megen[cluster]'")


@pytest.mark.parametrize(
    ("address", "said"), [("8.8.8.8:6379", "public"), ("ray://1.1.1.1:10001", "public"), ("example.org:6379", "private")]
)
def test_a_public_address_is_refused(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        cluster.Cluster(address=address)
    assert cluster.Cluster(address="10.0.0.5:6379").most == 1


@pytest.mark.parametrize("wrong", [{"least": 0}, {"least": 2, "most": 1}, {"cpus": -1.0}])
def test_a_cluster_checks_itself(wrong: dict) -> None:
    with pytest.raises(InputError):
        cluster.Cluster(**wrong)


@pytest.mark.slow
def test_a_replica_that_is_killed_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas are processes of their own, with bf16 where the processor has it, and one thread each: so is what they are held against."""
    monkeypatch.setattr(placement, "CPU_INFO", Path("/proc/cpuinfo"))
    torch.set_num_threads(1)  # as in the command that runs all tests
    transmitter, _ = halves("scenes", "cpu")
    engine = cluster.ClusterEngine(cluster.Cluster(2, 2, cpus=0.5), "scenes", "cpu", 4)
    service = Service(
        engine, Decider(transmitter.backbone.spec), lambda prompt, seed: Completion(prompt), settings=Settings(rows=4, engines=2)
    )

    async def run() -> list[int]:
        killed: list[int] = []
        ended = asyncio.Event()
        over: list[object] = []

        def follow(served: object, event: object) -> None:
            if isinstance(event, Stepped) and event.done == 2 and not killed:
                killed.append(0)
                asyncio.get_running_loop().create_task(kill())
            if getattr(event, "type", "") in ("done", "error"):
                over.append(event)
                if len(over) == 4:
                    ended.set()

        async def kill() -> None:
            number = await engine.handle.options(stream=False).pid.remote()
            os.kill(number, signal.SIGKILL)

        requests = [
            service.submit(
                Generate(id=f"{k:032x}", prompt="a castle at dawn", seed=k, steps=12),
                "",
                follow,
                channel=ChannelState(None, 0.0, 1e6),
                decode_s=None,
            )
            for k in range(4)
        ]
        async with asyncio.timeout(180):
            await ended.wait()
        assert killed
        assert all(isinstance(event, Done) for event in over)
        for k, served in enumerate(requests):
            alone = transmitter.encode(transmitter.denoise(["a castle at dawn"], [k], 12), order="stage").payload
            assert tuple(piece.data for piece in served.pieces[2:]) == alone.features
        return [served.attempts for served in requests]

    try:
        assert max(asyncio.run(run())) > 1
    finally:
        engine.close()
