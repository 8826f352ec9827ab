"""Decisions of a server: by the plan, by the request, by a fixed choice that says why; and the goodput they go by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.backbone import BackboneSpec
from megen.codec import FeatureCodec
from megen.control.adaptive import Adaptive
from megen.control.controller import ALPHA, Controller
from megen.control.fit import Request
from megen.control.scenarios.scenario import assumed_for, long_run
from megen.cost import device_profile, quality_grid
from megen.errors import InputError
from megen.halves import Transmitter
from megen.serving import server
from megen.serving.decider import MOST_MARGIN, Asked, Decider
from megen.serving.goodput import KEPT_CONNECTIONS, PRIOR_BPS, GoodputEstimate, Goodputs
from megen.serving.scheduler import Ahead
from megen.types import Budget, ChannelState, Decision, Observation

from ..conftest import make_tiny

STEPS = (1, 2, 4, 8, 12)
TIMES = {n: tuple(k / n for k in range(n + 1)) for n in STEPS}
SPEC = BackboneSpec("scenes", (32, 32, 32), (1024, 1024), TIMES, (0.0, 0.25, 0.5, 0.75), 64)
FAST, SLOW = ChannelState(None, 0.0, 5e6), ChannelState(None, 0.0, 1e5)
PROMPT = "a castle at dawn, fog"


@pytest.fixture(scope="module")
def decider() -> Decider:
    scenario = long_run()
    return Decider(SPEC, Adaptive(Controller.load(server="cpu", phone="phone", scenario=scenario), scenario))


def test_the_plan_keeps_a_deadline_or_says_that_it_cannot(decider: Decider) -> None:
    generous = decider.decide(Asked(PROMPT, budget=Budget(3.0)), FAST, 1, None)
    assert generous.fits
    assert "to keep 3 s" in generous.why
    assert generous.expected_s is not None
    assert generous.expected_s < 3
    hopeless = decider.decide(Asked(PROMPT, budget=Budget(0.01)), SLOW, 1, None)
    assert hopeless.fits is False
    assert "cannot be promised" in hopeless.why
    assert hopeless.decision.steps == 1


def test_more_time_is_never_a_worse_picture_nor_fewer_steps_of_as_fine_a_payload(decider: Decider) -> None:
    assert decider.policy is not None
    controller = decider.policy.planned.controller
    for channel in (FAST, SLOW):
        chosen = []
        for deadline_s in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.5, 2, 4):
            decision = decider.decide(Asked(PROMPT, budget=Budget(deadline_s)), channel, 1, None).decision
            seen = Observation(channel, arrival_phase=1, prompt=PROMPT)
            quality = controller.quality(seen, decision)
            chosen.append((quality, decision.quantiser_bits, decision.steps))
        assert [c[0] for c in chosen] == sorted(c[0] for c in chosen)
        assert [c[1:] for c in chosen] == sorted(c[1:] for c in chosen)  # the link's share first, then steps
        assert chosen[-1][0] == max(controller.quality(seen, decision) for decision in controller.grid.decisions)  # all that can be had
        assert chosen[-1][1] == 5.0


def test_a_backlog_and_a_slow_phone_cost_time(decider: Decider) -> None:
    asked = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0, budget=Budget(1.0))
    alone = decider.decide(asked, FAST, 1, None)
    behind = decider.decide(asked, FAST, 1, None, Ahead(0.5, 0.5))
    slow = decider.decide(asked, FAST, 1, 2.0)
    assert alone.expected_s is not None
    assert behind.expected_s == pytest.approx(alone.expected_s + 0.5)
    assert slow.expected_s is not None
    assert slow.expected_s > 1.8
    assert (alone.fits, slow.fits) == (True, False)


def test_limits_are_held_against_what_the_server_takes_now(decider: Decider) -> None:
    """Four finished requests are enough, long before the plan itself follows; a batch is not taken for a faster machine."""
    assert decider.policy is not None
    es = replace(decider.policy.planned.controller.server, batch_fixed=0.4)
    controller = replace(decider.policy.planned.controller, server=es)
    policy = Adaptive(controller, decider.policy.planned.scenario)

    def steps_after(*factors: float, rows: float = 1.0, deadline_s: float = 1.0) -> int:
        now = Decider(SPEC, policy)
        for factor in factors:
            now.took(4, rows, factor * (4 * es.step_s + es.refine_s) * (0.4 + 0.6 * rows))
        return now.decide(Asked(PROMPT, budget=Budget(deadline_s)), FAST, 1, None).decision.steps

    usual = steps_after()
    assert steps_after(12, 12, 12) == usual  # too few to tell
    assert steps_after(12, 12, 12, 12) < usual
    assert steps_after(1, 1, 1, 1) == steps_after(1, 1, 1, 1, rows=8.0) == usual
    assert steps_after(1, 1, 1, 1, 5) == usual  # one stall
    assert steps_after(0.1, 0.2, 1, 1.8, 1.9, deadline_s=0.6) < steps_after(deadline_s=0.6)  # unsteady
    now = Decider(SPEC, policy)
    for nonsense in (0.0, float("inf"), float("nan")):
        now.took(4, 1.0, nonsense)
    assert not now._recent


def test_what_no_stage_accounts_for_is_added(decider: Decider) -> None:
    assert decider.policy is not None
    now = Decider(SPEC, Adaptive(decider.policy.planned.controller, decider.policy.planned.scenario))
    asked = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0)
    before_s = now.decide(asked, FAST, 1, None).expected_s
    beside_s = decider.policy.planned.controller.server.beside_s
    assert before_s is not None
    for rest_s in (0.2, 0.2, 9.0, 0.2):  # one connection that was slow to open
        now.learn(now.decide(asked, FAST, 1, None), 0.61 + beside_s + rest_s, 0.61)
    assert now.decide(asked, FAST, 1, None).expected_s == pytest.approx(before_s + 0.2)


@pytest.mark.parametrize("air_s", [0.0, 0.01, 0.2])
def test_a_streamed_request_as_the_profiles_say_leaves_nothing_unaccounted(decider: Decider, air_s: float) -> None:
    """Whatever the link: the user equipment says all of its work, also what it did while parts crossed."""
    assert decider.policy is not None
    controller = decider.policy.planned.controller
    now = Decider(SPEC, Adaptive(controller, decider.policy.planned.scenario))
    decided = now.decide(Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0), FAST, 1, None, streams=True)
    es, ue = controller.server, controller.phone
    work_s, overlap_s = es.es_s(4) + ue.ue_s(), float(device_profile.overlap_s(es, ue, air_s))
    for _ in range(40):
        now.learn(decided, work_s + air_s - overlap_s, 4 * es.step_s + es.refine_s + ue.ue_s(), air_s)
    assert now._unaccounted_s() == pytest.approx(0.0, abs=1e-9)


def test_parts_that_stream_are_there_sooner(decider: Decider) -> None:
    asked = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0)
    slow = replace(FAST, rate_bps=4e5)
    whole, streams = (decider.decide(asked, slow, 1, None, streams=streams) for streams in (False, True))
    assert whole.expected_s is not None
    assert streams.expected_s is not None
    assert decider.policy is not None
    machines = decider.policy.planned.controller
    beside_s = machines.server.code_beside_s + machines.phone.arrive_beside_s
    assert beside_s > 0.01
    assert whole.expected_s - streams.expected_s == pytest.approx(beside_s)
    assert (whole.streams, streams.streams) == (False, True)


def test_a_new_plan_takes_the_place_of_what_was_made_from_the_last(decider: Decider) -> None:
    assert decider.policy is not None
    policy = Adaptive(decider.policy.planned.controller, decider.policy.planned.scenario)
    now = Decider(SPEC, policy)
    asked = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0)
    before_s = now.decide(asked, FAST, 1, 1.0).expected_s
    slower = policy.planned.controller.server.scaled(3.0, 0.0, "a test")
    policy.planned = replace(policy.planned, controller=replace(policy.planned.controller, server=slower))
    after_s = now.decide(asked, FAST, 1, 1.0).expected_s
    assert before_s is not None
    assert after_s is not None
    assert after_s > before_s + slower.es_s(4) / 2


def test_limits_of_a_request_that_shares_a_batch_are_held_against_the_batchs_seconds(decider: Decider) -> None:
    assert decider.policy is not None
    es = decider.policy.planned.controller.server
    asked = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0)

    def expected_s(ahead: Ahead) -> float:
        found = decider.decide(asked, FAST, 1, None, ahead).expected_s
        assert found is not None
        return found

    batch = es.batch_fixed + (1 - es.batch_fixed) * 5
    assert expected_s(Ahead(0.0, 0.0, 5)) - expected_s(Ahead()) == pytest.approx((4 * es.step_s + es.refine_s) * (batch - 1))
    assert expected_s(Ahead(1.0, 0.0, 5)) == expected_s(Ahead(0.0, 0.0, 5))  # what runs beside it does not run before it
    assert expected_s(Ahead(1.0, 0.1, 5)) - expected_s(Ahead(1.0, 0.0, 5)) == pytest.approx(0.5)
    tight = replace(asked, steps=None, budget=Budget(0.6))
    assert decider.decide(tight, FAST, 1, None, Ahead(0.0, 0.0, 8)).decision.steps < decider.decide(tight, FAST, 1, None).decision.steps
    quiet, busy = (replace(asked, steps=None), Ahead(3.0, 0.0, 2))  # a plan for a run of requests goes by the work ahead
    assert decider.decide(quiet, FAST, 1, None, busy).decision.steps < decider.decide(quiet, FAST, 1, None).decision.steps


def test_a_batch_costs_time_and_no_energy(decider: Decider) -> None:
    asked = Asked(PROMPT, budget=Budget(energy_j=9.0))
    alone, crowded = (decider.decide(asked, FAST, 1, None, Ahead(0.0, 0.0, rows)).decision for rows in (1, 8))
    assert crowded.steps >= alone.steps
    assert decider.policy is not None
    es = decider.policy.planned.controller.server
    assert es.es_share_s(4) == es.es_s(4) == es.es_s(4, 1)
    assert es.es_share_s(4, 8) < es.es_s(4) < es.es_s(4, 8)


def test_what_is_asked_for_is_done(decider: Decider) -> None:
    assert decider.decide(Asked(PROMPT, steps=8, merge_ratio=0.3), FAST, 1, None).decision == Decision(8, 0.3)
    assert decider.decide(Asked(PROMPT, merge_ratio=0.5), FAST, 1, None).decision.merge_ratio == 0.5
    unmeasured = decider.decide(Asked(PROMPT, merge_ratio=0.3), FAST, 1, None)
    assert unmeasured.decision == Decision(4, 0.3)
    assert unmeasured.why.startswith("fixed: the policy knows no such choice")
    with pytest.raises(InputError, match="steps must be one of"):
        decider.decide(Asked(PROMPT, steps=3), FAST, 1, None)


def test_without_a_policy_the_choice_is_fixed_and_says_why() -> None:
    fixed = Decider(SPEC, why_fixed="the file is broken")
    assert fixed.decide(Asked(PROMPT), FAST, 1, None).why == "fixed: the file is broken"
    assert fixed.decide(Asked(PROMPT), FAST, 1, None).decision == Decision(4)
    assert Decider(replace(SPEC, times={2: TIMES[2]})).default == Decision(2)


def test_finished_requests_are_learned_from(decider: Decider) -> None:
    decider.observe(Request(0.0, 5.0, 4, 0.0, 0.2, 0.05, 0.2))
    assert decider.policy is not None
    assert len(decider.policy._recent) == 1


def test_a_rate_alone_counts_as_the_grids_goodput() -> None:
    """At the goodput of an SNR of the grid, airtimes are as at that SNR; at half of it, twice as long."""
    controller = Controller.load(server="cpu", phone="phone")
    decision = controller.policy.decisions[0]

    def expected_s(channel: ChannelState) -> float:
        return controller.expected_latency_s(Observation(channel, prompt=PROMPT))[decision]

    still_s = expected_s(ChannelState(None, 0.0, 1e12))
    for k, rate_bps in enumerate(controller._goodput_bps):
        by_snr = expected_s(ChannelState(float(controller.grid.snr_db[k]), 1e6)) - still_s
        by_rate = expected_s(ChannelState(None, 0.0, float(rate_bps))) - still_s
        half = expected_s(ChannelState(None, 0.0, float(rate_bps) / 2)) - still_s
        assert by_rate == pytest.approx(by_snr, rel=1e-6)
        assert half == pytest.approx(2 * by_rate, rel=0.35)  # of the nearest SNR's codings


def test_goodput_follows_what_arrives() -> None:
    estimate = GoodputEstimate(2e6)
    assert estimate.bps == 2e6
    for _ in range(20):
        estimate.observe(5000, 8 * 5000 / 3e5)
    assert estimate.bps == pytest.approx(3e5, rel=0.01)
    estimate.observe(50_000, 8 * 50_000 / 5e6)
    assert estimate.bps > 2e6
    with pytest.raises(InputError):
        GoodputEstimate(0.0)


def test_a_connection_begins_with_the_last_rate_of_its_address() -> None:
    kept = Goodputs()
    slow = kept.begin(("", "10.0.0.5"))
    assert slow.bps == pytest.approx(PRIOR_BPS)
    slow.observe(40_000, 8 * 40_000 / 3e5)
    kept.end(("", "10.0.0.5"), slow)
    assert kept.begin(("", "10.0.0.5")).bps == pytest.approx(slow.bps) == pytest.approx(3e5, rel=0.05)
    assert kept.begin(("", "10.0.0.6")).bps == pytest.approx(PRIOR_BPS)
    for number in range(KEPT_CONNECTIONS):
        kept.end(("", f"host-{number}"), GoodputEstimate())
    assert kept.begin(("", "10.0.0.5")).bps == pytest.approx(PRIOR_BPS)  # the oldest are forgotten


def test_a_policy_that_cannot_be_read_is_said_and_the_server_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = make_tiny()
    transmitter = Transmitter(backbone, FeatureCodec(None, 1, backbone.config.grid))
    broken = tmp_path / "policy.npz"
    broken.write_bytes(b"no policy")
    for policy, said in ((str(tmp_path / "nowhere"), "nowhere"), (str(broken), "policy.npz"), ("cvpo", "other weights")):
        made = server.decider(server.Options(policy=policy), transmitter, "other weights")
        assert made.policy is None
        assert said in made.why_fixed
    assert "fixed decisions" in caplog.text


def test_a_slow_machine_is_not_planned_for_a_fast_ones_load() -> None:
    """A machine ten times as slow gets a tenth of the requests, and ten times as long for each: the same choices fit."""
    grid, server_profile, phone = quality_grid.load(), device_profile.load("cpu"), device_profile.load("phone")
    assert assumed_for(grid, server_profile, phone) == long_run()
    assert assumed_for(grid, server_profile.scaled(0.1, 0.0, "a test"), phone) == long_run()  # nor a fast one for more
    assumed = assumed_for(grid, *(profile.scaled(10.0, 0.0, "a test") for profile in (server_profile, phone)))
    assert assumed.deadline_s == pytest.approx(7.0)
    assert assumed.mean_gap_s == pytest.approx((2.0, 10.0))
    assert assumed.late_limit == 0.05
    assert assumed.tardiness_limit_s == pytest.approx(0.075)
    with pytest.raises(InputError, match="factor"):
        long_run().slowed(0.0)


def test_promises_that_were_not_kept_widen_their_margin_and_kept_ones_narrow_it(decider: Decider) -> None:
    assert decider.policy is not None
    now = Decider(SPEC, Adaptive(decider.policy.planned.controller, decider.policy.planned.scenario))
    asked = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0)
    first = now.decide(asked, FAST, 1, None)
    assert first.expected_s is not None
    assert first.latest_s is not None
    assert first.expected_s < first.latest_s
    tight = replace(asked, budget=Budget(1.01 * first.latest_s))
    assert now.decide(tight, FAST, 1, None).fits

    def takes(latency_s: float, fits: bool | None = True) -> None:
        now.learn(replace(first, fits=fits), latency_s, latency_s)

    takes(1.2 * first.latest_s)
    late = now.decide(tight, FAST, 1, None)
    assert late.fits is False
    assert late.expected_s == pytest.approx(first.expected_s)
    assert late.latest_s == pytest.approx(first.latest_s * (1 + now.margin))
    for _ in range(20):
        takes(first.expected_s)
    assert now.decide(tight, FAST, 1, None).fits
    for _ in range(500):  # overloaded for long
        takes(9.0)
    assert now.margin == MOST_MARGIN
    for fits in (False, None):  # no promise that was not kept
        takes(9.0, fits)
    assert now.margin == MOST_MARGIN
    for _ in range(9_000):  # a margin with which nothing is promised does not stay
        takes(first.expected_s, fits=False)
    assert now.margin < 0.1


def test_no_more_are_late_in_the_long_run_than_promised_whatever_the_machines_do(decider: Decider) -> None:
    assert decider.policy is not None
    now, rng = Decider(SPEC, Adaptive(decider.policy.planned.controller, decider.policy.planned.scenario)), np.random.default_rng(0)
    asked, late = Asked(PROMPT, steps=4, merge_ratio=0.0, quantiser_bits=5.0), []
    for k in range(2000):
        decided = now.decide(asked, FAST, 1, None)
        latest_s = decided.latest_s
        assert latest_s is not None
        latency_s = latest_s / (1 + now.margin) * rng.normal(1.1 if 500 < k < 1200 else 0.97, 0.05)  # slower for a while
        late.append(latency_s > latest_s)
        now.learn(replace(decided, fits=True), latency_s, latency_s)
    assert np.mean(late) <= ALPHA + 0.01
    assert np.mean(late[600:1200]) <= ALPHA + 0.02
