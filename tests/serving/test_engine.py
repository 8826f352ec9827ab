"""The engine: batched = alone to the bit, cancelled rows, failures."""

from __future__ import annotations

import asyncio
import io
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch
from PIL import Image

from megen.codec import FeatureCodec
from megen.diffusion import denoise
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


def denoise_noise(transmitter: Transmitter, seed: int) -> torch.Tensor:
    """The latent that a request of this seed starts from."""
    backbone = transmitter.backbone
    condition = backbone.condition([WORDS])
    return denoise.start(backbone, condition, [seed], [backbone.spec.times[2]]).z[0]


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


def together(engine: LocalEngine, count: int, steps: int) -> list[Any]:
    """Jobs of seeds 0, 1, ... at once: events, or what they failed by."""

    async def several() -> list[Any]:
        jobs = (events(engine, Job(WORDS, k, Decision(steps))) for k in range(count))
        return await asyncio.gather(*jobs, return_exceptions=True)

    return asyncio.run(several())


def test_a_row_that_fails_leaves_its_batch_and_the_others_go_on(
    transmitter: Transmitter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, sizes = EmbeddedBackbone.step, list[int]()
    with closing(LocalEngine(transmitter, rows=4)) as engine:
        alone = [finished(asyncio.run(events(engine, Job(WORDS, k, Decision(2))))) for k in range(4)]
        bad = denoise_noise(transmitter, 2)

        def broken(self: EmbeddedBackbone, z: torch.Tensor, *args: Any) -> torch.Tensor:
            sizes.append(len(z))
            if any(torch.equal(row, bad) for row in z):
                raise ValueError("boom")
            return step(self, z, *args)

        monkeypatch.setattr(EmbeddedBackbone, "step", broken)
        found = together(engine, 4, 2)
        assert engine.rows == 4
    assert isinstance(found[2], RunError)
    assert "ValueError: boom" in str(found[2])
    for k in (0, 1, 3):
        assert finished(found[k]).transmission.payload == alone[k].transmission.payload
    assert max(sizes) == 1 or "tried by halves" in caplog.text


def test_a_batch_that_memory_has_no_room_for_is_made_in_smaller_ones(transmitter: Transmitter, monkeypatch: pytest.MonkeyPatch) -> None:
    step, sizes, held = EmbeddedBackbone.step, list[int](), list[weakref.ref[torch.Tensor]]()

    def short_of_memory(self: EmbeddedBackbone, z: torch.Tensor, *args: Any) -> torch.Tensor:
        sizes.append(len(z))
        assert not any(ref() is not None for ref in held), "what the failed step held is still there"
        if len(z) > 2:
            activations = z.clone()
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("no room")
        time.sleep(0.02)  # so that the others come
        return step(self, z, *args)

    with closing(LocalEngine(transmitter, rows=4)) as engine:
        alone = [finished(asyncio.run(events(engine, Job(WORDS, k, Decision(4))))) for k in range(6)]
        monkeypatch.setattr(EmbeddedBackbone, "step", short_of_memory)
        found = together(engine, 6, 4)
        assert engine.rows <= 2
    assert sum(size > 2 for size in sizes) <= 2  # it learns
    for k in range(6):
        out = finished(found[k])
        assert out.transmission.payload == alone[k].transmission.payload
        assert out.seconds["denoise"] >= 4 * 0.02  # all of what it waited for


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
