"""A plan follows the load, the channel and the machines that requests meet."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from megen.control import fit, planner
from megen.control.adaptive import Adaptive, Planned, drifts, measured
from megen.control.controller import Controller
from megen.control.fit import Request
from megen.control.judge import Process, drawn_from, simulated_log
from megen.control.scenarios.scenario import Scenario, long_run
from megen.cost import device_profile, quality_grid
from megen.errors import InputError
from megen.types import Budget, ChannelState, Observation

GRID = quality_grid.load()
SERVER, PHONE = device_profile.load("cpu"), device_profile.load("phone")


@pytest.fixture(scope="module")
def usual() -> Controller:
    return Controller(planner.plan(long_run(), GRID, SERVER, PHONE).policy, GRID, SERVER, PHONE)


def log(usual: Controller, scenario: Scenario, count: int = 600, slower: float = 1.0) -> list[Request]:
    process = Process(scenario, GRID, SERVER.scaled(slower, 0.0, "test"), PHONE)
    return simulated_log(process, drawn_from(usual.policy, process), count, np.random.default_rng(3))


def fed(usual: Controller, requests: list[Request], executor: Executor | None = None) -> Adaptive:
    adaptive = Adaptive(usual, long_run(), executor=executor, window=600, every=600)
    for request in requests:
        adaptive.observe(request)
    return adaptive


def test_what_was_planned_for_is_not_planned_again(usual: Controller) -> None:
    requests = log(usual, long_run())
    assert drifts(measured(requests, usual), long_run()) == ""
    adaptive = fed(usual, requests)
    assert adaptive.planned == Planned(usual, long_run())
    assert not adaptive.notes


def test_a_higher_load_and_a_slower_server_are_planned_for(usual: Controller) -> None:
    busy = long_run(mean_gap_s=(0.12, 0.6))
    adaptive = fed(usual, log(usual, busy, slower=1.5))
    now = adaptive.planned
    assert now.controller.server.es_s(1) == pytest.approx(1.5 * SERVER.es_s(1), rel=0.02)
    assert now.scenario.mean_gap_s[0] == pytest.approx(0.12, rel=0.2)
    assert now.scenario.limits == long_run().limits  # the operator's
    assert "requests come every" in adaptive.notes[0]
    assert "the edge server takes 1.50 times as long: planned again" in adaptive.notes[0]
    observation = Observation(ChannelState(6.0, 1e6), 0.4, arrival_phase=0)
    assert adaptive(observation) == now.controller(observation)
    assert adaptive.powers_w == (SERVER.power_w, PHONE.power_w)


def test_a_load_that_no_policy_can_serve_in_time_is_served_as_well_as_can_be_and_says_so(usual: Controller) -> None:
    adaptive = fed(usual, log(usual, long_run(), slower=5.0))
    assert any("no policy keeps the limit of late now" in line for line in adaptive.assumptions)


class Later(Executor):
    """Runs what it is given when asked to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Any, Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, fn, args))
        return future

    def run(self) -> None:
        for future, fn, args in self.jobs:
            future.set_result(fn(*args))


def test_requests_are_decided_by_the_last_plan_until_the_new_one_is_whole(usual: Controller) -> None:
    executor = Later()
    adaptive = Adaptive(usual, long_run(), executor=executor, window=400, every=100)
    for request in log(usual, long_run(snr_mean_db=1.0), 500, slower=1.5):
        adaptive.observe(request)
    assert len(executor.jobs) == 1  # one at a time
    assert adaptive.planned.controller is usual
    executor.run()
    assert adaptive.planned.controller is not usual
    assert adaptive.planned.controller.server.es_s(1) == pytest.approx(1.5 * SERVER.es_s(1), rel=0.02)


def test_what_cannot_be_fitted_leaves_the_last_plan(usual: Controller) -> None:
    requests = [replace(r, arrival_s=0.0, snr_db=30.0) for r in log(usual, long_run())]
    adaptive = fed(usual, requests)
    assert adaptive.planned.controller is usual
    assert "no new plan (all requests came at the same time" in adaptive.notes[0]
    assert adaptive(Observation(ChannelState(6.0, 1e6), 0.0, budget=Budget(deadline_s=1.0))).steps >= 1


def test_what_could_never_follow_is_refused(usual: Controller) -> None:
    with pytest.raises(InputError, match="not restricted"):
        Adaptive(usual.restricted(steps=1), long_run())
    with pytest.raises(InputError, match="window must be a whole number of at least 200, got 150"):
        Adaptive(usual, long_run(), window=150)


def test_budgets_that_requests_bring_become_classes(usual: Controller) -> None:
    requests = [replace(r, deadline_s=0.5 if k % 2 else 2.0) for k, r in enumerate(log(usual, long_run(snr_mean_db=2.0)))]
    budgets = fed(usual, requests).planned.scenario.budgets
    assert [b.deadline_s for b in budgets] == [0.5, 2.0]
    assert len(fit.load_of(requests).budgets) == 2


def test_the_phase_follows_the_gaps(usual: Controller) -> None:
    adaptive = Adaptive(usual, long_run())
    assert [adaptive.arrived(0.03) for _ in range(4)][-1] == 0
    assert [adaptive.arrived(3.0) for _ in range(3)][-1] == 1
    for gap_s in (float("nan"), -1.0):
        with pytest.raises(InputError, match="gap_s must be a number of at least 0"):
            adaptive.arrived(gap_s)
    assert adaptive.arrived(3.0) == 1


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_request_is_refused_when_it_is_observed(usual: Controller) -> None:
    with pytest.raises(InputError, match="request must be a Request, got 'x'"):
        Adaptive(usual, long_run()).observe("x")  # type: ignore[arg-type]
