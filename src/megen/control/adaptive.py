"""A policy that plans again when the load, the channel or a machine is no longer what it was planned for.

A server hands every finished request to `observe`. Every `every` of them the means of the last `window` are held against what the
running plan assumes; where one has moved, arrivals and channel are fitted again, the profiles' seconds are scaled to what was measured,
and a new plan is worked out, beside the requests where an executor is given. It takes the old one's place at once and as a whole; a
request is decided by the one or the other. Limits that no policy keeps any more give way as little as they must, and `assumptions`
says so; where nothing can be fitted or planned, the last plan stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megen.control import fit, planner
from megen.control.controller import Controller
from megen.control.fit import PhaseFilter, Request
from megen.control.scenarios.scenario import Scenario
from megen.errors import InputError
from megen.types import Decision, Observation, check_number, check_type

Array = NDArray[np.float64]
WINDOW, EVERY = 1000, 100  # requests
BATCHES = 10
MOST_GAP, MOST_SECONDS, MOST_DB = 0.15, 0.05, 1.0  # how far a mean may move: of the gaps, of either machine's seconds, of the SNR


@dataclass(frozen=True)
class Planned:
    """A controller, and the scenario that its plan is for."""

    controller: Controller
    scenario: Scenario


class Mean(NamedTuple):
    """A mean, and its standard error by the means of `BATCHES` stretches of requests, which depend on each other little."""

    value: float
    error: float


@dataclass(frozen=True)
class Measured:
    """Means of some requests: the gap between them, the SNR that they found, and how many times its profile's seconds each machine took."""

    gap_s: Mean
    snr_db: Mean
    es_factor: Mean
    ue_factor: Mean
    es_spread: float
    ue_spread: float


class Adaptive:
    """A `Policy`: decides by the newest plan, learns of finished requests by `observe`.

    `executor` runs a plan beside the requests, in a thread of this process. Errors: InputError on a restricted controller, and on a window
    that nothing can be fitted to.
    """

    def __init__(
        self, controller: Controller, scenario: Scenario, *, executor: Executor | None = None, window: int = WINDOW, every: int = EVERY
    ) -> None:
        if controller.allowed is not None:
            raise InputError("a plan that follows chooses among all decisions: take a controller that is not restricted")
        check_number("window", window, fit.LEAST, whole=True)
        check_number("every", every, 1, whole=True)
        self.planned = Planned(controller, scenario)
        self._executor, self._every = executor, every
        self._recent: deque[Request] = deque(maxlen=window)
        self._seen, self._pending = 0, Future[None]()
        self._pending.set_result(None)
        self._phase = PhaseFilter(scenario.mean_gap_s, scenario.phase_stay)
        self.notes: deque[str] = deque(maxlen=20)  # what was found and done, newest last

    def __call__(self, observation: Observation) -> Decision:
        """Decide one request. Errors: InputError as `Controller`."""
        return self.planned.controller(observation)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the running plan takes for granted."""
        return self.planned.controller.assumptions

    @property
    def powers_w(self) -> tuple[float, float]:
        """Powers of both machines, by their profiles."""
        return self.planned.controller.powers_w

    def arrived(self, gap_s: float) -> int:
        """The arrival phase of a request that comes `gap_s` after the one before it: 0 in a burst, 1 between. Errors: InputError."""
        check_number("gap_s", gap_s, 0)
        return self._phase.update(gap_s)

    def observe(self, request: Request) -> None:
        """Take in a finished request, and plan again where something has moved. Errors: InputError on what is no request."""
        check_type("request", request, Request)
        self._recent.append(request)
        self._seen += 1
        if self._seen % self._every or len(self._recent) < fit.LEAST or not self._pending.done():
            return
        requests = sorted(self._recent, key=lambda r: r.arrival_s)
        moved = drifts(measured(requests, self.planned.controller), self.planned.scenario)
        if not moved:
            return
        if self._executor is None:
            self._plan(requests, moved)
        else:
            self._pending = self._executor.submit(self._plan, requests, moved)

    def _plan(self, requests: Sequence[Request], moved: str) -> None:
        try:
            planned = plan_for(requests, self.planned)
        except Exception as error:  # a server goes on with the plan that it has, whatever an optimiser makes of odd figures
            self.notes.append(f"{moved}: no new plan ({error}), the last one stays")
            return
        self.planned = planned
        self._phase = PhaseFilter(planned.scenario.mean_gap_s, planned.scenario.phase_stay, self._phase.burst)
        self.notes.append(f"{moved}: planned again")


def measured(requests: Sequence[Request], controller: Controller) -> Measured:
    """The means of requests in the order of their arrival, at least `2 * BATCHES` of them."""
    arrivals, snr, es_s, ue_s = (np.array([getattr(r, name) for r in requests]) for name in ("arrival_s", "snr_db", "es_s", "ue_s"))
    es = es_s / np.maximum([controller.server.es_s(r.steps) for r in requests], 1e-9)
    ue = ue_s / np.maximum([controller.phone.ue_s(r.decision) for r in requests], 1e-9)
    spreads = (float(x.std() / max(x.mean(), 1e-9)) for x in (es, ue))
    gap_s, snr_db, es_factor, ue_factor = map(_mean, (np.diff(arrivals), snr, es, ue))
    return Measured(gap_s, snr_db, es_factor, ue_factor, *spreads)


def _mean(values: Array) -> Mean:
    means = [part.mean() for part in np.array_split(values, BATCHES)]
    return Mean(float(values.mean()), float(np.std(means, ddof=1) / np.sqrt(BATCHES)))


def drifts(found: Measured, scenario: Scenario) -> str:
    """What has moved away from the scenario and the profiles, in words; empty where nothing has.

    A move counts where it is larger than what matters, and than twice its standard error.
    """
    leave = 1 - np.array(scenario.phase_stay)
    usual_s = float(leave[::-1] @ np.array(scenario.mean_gap_s) / max(leave.sum(), 1e-9))
    usual_db = scenario.snr_mean_db
    moves = (
        (found.gap_s, usual_s, MOST_GAP * usual_s, f"requests come every {found.gap_s.value:.3g} s instead of {usual_s:.3g}"),
        (found.snr_db, usual_db, MOST_DB, f"the SNR is {found.snr_db.value:.1f} dB instead of {usual_db:.1f}"),
        (found.es_factor, 1.0, MOST_SECONDS, f"the edge server takes {found.es_factor.value:.2f} times as long"),
        (found.ue_factor, 1.0, MOST_SECONDS, f"the phone takes {found.ue_factor.value:.2f} times as long"),
    )
    return ", ".join(said for mean, usual, least, said in moves if abs(mean.value - usual) > max(least, 2 * mean.error))


def plan_for(requests: Sequence[Request], last: Planned) -> Planned:
    """A new plan for what requests say, within the operator's limits of the last one.

    Errors: InputError where nothing can be fitted, RunError where no plan is found.
    """
    found, old = measured(requests, last.controller), last.controller
    load = fit.load_of(requests)
    fitted: dict[str, Any] = {k: getattr(load, k) for k in ("mean_gap_s", "phase_stay", "snr_mean_db", "snr_std_db", "snr_correlation")}
    scenario = replace(last.scenario, **fitted, budgets=load.budgets or last.scenario.budgets)
    source = f"measured on {len(requests)} requests"
    server = old.server.scaled(found.es_factor.value, found.es_spread, source)
    phone = old.phone.scaled(found.ue_factor.value, found.ue_spread, source)
    plan = planner.plan(scenario, old.grid, server, phone, relax=True)
    given_way = [f"no policy keeps the limit of {name} now: planned for {plan.limits[name]:.3g}" for name in plan.relaxed]
    return Planned(replace(old, policy=plan.policy, server=server, phone=phone, assumptions=tuple(given_way)), scenario)
