"""Requests from arrival to the last part: queue, engine, emulated link, and what is kept for a user equipment that comes back.

It knows no sockets: whoever follows a request is called with what there is to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from megen.errors import InputError, MegenError, RunError
from megen.link import Link
from megen.pipeline import LINK_STREAM
from megen.protocol.frames import FEATURES, PREVIEW
from megen.protocol.messages import MOST_PARTS, Cancelled, Done, Error, Generate, Message, Stepped
from megen.report import PayloadBits
from megen.scenes.completion import Completion
from megen.serving.decider import Asked, Decider
from megen.serving.decoding import Pictures
from megen.serving.job import Engine, EngineLostError, Finished, Job, Progress
from megen.serving.outcome import Outcomes
from megen.serving.request import Follower, Piece, Served, State
from megen.serving.scheduler import Scheduler, Waiting
from megen.types import Budget, ChannelState, Decision, Part, Payload, check_number

PIECE_BYTES = 16 * 1024  # of a picture that the server decodes
ATTEMPTS = 3  # engines that a request may be given to
KEPT_S, KEPT_REQUESTS = 600.0, 2000  # how long, and how many, finished requests are kept for a resume
SLACK_S = 1.0  # that a user equipment may say a picture took longer than by the clock here
DRAINING = "the server is shutting down: try another, or this one in a moment"


@dataclass(frozen=True)
class Settings:
    """How much is taken on."""

    rows: int = 8  # requests that the engine runs at once
    capacity: int = 64  # requests that wait, the next to run among them; 0 takes none
    engines: int = 1  # that work side by side
    kept_s: float = KEPT_S

    def __post_init__(self) -> None:
        check_number("rows", self.rows, 1, whole=True)
        check_number("capacity", self.capacity, 0, whole=True)
        check_number("engines", self.engines, 1, whole=True)
        check_number("kept_s", self.kept_s, 0)


class Service:
    """Takes requests, runs them on an engine, and keeps what they became. Use it within one event loop.

    `complete` draws what a prompt leaves open; `link` None: parts go out as fast as the socket takes them.
    """

    def __init__(
        self,
        engine: Engine,
        decider: Decider,
        complete: Callable[[str, int], Completion],
        *,
        settings: Settings | None = None,
        link: Link | None = None,
        outcomes: Outcomes | None = None,
        about: dict[str, Any] | None = None,
        picture: Callable[[Payload], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.decider, self.complete, self.settings = engine, decider, complete, settings or Settings()
        self.link, self.outcomes, self.about, self.clock = link, outcomes or Outcomes(), about or {}, clock
        self.picture = picture  # decodes to a WebP file, where not every user equipment can
        self._decoding, self._pictures = asyncio.Semaphore(1), Pictures()
        self.scheduler: Scheduler[Served] = Scheduler(self.settings.capacity, self.settings.engines)
        self.step_s = 0.0  # of one row, by what finished requests took
        self.draining = False
        self._requests: OrderedDict[str, Served] = OrderedDict()
        self._last_arrival_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(
        self,
        asked: Generate,
        owner: str,
        follower: Follower,
        *,
        channel: ChannelState,
        decode_s: float | None,
        previews: tuple[str, ...] = (),
        decodes: bool | None = True,
    ) -> Served:
        """Take a request on, or the same one again. It is followed from here on, and is sent that it is accepted.

        `decodes`: where this server can, its pieces are the picture's; False: its payload's; None: those with which it is there sooner.

        Errors: BusyError where the queue is full; InputError on what the backbone cannot make; RunError where the server shuts down.
        """
        if (known := self._requests.get(asked.id)) is not None:
            if known.owner != owner or known.asked != asked:
                raise InputError("this id is another request's: draw 128 new random bits for each")
            return self.resume(asked.id, owner, follower, ())
        if self.draining:
            raise RunError(DRAINING)
        self._forget()
        full = Completion(asked.prompt) if asked.as_typed else self.complete(asked.prompt, asked.seed)
        now_s = self.clock()
        ahead = self.scheduler.ahead(self.scheduler.due_s(now_s, asked.deadline_s), self.settings.rows)
        budget = Budget(asked.deadline_s, asked.energy_j)
        wanted = Asked(full.text, asked.steps, asked.merge_ratio, asked.quantiser_bits, budget)
        streams = self.link is None and decodes is not False
        if decodes is None:
            decodes = self.picture is not None and self._pictures.sooner_here(decode_s, channel.rate_bps)
            decode_s = self._pictures.here_s(channel.rate_bps) if decodes else decode_s
        seen = getattr(self.link, "state", lambda: channel)()
        streams = streams and not (decodes and self.picture is not None)
        decided = self.decider.decide(wanted, seen, self._phase(now_s), decode_s, ahead, streams=streams)
        served = Served(asked, owner, full, decided, seen, ahead.backlog_s, now_s, previews if asked.previews else (), decodes, streams)
        served.place = self.scheduler.put(served, self._work_s(decided.decision), now_s, asked.deadline_s)
        served.position = self.scheduler.position(served.place)
        served.followers.append(follower)
        self._requests[asked.id] = served
        served.tell(served.accepted())
        self._dispatch()
        return served

    def check_room(self, count: int) -> None:
        """See that `count` new requests fit together.

        Errors: InputError where so many never do, BusyError where they do not now, RunError where the server shuts down.
        """
        if self.draining:
            raise RunError(DRAINING)
        self.scheduler.check_room(count, self._places)

    @property
    def _places(self) -> int:
        return self.settings.rows * self.settings.engines

    def resume(self, request: str, owner: str, follower: Follower, have: tuple[int, ...]) -> Served:
        """Follow a request again; what it has come to is sent at once, without the parts that arrived before.

        Errors: InputError on an id that this owner has no request of.
        """
        served = self.of(request, owner)
        served.followers = [other for other in served.followers if other != follower] + [follower]
        follower(served, served.accepted())
        if served.pieces:
            follower(served, served.coded())
            for piece in served.pieces:
                if piece.part not in have:
                    follower(served, piece)
        if served.last is not None:
            follower(served, served.last)
        return served

    def of(self, request: str, owner: str) -> Served:
        """A request by its id. Errors: InputError on an id that this owner has no request of."""
        served = self._requests.get(request)
        if served is None or served.owner != owner:
            raise InputError("no such request here: it was never made, or is no longer kept")
        return served

    def cancel(self, served: Served) -> None:
        """Stop a request; one that is over stays as it is."""
        if served.last is not None:
            return
        self.scheduler.remove(lambda other: other is served)
        if served.task is not None:
            served.task.cancel()
        self._end(served, "cancelled", Cancelled(id=served.id))
        self._dispatch()

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, wait until those at work are over, or the time is, and cancel what is left."""
        self.draining = True
        began = self.clock()
        while (len(self.scheduler) or self._tasks) and self.clock() - began < timeout_s:
            await asyncio.sleep(0.05)
        for served in list(self._requests.values()):
            self.cancel(served)
            self.outcomes.forgotten(served)

    def acknowledged(self, request: str, owner: str, seconds: float) -> None:
        """A frame of a request arrived, in so many seconds."""
        served = self._requests.get(request)
        if served is not None and served.owner == owner:
            served.air_s += seconds

    def shown(self, request: str, owner: str, decode_s: float, latency_s: float) -> float | None:
        """The user equipment shows the picture; its latency as far as it can be by the clock here, None where it said so before.

        Errors: InputError on an id that this owner has no request of.
        """
        served = self.of(request, owner)
        if served.state != "sent":
            return None
        least_s, most_s = served.ended_s - served.arrived_s, self.clock() - served.arrived_s + SLACK_S  # by the clock here
        latency_s = min(max(latency_s, least_s), most_s)
        decode_s = min(decode_s, latency_s)
        line = self.outcomes.shown(served, decode_s, latency_s)
        if line is not None:
            self.decider.observe(line)
            stages_s = sum(served.seconds.get(stage, 0.0) for stage in ("queue", "denoise", "es_decode"))
            self.decider.learn(served.decided, latency_s, stages_s + decode_s, served.air_s)
        return None if line is None else latency_s

    def _phase(self, now_s: float) -> int:
        gap_s = None if self._last_arrival_s is None else now_s - self._last_arrival_s
        self._last_arrival_s = now_s
        return 1 if gap_s is None or self.decider.policy is None else self.decider.policy.arrived(gap_s)

    def _work_s(self, decision: Decision) -> float:
        """Seconds of an engine that a request takes."""
        if self.step_s:
            return decision.steps * self.step_s
        policy = self.decider.policy
        return policy.planned.controller.server.es_s(decision.steps) if policy is not None else 0.1 * decision.steps

    def _dispatch(self) -> None:
        """Give the engine as many requests as it runs at once."""
        while self.scheduler.running < self._places and (place := self.scheduler.take()) is not None:
            served = place.item
            served.state, served.attempts, served.position = "running", served.attempts + 1, 0
            served.task = asyncio.create_task(self._run(served, place), name=served.id)
            self._tasks.add(served.task)
            served.task.add_done_callback(functools.partial(self._over, place))
        for position, waiting in enumerate(self.scheduler):
            if position != waiting.position:
                waiting.position = position
                waiting.tell(waiting.accepted())

    def _over(self, place: Waiting[Served], task: asyncio.Task[None]) -> None:
        """A request's task has ended: its place is free, but where it waits for another engine."""
        self._tasks.discard(task)
        if place.item.state != "queued":
            self.scheduler.finish(place)
        self._dispatch()

    async def _run(self, served: Served, place: Waiting[Served]) -> None:
        try:
            await self._work(served, place)
        except EngineLostError as error:
            if served.attempts < ATTEMPTS:
                self.scheduler.again(place)
                served.state = "queued"
                return
            self._fail(served, error, retryable=True)
        except MegenError as error:
            self._fail(served, error, retryable=not isinstance(error, InputError))
        except Exception as error:
            self._fail(served, RunError(f"failed unexpectedly, by {type(error).__name__}: {error}"), retryable=True)

    async def _work(self, served: Served, place: Waiting[Served]) -> None:
        order = "stage" if self.link is None else "band"  # bands where parts may be lost alone
        job = Job(served.completed.text, served.asked.seed, served.decided.decision, served.previews, order)
        began_s = self.clock()
        async with contextlib.aclosing(self.engine.run(job)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Progress):
                    self.scheduler.worked(place, place.work_s * (1 - event.done / event.of))
                    if not served.pieces:  # else another engine began this payload
                        served.tell(Stepped(id=served.id, done=event.done, of=event.of))
                    if event.preview:
                        served.tell(Piece(PREVIEW, event.done, event.preview))
                elif isinstance(event, Part):
                    self._coded(served, event)
                elif isinstance(event, Finished):
                    self.scheduler.finish(place)
                    self._dispatch()
                    await self._deliver(served, event, began_s)
        if served.last is None:
            raise RunError("the engine gave no result")

    def _coded(self, served: Served, part: Part) -> None:
        """A part goes out while the next is coded; but what crosses the emulated link, or is decoded here, must be whole.

        Errors: RunError where another engine began this payload, and its part was another.
        """
        if not served.streams:
            return
        piece = Piece(FEATURES, part.number, part.data)
        if part.number < len(served.pieces):
            if served.pieces[part.number] != piece:
                raise RunError("two engines made other features of one request: ask again, and run engines on like processors")
            return
        served.parts, served.pieces = part.of, (*served.pieces, piece)
        if not part.number:
            served.tell(served.coded())
        served.tell(piece)

    async def _deliver(self, served: Served, event: Finished, began_s: float) -> None:
        steps = served.decided.decision.steps
        self.step_s = event.work_s / steps if not self.step_s else 0.9 * self.step_s + 0.1 * event.work_s / steps
        self.decider.took(steps, event.rows, event.seconds.get("denoise", 0.0))
        payload = event.transmission.payload
        if self.link is not None:
            rng = np.random.default_rng([served.asked.seed, LINK_STREAM])
            delivery = await asyncio.to_thread(self.link.send, event.transmission, rng)
            payload = delivery.received.payload
            await asyncio.sleep(delivery.latency_s)
            served.air_s += delivery.latency_s
        served.seconds = {"queue": began_s - served.arrived_s, **event.seconds}
        served.work_s, served.rows = event.work_s, event.rows
        served.payload = payload
        sent = tuple(part.data for part in payload.parts)
        self._pictures.coded(8 * sum(map(len, sent)))
        if self.picture is not None and served.decodes:
            file = await self._picture_of(served, payload, self.picture)
            served.work_s += served.seconds["es_decode"]
            size = max(PIECE_BYTES, -(-len(file) // MOST_PARTS))
            sent, served.picture = tuple(file[i : i + size] for i in range(0, len(file), size)), "image/webp"
        if served.pieces:
            for part in payload.parts:
                self._coded(served, part)
        else:
            served.parts, served.pieces = len(sent), tuple(Piece(FEATURES, k, data) for k, data in enumerate(sent))
            served.tell(served.coded())
            for piece in served.pieces:
                served.tell(piece)
        self._end(served, "sent", Done(id=served.id, report=self._report(served, payload, event)))

    async def _picture_of(self, served: Served, payload: Payload, picture: Callable[[Payload], bytes]) -> bytes:
        """The file of a picture that is decoded here, one at a time: an autoencoder takes gigabytes."""
        asked_s = self.clock()
        self._pictures.waiting += 1
        try:
            async with self._decoding:
                began_s = self.clock()
                file = await asyncio.to_thread(picture, payload)
        finally:
            self._pictures.waiting -= 1
        served.seconds["queue"] += began_s - asked_s
        served.seconds["es_decode"] = self.clock() - began_s
        self._pictures.decoded(served.seconds["es_decode"], 8 * len(file))
        return file

    def _report(self, served: Served, payload: Payload, event: Finished) -> dict[str, Any]:
        d = served.decided.decision
        return {
            "prompt": served.asked.prompt,
            "completed_prompt": served.completed.text,
            "seed": served.asked.seed,
            "decision": {"steps": d.steps, "merge_ratio": d.merge_ratio, "quantiser_bits": d.quantiser_bits},
            "decided_by": served.decided.why,
            "latency_s": {**served.seconds, "rows": event.rows},
            "payload_bits": vars(PayloadBits(**payload.bits()) if served.picture is None else _picture_bits(served)),
            "energy_j": {"es": served.work_s * self.decider.es_w},
            "modelled": ["energy_j.es"],
            "made_by": self.about,
        }

    def _fail(self, served: Served, error: MegenError, *, retryable: bool) -> None:
        code: Literal["bad_request", "failed"] = "failed" if retryable else "bad_request"
        self._end(served, "failed", Error(code=code, message=str(error), id=served.id, retryable=retryable))

    def _end(self, served: Served, state: State, last: Message) -> None:
        if served.last is None:
            served.state, served.last, served.ended_s = state, last, self.clock()
            self.outcomes.ended(served)
            served.tell(last)

    def _forget(self) -> None:
        """Drop what was finished long ago, or is too much."""
        limit_s = self.clock() - self.settings.kept_s
        for request, served in list(self._requests.items()):
            old = served.last is not None and (served.ended_s < limit_s or len(self._requests) > KEPT_REQUESTS)
            if not old:
                if len(self._requests) <= KEPT_REQUESTS:
                    break
                continue
            del self._requests[request]
            self.outcomes.forgotten(served)


def _picture_bits(served: Served) -> PayloadBits:
    """What crossed of a picture that the server decoded."""
    bits = 8 * sum(len(piece.data) for piece in served.pieces)
    return PayloadBits(header=0, merge_map=0, features=bits, total=bits)
