"""The engine: batched = alone to the bit, cancelled rows, failures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch
from PIL import Image

from megen.codec import FeatureCodec
from megen.errors import InputError, RunError
from megen.halves import Transmitter
from megen.models.embedded import EmbeddedBackbone
from megen.serving import engine as engine_module
from megen.serving.engine import LocalEngine
from megen.serving.job import Engine, EngineLostError, Finished, Job, JobEvent, Progress
from megen.types import Decision, Part

WORDS = "a castle at dawn, fog"


@pytest.fixture(scope="module")
def transmitter(tiny: EmbeddedBackbone) -> Transmitter:
    return Transmitter(tiny, FeatureCodec(None, 1, tiny.config.grid))


@pytest.fixture
def engine(transmitter: Transmitter) -> Iterator[LocalEngine]:
    made = LocalEngine(transmitter, rows=3)
    yield made
    made.close()


async def events(engine: Engine, job: Job) -> list[JobEvent]:
    return [event async for event in engine.run(job)]


def finished(out: list[JobEvent]) -> Finished:
    assert isinstance(out[-1], Finished)
    return out[-1]


def test_a_payload_is_the_one_that_the_transmitter_makes_alone(engine: LocalEngine, transmitter: Transmitter) -> None:
    jobs = [Job(WORDS, seed, Decision((1, 2, 4)[seed % 3], (0.0, 0.5)[seed % 2], 4.0)) for seed in range(12)]

    async def together() -> list[list[JobEvent]]:
        return await asyncio.gather(*(events(engine, job) for job in jobs))

    for job, out in zip(jobs, asyncio.run(together()), strict=True):
        latent = transmitter.denoise([job.prompt], [job.seed], job.decision.steps)
        alone = transmitter.encode(latent, job.decision.merge_ratio, quantiser_bits=4.0, order="stage")
        assert finished(out).transmission.payload == alone.payload
        assert [event.done for event in out if isinstance(event, Progress)] == list(range(1, job.decision.steps))
        assert tuple(event for event in out if isinstance(event, Part)) == alone.payload.parts


def test_seconds_and_rows_are_told(engine: LocalEngine) -> None:
    out = finished(asyncio.run(events(engine, Job(WORDS, 0, Decision(2)))))
    assert out.seconds.keys() == {"text", "denoise", "merge", "code"}
    assert 0 < out.work_s <= sum(out.seconds.values()) + 1e-9
    assert out.rows == 1
    assert engine.step_s > 0


def test_previews_are_small_pictures_of_what_it_will_be(transmitter: Transmitter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "BESIDE", 1)  # in order: the features never overtake a preview
    with closing(LocalEngine(transmitter)) as engine:
        out, short = (asyncio.run(events(engine, Job(WORDS, 0, Decision(n), ("webp",)))) for n in (4, 2))
    previews = [event.preview for event in out if isinstance(event, Progress) and event.preview]
    assert previews
    assert Image.open(io.BytesIO(previews[0])).size == (64, 64)
    assert not any(e.preview for e in short if isinstance(e, Progress))


def test_a_closed_iterator_frees_its_row(engine: LocalEngine) -> None:
    async def leave_early() -> None:
        run = engine.run(Job(WORDS, 0, Decision(4)))
        await anext(run)
        await run.aclose()
        await asyncio.gather(*(events(engine, Job(WORDS, k, Decision(1))) for k in range(6)))

    asyncio.run(leave_early())


def test_a_job_that_the_backbone_cannot_run_is_refused_and_others_go_on(engine: LocalEngine) -> None:
    with pytest.raises(InputError, match="steps must be one of"):
        asyncio.run(events(engine, Job(WORDS, 0, Decision(3))))
    with pytest.raises(InputError, match="words"):
        asyncio.run(events(engine, Job("castle " * 200, 0, Decision(1))))
    assert finished(asyncio.run(events(engine, Job(WORDS, 0, Decision(1)))))


def test_a_step_that_fails_fails_its_rows_alone(engine: LocalEngine, transmitter: Transmitter, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: EmbeddedBackbone, *args: object) -> torch.Tensor:
        raise ValueError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedBackbone, "step", broken)
        with pytest.raises(RunError, match="ValueError: boom"):
            asyncio.run(events(engine, Job(WORDS, 0, Decision(1))))
    assert finished(asyncio.run(events(engine, Job(WORDS, 0, Decision(1)))))


def test_a_batch_that_fails_goes_on_row_by_row(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, together, alone_failed = EmbeddedBackbone.step, list[int](), list[bool]()

    def short_of_memory(self: EmbeddedBackbone, z: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(z) > 1:
            together.append(len(z))
            raise MemoryError("no room")
        if together and not alone_failed:
            alone_failed.append(True)
            raise ValueError("boom")
        return step(self, z, *args)

    async def several() -> list[Any]:
        return await asyncio.gather(*(events(engine, Job(WORDS, k, Decision(2))) for k in range(3)), return_exceptions=True)

    alone = [finished(asyncio.run(events(engine, Job(WORDS, k, Decision(2))))) for k in range(3)]
    monkeypatch.setattr(EmbeddedBackbone, "step", short_of_memory)
    found = asyncio.run(several())
    assert together
    failed = [k for k, of in enumerate(found) if isinstance(of, BaseException)]
    assert len(failed) == 1
    assert "ValueError: boom" in str(found[failed[0]])
    for k in set(range(3)) - set(failed):
        assert finished(found[k]).transmission.payload == alone[k].transmission.payload
    assert "each goes on alone" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_says_so_and_is_there_again(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: EmbeddedBackbone, *args: object) -> torch.Tensor:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedBackbone, "step", killed)
        with pytest.raises(EngineLostError):
            asyncio.run(events(engine, Job(WORDS, 0, Decision(1))))
    assert finished(asyncio.run(events(engine, Job(WORDS, 0, Decision(1)))))


def test_a_closed_engine_takes_nothing(transmitter: Transmitter) -> None:
    engine = LocalEngine(transmitter)
    engine.close()
    with pytest.raises(EngineLostError):
        asyncio.run(events(engine, Job(WORDS, 0, Decision(1))))


def test_bounds(transmitter: Transmitter) -> None:
    for wrong in ({"rows": 0}, {"threads": 0}):
        with pytest.raises(InputError):
            LocalEngine(transmitter, **wrong)
