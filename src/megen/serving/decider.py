"""Who decides steps, merging and quantiser of a request that leaves them open, and what is said of it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from megen.backbone import BackboneSpec
from megen.control.adaptive import Adaptive
from megen.control.controller import ALPHA, Controller
from megen.control.fit import Request
from megen.cost.energy import ES_W
from megen.errors import InputError
from megen.serving.scheduler import Ahead
from megen.types import Budget, ChannelState, Decision, Observation

CONTROLLERS = 64  # that are kept for machines of other speeds
GRAIN = 0.1  # the width of a class of speeds, in natural logarithms
SPREAD_GRAIN = 0.05  # and the spread of the server's seconds
NORMAL_DEVIATION = 1.4826  # standard over median deviation of a normal distribution
UNPROMISED = 0.05  # what a picture on time that was not promised narrows it, of what a promised one does
ALONE = Ahead()
RECENT, LEAST_RECENT = 32, 4  # finished requests that tell the server's speed
MISSED, MOST_MARGIN = 0.05, 1.0  # what one late picture adds to the margin of promises, relative to their seconds, and the most there is


@dataclass(frozen=True)
class Asked:
    """What a request gives of its decision and its limits."""

    prompt: str
    steps: int | None = None
    merge_ratio: float | None = None
    quantiser_bits: float | None = None
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Decided:
    """A decision, why, whether the request's limits are expected to be kept (None: it has none), the seconds expected, and the most
    that it takes but in one of twenty."""

    decision: Decision
    why: str
    fits: bool | None = None
    expected_s: float | None = None
    latest_s: float | None = None
    streams: bool = False  # whether parts cross while others are coded


class Decider:
    """Decides by a plan that follows the load (`Adaptive`); without one, and where it cannot decide, a fixed choice."""

    def __init__(self, spec: BackboneSpec, policy: Adaptive | None = None, why_fixed: str = "no policy") -> None:
        self.spec, self.policy, self.why_fixed = spec, policy, why_fixed
        self.default = spec.default
        self._of: Controller | None = None  # the plan's own, from which the known ones are made
        self._known: dict[tuple[int, ...], Controller] = {}  # by the grains of phone, server and spread, and the rows of a batch
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=RECENT)  # steps, rows and the seconds of finished requests
        self.margin = 0.0  # of promises, relative to their seconds, by which of the last ones were kept
        self._rest_s: deque[float] = deque(maxlen=RECENT)  # of latencies, beside what stages account for

    def decide(
        self, asked: Asked, channel: ChannelState, phase: int, decode_s: float | None, ahead: Ahead = ALONE, *, streams: bool = False
    ) -> Decided:
        """One request that finds so much `ahead`; `decode_s` is what the user equipment measured of itself. `streams`: parts are sent while
        others are coded.

        A plan for a run of requests goes by the engines' backlog. Limits of its own, and the seconds expected, are those of a row in a
        batch as large as it finds it.

        Errors: InputError on steps that the backbone does not offer, or a merge ratio that none has.
        """
        given: dict[str, Any] = {"steps": asked.steps, "merge_ratio": asked.merge_ratio, "quantiser_bits": asked.quantiser_bits}
        named = {name: value for name, value in given.items() if value is not None}
        fixed = self.spec.check(replace(self.default, **named))
        if self.policy is None:
            return Decided(fixed, "as asked" if named else f"fixed: {self.why_fixed}")
        controller = self._controller(decode_s, ahead.rows, streams)
        budget, wider = asked.budget, 1 + self.margin
        held = replace(budget, deadline_s=budget.deadline_s / wider) if budget.deadline_s is not None else budget
        wait_s = ahead.wait_s * ahead.rows + self._unaccounted_s()
        seen = Observation(channel, wait_s, arrival_phase=phase, prompt=asked.prompt, budget=held)
        decision, why = fixed, "as asked"
        if asked.steps is None:
            try:
                if budget == Budget():
                    plan = self._controller(decode_s, streams=streams)
                    found = replace(seen, backlog_s=ahead.backlog_s + self._unaccounted_s())
                else:
                    plan, found = controller, seen
                decision, why = plan.restricted(**given)(found), "by the plan"
            except InputError as error:  # no such choice was measured
                why = f"fixed: {error}"
        if decision not in controller.policy.decisions:
            return Decided(decision, why)
        expected_s = controller.expected_latency_s(seen)[decision]
        fits = controller.fits(seen, decision) if budget != Budget() else None
        said, latest_s = _said(why, fits, budget, expected_s), wider * controller.latest_s(seen, decision)
        return Decided(decision, said, fits, expected_s, latest_s, streams)

    def _controller(self, decode_s: float | None, rows: int = 1, streams: bool = False) -> Controller:
        """The plan's controller with the server's speed by its last requests in a batch of so many rows, and for a user equipment of its
        own speed.

        A plan that follows takes a hundred requests to notice; a request's own limits are held against what machines take now.
        """
        assert self.policy is not None
        controller = self.policy.planned.controller
        if controller is not self._of:
            self._of = controller
            self._known.clear()
        phone = 0 if decode_s is None else round(math.log(decode_s / max(controller.phone.ue_s(), 1e-9)) / GRAIN)
        grains = (phone, *self._server_grains(controller), rows, int(streams))
        if grains == (0, 0, 0, 1, 0):
            return controller
        if grains not in self._known:
            if len(self._known) >= CONTROLLERS:
                self._known.clear()
            ue = controller.phone.scaled(math.exp(grains[0] * GRAIN), controller.phone.spread, "measured by itself")
            spread = max(controller.server.spread, grains[2] * SPREAD_GRAIN)
            es = controller.server.scaled(math.exp(grains[1] * GRAIN), spread, "measured on its last requests")
            self._known[grains] = replace(controller, phone=ue, server=es, rows=rows, streams=streams)
        return self._known[grains]

    def _server_grains(self, controller: Controller) -> tuple[int, int]:
        """How many grains slower than its profile the server is by its last requests, and in grains the spread of its seconds around
        their median (by the median deviation: one stall does not count)."""
        if len(self._recent) < LEAST_RECENT:
            return 0, 0
        server = controller.server
        lone = np.array([steps * server.batch_step_s(rows) + server.batch_refine_s(rows) for steps, rows, _ in self._recent])
        ratios = np.array([taken_s for *_, taken_s in self._recent]) / np.maximum(lone, 1e-9)
        median = float(np.median(ratios))
        spread = NORMAL_DEVIATION * float(np.median(np.abs(ratios - median))) / median
        return round(math.log(median) / GRAIN), round(spread / SPREAD_GRAIN)

    def _unaccounted_s(self) -> float:
        """What no profile accounts for, by the last pictures' latencies: connecting, messages, waiting for a thread."""
        return max(0.0, float(np.median(self._rest_s))) if len(self._rest_s) >= LEAST_RECENT else 0.0

    def took(self, steps: int, rows: float, denoise_s: float) -> None:
        """The seconds of a finished request's steps, in batches of so many rows in the mean."""
        if 0 < denoise_s < math.inf:
            self._recent.append((steps, rows, denoise_s))

    @property
    def es_w(self) -> float:
        """The edge server's power while it works, assumed where no profile has it."""
        return ES_W if self.policy is None else self.policy.powers_w[0]

    def observe(self, request: Request) -> None:
        """Have the plan follow a finished request."""
        if self.policy is not None:
            self.policy.observe(request)

    def learn(self, decided: Decided, latency_s: float, stages_s: float, air_s: float = 0.0) -> None:
        """Hold a finished request against what was said of it; for `stages_s` it queued, was denoised and decoded, for `air_s` it crossed.

        Each promise whose picture took longer than it should at most widens the margin of promises, each other one narrows it: in the long
        run one in `1 / ALPHA` takes longer, while the margin is below `MOST_MARGIN` (adaptive conformal inference, Gibbs and Candes 2021).
        What was not promised narrows it `UNPROMISED` times as much where it took no longer: else a margin that promises nothing would stay.
        """
        if decided.latest_s is not None:
            longer = latency_s > decided.latest_s
            change = longer - ALPHA if decided.fits else -ALPHA * UNPROMISED * (not longer)
            self.margin = min(max(self.margin + MISSED * change, 0.0), MOST_MARGIN)
        controller = None if self.policy is None else self._controller(None, streams=decided.streams)
        beside_s = 0.0 if controller is None else controller.server.beside_s - float(controller.overlap_s(air_s))
        self._rest_s.append(latency_s - stages_s - air_s - beside_s)


def _said(why: str, fits: bool | None, budget: Budget, expected_s: float) -> str:
    """The reason with what is expected, and whether the limits are kept."""
    if fits is None:
        return f"{why}, expected {expected_s:.2f} s"
    limits = " and ".join(f"{value:g} {unit}" for value, unit in ((budget.deadline_s, "s"), (budget.energy_j, "J")) if value is not None)
    if fits:
        return f"{why}, to keep {limits}: expected {expected_s:.2f} s"
    return f"{why}; {limits} cannot be promised: expected {expected_s:.2f} s"
