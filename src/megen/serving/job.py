"""What an engine is asked for and what it answers: an engine is any object with `run`. Without torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from megen.errors import RunError
from megen.types import Decision, Part, Transmission


class EngineLostError(RunError):
    """An engine died; the request, which is a function of its job alone, can run on another."""


@dataclass(frozen=True)
class Job:
    """All that a latent and its payload depend on, and whether previews are wanted."""

    prompt: str  # completed
    seed: int
    decision: Decision
    previews: tuple[str, ...] = ()  # formats that may be used: webp, jpeg
    order: str = "stage"  # of the payload's parts


@dataclass(frozen=True)
class Progress:
    """A denoising step of a job is done; `preview` is a small picture of what it will be, in `format`, where one was made."""

    done: int
    of: int
    preview: bytes = b""


@dataclass(frozen=True)
class Finished:
    """The job's transmission, its seconds by stage, its share `work_s` of the engine's seconds, and the mean rows of its batches."""

    transmission: Transmission
    seconds: dict[str, float]
    work_s: float
    rows: float


JobEvent = Progress | Part | Finished


@runtime_checkable
class Engine(Protocol):
    """Runs many jobs at once."""

    def run(self, job: Job) -> AsyncIterator[JobEvent]:
        """The events of one job: steps, each part of the payload as soon as it is coded, and last `Finished`.

        Closing the iterator cancels the job before the next step.

        Errors: InputError on a job that the backbone cannot run; RunError where it fails; EngineLostError where the engine died.
        """
        ...
