"""The engine of this process: continuous batching at the granularity of a denoising step.

jobs ──text──> rows that wait ──join──> advance, advance, ... ──leave──> merge and code ──> transmission
       beside the steps           one thread, all rows at once            beside the steps

A job's latent and payload are those that it would have alone, to the bit; threads are pinned, because other counts round differently.
"""

from __future__ import annotations

import asyncio
import io
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from megen.backbone import Condition
from megen.clock import Clock
from megen.diffusion import denoise
from megen.diffusion.denoise import Rows
from megen.errors import InputError, MegenError, RunError
from megen.halves import Transmitter
from megen.serving.job import EngineLostError, Finished, Job, JobEvent, Progress
from megen.types import POSITIVE, check_number

log = logging.getLogger("megen.serving")

ROWS = 8
LEAST_PREVIEW_S = 0.15  # between two previews of a job
LEAST_STEPS = 3  # of a job that is shown as it grows
PREVIEW_QUALITY = 50
BESIDE = 2  # threads for text, coding and previews


@dataclass
class _Ticket:
    """A job at work."""

    job: Job
    tell: Callable[[JobEvent | BaseException], None]
    seconds: dict[str, float] = field(default_factory=dict)
    work_s: float = 0.0  # its share of the batches' seconds
    rows: list[int] = field(default_factory=list)
    shown_at_s: float = 0.0
    cancelled: bool = False


class LocalEngine:
    """An `Engine`: `rows` jobs are denoised together at most; `threads` None: PyTorch's own number.

    Errors: InputError on a number that cannot be.
    """

    def __init__(self, transmitter: Transmitter, *, rows: int = ROWS, threads: int | None = None) -> None:
        check_number("rows", rows, 1, whole=True)
        check_number("threads", torch.get_num_threads() if threads is None else threads, POSITIVE, whole=True)
        self.transmitter, self.rows = transmitter, rows
        self.threads = threads or torch.get_num_threads()
        self.step_s = 0.0  # of one row, the running mean of what steps took
        self._ready: queue.SimpleQueue[tuple[_Ticket, Rows] | None] = queue.SimpleQueue()
        self._beside = ThreadPoolExecutor(BESIDE, "megen-beside", initializer=torch.set_num_threads, initargs=(self.threads,))
        self._closed = False
        self._thread = self._started()

    async def run(self, job: Job) -> AsyncIterator[JobEvent]:
        """The events of one job. Errors: as `Engine.run`."""
        if self._closed:
            raise EngineLostError("the engine was closed")
        loop, events = asyncio.get_running_loop(), asyncio.Queue[JobEvent | BaseException]()

        def tell(event: JobEvent | BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = _Ticket(job, tell)
        self._beside.submit(self._guarded, ticket, self._prepare)
        try:
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            ticket.cancelled = True

    def close(self) -> None:
        """Stop; jobs at work get `EngineLostError`."""
        self._closed = True
        self._ready.put(None)
        self._thread.join()
        self._beside.shutdown(cancel_futures=True)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._loop, name="megen-steps", daemon=True)
        thread.start()
        return thread

    def _guarded(self, ticket: _Ticket, stage: Callable[..., None], *args: object) -> None:
        try:
            stage(ticket, *args)
        except MegenError as error:
            ticket.tell(error)
        except Exception as error:
            ticket.tell(RunError(f"the engine failed unexpectedly, by {type(error).__name__}: {error}"))

    def _prepare(self, ticket: _Ticket) -> None:
        job, backbone = ticket.job, self.transmitter.backbone
        steps = backbone.spec.check(job.decision).steps
        clock = Clock(ticket.seconds)
        with clock.stage("text"), torch.inference_mode():
            condition: Condition = backbone.condition([job.prompt])
        ticket.work_s += ticket.seconds["text"]
        self._ready.put((ticket, denoise.start(backbone, condition, [job.seed], [backbone.spec.times[steps]])))

    def _loop(self) -> None:
        torch.set_num_threads(self.threads)
        tickets: list[_Ticket] = []
        rows: Rows | None = None
        waiting: list[tuple[_Ticket, Rows]] = []
        try:
            while not self._closed:
                waiting += self._arrivals(wait=rows is None and not waiting)
                tickets, rows, waiting = self._gather(tickets, rows, waiting)
                if rows is not None:
                    tickets, rows = self._step(tickets, rows)
        finally:  # it was closed, or something killed it: then another takes over what is still to come
            if not self._closed:
                self._thread = self._started()
            for ticket in [*tickets, *(t for t, _ in waiting)]:
                ticket.tell(EngineLostError("the engine has stopped"))

    def _arrivals(self, wait: bool) -> list[tuple[_Ticket, Rows]]:
        """All that is ready; waits for the first where there is nothing else to do."""
        out: list[tuple[_Ticket, Rows]] = []
        while True:
            try:
                arrived = self._ready.get(block=wait and not out)
            except queue.Empty:
                return out
            if arrived is None:
                return out
            out.append(arrived)

    def _gather(
        self, tickets: list[_Ticket], rows: Rows | None, waiting: list[tuple[_Ticket, Rows]]
    ) -> tuple[list[_Ticket], Rows | None, list[tuple[_Ticket, Rows]]]:
        """Let cancelled rows leave and waiting ones join, up to `rows`."""
        if rows is not None and any(t.cancelled for t in tickets):
            rows, tickets = _kept(rows, tickets, [not t.cancelled for t in tickets])
        waiting = [(t, r) for t, r in waiting if not t.cancelled]
        for ticket, row in waiting[: self.rows - len(tickets)]:
            rows = row if rows is None else denoise.join(rows, row)
            tickets = [*tickets, ticket]
        return tickets, rows, [pair for pair in waiting if pair[0] not in tickets]

    def _step(self, tickets: list[_Ticket], rows: Rows) -> tuple[list[_Ticket], Rows | None]:
        """One step of all rows; those that are finished leave."""
        clock = self.transmitter.clock()
        with clock.stage("denoise"):
            stepped = self._advanced(tickets, rows)
        if stepped is None:
            return [], None
        tickets, rows, after = stepped
        spent_s = clock.seconds["denoise"]
        self.step_s = spent_s / len(tickets) if not self.step_s else 0.9 * self.step_s + 0.1 * spent_s / len(tickets)
        for i, (ticket, finished) in enumerate(zip(tickets, after.finished, strict=True)):
            ticket.seconds["denoise"] = ticket.seconds.get("denoise", 0.0) + spent_s
            ticket.work_s += spent_s / len(tickets)
            ticket.rows.append(len(tickets))
            if finished:
                self._beside.submit(self._guarded, ticket, self._code, after.z[i : i + 1])
            else:
                self._progress(ticket, rows, after, i)
        kept, left = _kept(after, tickets, [not f for f in after.finished])
        return left, kept

    def _advanced(self, tickets: list[_Ticket], rows: Rows) -> tuple[list[_Ticket], Rows, Rows] | None:
        """Rows before and after a step; where it fails, by halves: a row that fails alone leaves, with the reason. None: nobody is left.

        Where memory was short, batches stay smaller from then on.
        """
        if len(tickets) <= self.rows:
            try:
                return tickets, rows, denoise.advance(self.transmitter.backbone, rows)
            except Exception as error:
                short = isinstance(error, MemoryError | torch.OutOfMemoryError)
                said = error if isinstance(error, RunError | InputError) else RunError(f"a step failed, by {type(error).__name__}: {error}")
                said = said.with_traceback(None)
            # outside of the clause: its error holds all that the step had in memory
            if len(tickets) == 1:
                tickets[0].tell(said)
                return None
            self.rows = max(1, len(tickets) // 2) if short else self.rows
            log.warning("a step of %d rows failed: %s; it is tried by halves, batches have %d rows at most", len(tickets), said, self.rows)
        half = len(tickets) // 2
        parts = [self._advanced(tickets[k], denoise.keep(rows, list(range(len(tickets)))[k])) for k in (slice(half), slice(half, None))]
        done = [part for part in parts if part is not None]
        if len(done) < 2:
            return done[0] if done else None
        (first, before, after), (second, before_too, after_too) = done
        return [*first, *second], denoise.join(before, before_too), denoise.join(after, after_too)

    def _progress(self, ticket: _Ticket, before: Rows, after: Rows, i: int) -> None:
        done, of, now_s = after.done[i], len(after.times[i]) - 1, time.monotonic()
        wanted = ticket.job.previews and of >= LEAST_STEPS and hasattr(self.transmitter.backbone, "preview")
        if wanted and now_s - ticket.shown_at_s >= LEAST_PREVIEW_S:
            ticket.shown_at_s = now_s
            self._beside.submit(self._guarded, ticket, self._show, _estimate(before, after, i), done, of)
        else:
            ticket.tell(Progress(done, of))

    def _show(self, ticket: _Ticket, estimate: Tensor, done: int, of: int) -> None:
        ticket.tell(Progress(done, of, preview_of(self.transmitter, estimate, ticket.job.previews[0])))

    def _code(self, ticket: _Ticket, latent: Tensor) -> None:
        decision, clock = ticket.job.decision, Clock(ticket.seconds)
        sent = self.transmitter.encode(
            latent,
            decision.merge_ratio,
            quantiser_bits=decision.quantiser_bits,
            order=ticket.job.order,
            clock=clock,
            on_part=ticket.tell,
        )
        work_s = ticket.work_s + ticket.seconds["merge"] + ticket.seconds["code"]
        ticket.tell(Finished(sent, dict(ticket.seconds), work_s, sum(ticket.rows) / len(ticket.rows)))


def _kept(rows: Rows, tickets: list[_Ticket], stays: list[bool]) -> tuple[Rows | None, list[_Ticket]]:
    if all(stays):
        return rows, tickets
    chosen = [i for i, stay in enumerate(stays) if stay]
    return (denoise.keep(rows, chosen) if chosen else None), [tickets[i] for i in chosen]


def _estimate(before: Rows, after: Rows, i: int) -> Tensor:
    """What row i will be, by the average velocity of its last step: z_s + (1 - s) (z_t - z_s) / (t - s) [1, c, h, w]."""
    s, t = (before.times[i][before.done[i] + j] for j in (0, 1))
    start, end = before.z[i : i + 1], after.z[i : i + 1]
    return start + (1 - s) / (t - s) * (end - start)


@torch.inference_mode()
def preview_of(transmitter: Transmitter, latent: Tensor, form: str) -> bytes:
    """A small picture of a latent [1, c, h, w] in a format, webp or jpeg. The backbone must have `preview`."""
    image = transmitter.backbone.preview(latent)[0]  # type: ignore[attr-defined]
    pixels = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, quality=PREVIEW_QUALITY)
    return out.getvalue()
