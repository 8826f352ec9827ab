"""How many engines a load needs: a simulation of batching by the step, from device profiles and an arrival law. Without torch.

Every engine takes the requests that are due first at the boundaries of its steps, as `LocalEngine` does; a step of b rows takes
s (f + (1 - f) b) seconds, with s a lone row's step and f the share of it that a batch pays once (`DeviceProfile.batch_fixed`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.cost.device_profile import DeviceProfile, overlap_s
from megen.errors import InputError
from megen.types import POSITIVE, check_number

Array = NDArray[np.float64]
MOST_ENGINES = 4096
MOST_REQUESTS = 10_000_000


@dataclass(frozen=True)
class Load:
    """Requests: how many an hour, how bursty, how many steps they take, and when they should be there.

    `burst` is the squared coefficient of variation of the gaps between them: 1 for independent requests, more in bursts. `air_s` is what
    a transmission takes in the mean. Errors: InputError on what cannot be.
    """

    requests_an_hour: float
    deadline_s: float
    steps: tuple[int, ...] = (4,)
    shares: tuple[float, ...] = (1.0,)  # of the step counts
    burst: float = 1.0
    air_s: float = 0.02

    def __post_init__(self) -> None:
        check_number("requests_an_hour", self.requests_an_hour, POSITIVE)
        check_number("deadline_s", self.deadline_s, POSITIVE)
        check_number("burst", self.burst, 1, 1e4)
        check_number("air_s", self.air_s, 0)
        if len(self.steps) != len(self.shares) or not self.steps:
            raise InputError(f"each of the steps {self.steps} needs its share, got {self.shares}")
        for steps, share in zip(self.steps, self.shares, strict=True):
            check_number("steps", steps, 1, whole=True)
            check_number("a share", share, 0)
        check_number("the sum of shares", sum(self.shares), POSITIVE)

    def draw(self, requests: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
        """Arrival times in s [n] and steps [n]. Gaps are of two rates, mixed so that their mean and `burst` are right."""
        mean_s = 3600 / self.requests_an_hour
        p = 0.5 * (1 + np.sqrt((self.burst - 1) / (self.burst + 1)))  # balanced means
        short = rng.random(requests) < p
        gaps = rng.exponential(1.0, requests) * np.where(short, mean_s / (2 * p), mean_s / (2 * (1 - p)) if p < 1 else 0.0)
        shares = np.array(self.shares) / sum(self.shares)
        return np.cumsum(gaps), rng.choice(np.array(self.steps), requests, p=shares)


@dataclass(frozen=True)
class Forecast:
    """What so many engines make of a load."""

    engines: int
    late: float  # share past the deadline
    p50_s: float
    p95_s: float
    busy: float  # share of the time that engines compute
    rows: float  # in a batch, in the mean


def simulate(
    arrivals_s: Array, steps: Sequence[int], engines: int, rows: int, server: DeviceProfile, rng: np.random.Generator, shared: bool = False
) -> tuple[Array, float, float]:
    """Seconds from each arrival to its code [n], the share of the time that engines compute, and the mean rows of a batch.

    Work beside the steps (text, merging, coding) runs on other cores: it delays its request and not the engine. `shared`: on the
    engine's own, one after the other, and its next step waits for it.
    """
    before_s, after_s = server.text_s, server.merge_s + server.code_s
    step_s = [server.batch_step_s(size) for size in range(rows + 1)]  # by the size of the batch
    spread = rng.lognormal(-0.5 * server.spread**2, server.spread, len(arrivals_s)) if server.spread else np.ones(len(arrivals_s))
    left, out = list(map(int, steps)), np.empty(len(arrivals_s))
    queue: list[int] = []  # numbers of requests: all have one deadline, so the first that came is due first
    idle = list(range(engines))
    batches: list[list[int]] = [[] for _ in range(engines)]
    boundaries: list[tuple[float, int]] = []  # when an engine's step ends
    ready = arrivals_s + (0.0 if shared else before_s)
    free_s = [0.0] * engines  # when an engine's cores have done the work beside its steps
    coming, head, busy_s, row_steps, step_count = 0, 0, 0.0, 0, 0

    def begin(engine: int, now_s: float) -> None:
        nonlocal head, busy_s, row_steps, step_count
        batch, joined = batches[engine], 0
        while len(batch) < rows and head < len(queue):
            batch.append(queue[head])
            head, joined = head + 1, joined + 1
        if not batch:
            idle.append(engine)
            return
        refined_s = server.batch_refine_s(sum(left[number] == 1 for number in batch))
        taken_s = (step_s[len(batch)] + refined_s) * spread[batch[0]] + (joined * before_s if shared else 0.0)
        busy_s, row_steps, step_count = busy_s + taken_s, row_steps + len(batch), step_count + 1
        heapq.heappush(boundaries, (max(now_s, free_s[engine]) + taken_s, engine))

    while coming < len(ready) or boundaries:
        if coming < len(ready) and (not boundaries or ready[coming] <= boundaries[0][0]):
            queue.append(coming)
            coming += 1
            if idle:
                begin(idle.pop(), float(ready[coming - 1]))
            continue
        now_s, engine = heapq.heappop(boundaries)
        stays, coded_s = [], now_s
        for number in batches[engine]:
            left[number] -= 1
            if left[number]:
                stays.append(number)
            else:
                coded_s = coded_s + after_s if shared else now_s + after_s
                out[number] = coded_s - arrivals_s[number]
        if shared:
            free_s[engine], busy_s = coded_s, busy_s + coded_s - now_s
        batches[engine] = stays
        begin(engine, now_s)
    return out, busy_s / (engines * max(float(arrivals_s[-1]), 1e-9)), row_steps / max(step_count, 1)


def forecast(
    load: Load,
    engines: int,
    server: DeviceProfile,
    phone: DeviceProfile,
    *,
    rows: int = 8,
    requests: int = 100_000,
    seed: int = 0,
    shared: bool = False,
) -> Forecast:
    """What so many engines make of a load, in a simulation of that many requests; the first tenth warms up. `shared` as `simulate`.

    Errors: InputError on numbers that cannot be.
    """
    check_number("engines", engines, 1, MOST_ENGINES, whole=True)
    check_number("rows", rows, 1, whole=True)
    check_number("requests", requests, 10, MOST_REQUESTS, whole=True)
    rng = np.random.default_rng(seed)
    arrivals_s, steps = load.draw(requests, rng)
    coded_s, busy, mean_rows = simulate(arrivals_s, steps.tolist(), engines, rows, server, rng, shared)
    total_s = (coded_s + load.air_s + phone.ue_s() - overlap_s(server, phone, load.air_s))[requests // 10 :]
    p50_s, p95_s = np.quantile(total_s, (0.5, 0.95))
    return Forecast(engines, float((total_s > load.deadline_s).mean()), float(p50_s), float(p95_s), min(busy, 1.0), mean_rows)


def engines_for(load: Load, late: float, server: DeviceProfile, phone: DeviceProfile, **options: Any) -> Forecast:
    """The fewest engines with at most that share of late pictures, by doubling and halving; the options are those of `forecast`.

    Errors: InputError where no number of engines is enough: a request alone takes longer than its deadline.
    """
    check_number("late", late, 0, 1)

    def tried(engines: int) -> Forecast:
        return forecast(load, engines, server, phone, **options)

    work_s = (server.step_s * float(np.average(load.steps, weights=load.shares)) + server.refine_s) * (1 - server.batch_fixed)
    high = max(1, int(load.requests_an_hour / 3600 * work_s))
    while (found := tried(high)).late > late:
        if high >= MOST_ENGINES:
            raise InputError(f"{found.late:.1%} are late with {high} engines too: allow more time or a larger share, or take fewer steps")
        high = min(2 * high, MOST_ENGINES)
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if (trial := tried(middle)).late <= late:
            high, found = middle, trial
        else:
            low = middle
    return found
