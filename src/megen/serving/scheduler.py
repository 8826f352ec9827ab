"""Which request runs next: earliest deadline first, in a bounded queue. Without torch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from megen.errors import InputError, RunError
from megen.types import POSITIVE, check_number

T = TypeVar("T")
PATIENCE_S = 30.0  # a request without a deadline is served as if it had this one, so that none waits for ever


class BusyError(RunError):
    """The queue is full; `retry_after_s` is when a place should be free."""

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"the server is busy: {waiting} requests wait, try again in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, order=True)
class Waiting(Generic[T]):
    """A request in the queue, ordered by when it is due; what comes first wins a tie."""

    due_s: float
    number: int
    work_s: float = field(compare=False)  # that an engine has to do for it
    item: T = field(compare=False)


@dataclass(frozen=True)
class Ahead:
    """What a request finds: an engine's seconds of work ahead of it, the work until one of the engines' places is free (in the same
    seconds), and how many rows a batch has with it."""

    backlog_s: float = 0.0
    wait_s: float = 0.0
    rows: int = 1


class Scheduler(Generic[T]):
    """The queue of all engines. `work_s` are seconds of an engine that runs nothing else; `engines` work side by side."""

    def __init__(self, capacity: int, engines: int = 1) -> None:
        check_number("capacity", capacity, 0, whole=True)
        check_number("engines", engines, POSITIVE)
        self.capacity, self.engines = capacity, engines
        self._queue: list[Waiting[T]] = []
        self._running: dict[int, float] = {}  # seconds of work left, by number
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[T]:
        """What waits, the first to be served first."""
        return iter([w.item for w in sorted(self._queue)])

    @property
    def running(self) -> int:
        """How many have been taken and are not finished."""
        return len(self._running)

    def backlog_s(self, due_s: float = math.inf) -> float:
        """Seconds of work ahead of a request that is due then: what runs, and what waits and is due no later."""
        ahead = sum(self._running.values()) + sum(w.work_s for w in self._queue if w.due_s <= due_s)
        return ahead / self.engines

    def due_s(self, now_s: float, deadline_s: float | None) -> float:
        """When a request of now is due: without a deadline as if it had the longest that is waited."""
        return now_s + min(deadline_s or math.inf, PATIENCE_S)

    def ahead(self, due_s: float, rows: int) -> Ahead:
        """What a request finds that is due then, where an engine runs so many `rows` at once and batches stay as large as they are now."""
        places = rows * self.engines
        free = sorted([*self._running.values(), *[0.0] * max(0, places - len(self._running))])[-places:]
        heapq.heapify(free)
        for waiting in sorted(w for w in self._queue if w.due_s <= due_s):
            heapq.heapreplace(free, free[0] + waiting.work_s)
        with_it = len(self._running) + len(self._queue) + 1
        return Ahead(self.backlog_s(due_s), free[0], min(rows, math.ceil(with_it / self.engines)))

    def check_room(self, count: int, places: int) -> None:
        """See that `count` requests of now fit together, where the engines run `places` at once.

        Errors: InputError where so many never fit, BusyError where they do not now.
        """
        most = self.capacity + places
        if count > most:
            raise InputError(f"this server holds at most {most} requests at once, got {count}: ask for fewer")
        missing = self.running + len(self._queue) + count - most
        if not self.capacity or missing > 0:
            raise self._busy(missing)

    def _busy(self, missing: int = 1) -> BusyError:
        """`missing` places are needed; one is freed about as often as the work of one request is done."""
        waiting = len(self._queue)
        return BusyError(waiting, max(1.0, missing * self.backlog_s() / max(1, waiting)))

    def put(self, item: T, work_s: float, now_s: float, deadline_s: float | None = None) -> Waiting[T]:
        """Queue a request that came at `now_s`, to be finished `deadline_s` later. Errors: BusyError where the queue is full."""
        if len(self._queue) >= self.capacity:
            raise self._busy()
        place = Waiting(self.due_s(now_s, deadline_s), next(self._numbers), work_s, item)
        heapq.heappush(self._queue, place)
        return place

    def position(self, place: Waiting[T]) -> int:
        """How many requests are served before it."""
        return sum(w < place for w in self._queue)

    def take(self) -> Waiting[T] | None:
        """The next request to run, or None; `finish` says when it is over."""
        if not self._queue:
            return None
        place = heapq.heappop(self._queue)
        self._running[place.number] = place.work_s
        return place

    def worked(self, place: Waiting[T], left_s: float) -> None:
        """How much work of a running request is left."""
        if place.number in self._running:
            self._running[place.number] = left_s

    def again(self, place: Waiting[T]) -> None:
        """Put a request back whose engine was lost: it is as urgent as it was."""
        self.finish(place)
        heapq.heappush(self._queue, place)

    def finish(self, place: Waiting[T]) -> None:
        """A request is over, however it ended."""
        self._running.pop(place.number, None)

    def remove(self, unwanted: Callable[[T], bool]) -> None:
        """Take out what waits and is not wanted any more."""
        self._queue = [w for w in self._queue if not unwanted(w.item)]
        heapq.heapify(self._queue)
