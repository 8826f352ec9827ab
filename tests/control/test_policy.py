"""A policy's file, the shield's promise, and the aggregates of an report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.control import lp, policy, report, shield
from megen.control.cmdp import CMDP, evaluate
from megen.control.simulator import Simulator, sample
from megen.types import ChannelState, Decision, Observation


@pytest.fixture(scope="module")
def best(small: CMDP) -> lp.Optimum:
    return lp.solve(small)


def at(snr_db: float | None, backlog_s: float = 0.0, rate_bps: float = 0.0, prompt_class: int = 0, phase: int = 0) -> Observation:
    return Observation(ChannelState(snr_db, 1e6, rate_bps), backlog_s, prompt_class, phase)


def test_a_policy_comes_back_and_is_the_table(small: CMDP, best: lp.Optimum, tmp_path: Path) -> None:
    made = policy.policy_of(small, best.policy, {"algorithm": "lp"})
    policy.save(made, tmp_path / "p.npz")
    back = policy.load(tmp_path / "p.npz")
    assert back.decisions == small.decisions
    assert back.about["algorithm"] == "lp"
    np.testing.assert_allclose(policy.table_of(back, small), best.policy, atol=1e-6)
    table = best.policy.reshape(*small.shape, -1)
    np.testing.assert_allclose(back.probabilities(at(6.0, small.backlog_s[2], prompt_class=1)), table[1, 1, 0, 2], atol=1e-6)
    between = back.probabilities(at(100.0, (small.backlog_s[2] + small.backlog_s[3]) / 2, phase=1))
    np.testing.assert_allclose(between, (table[2, 0, 1, 2] + table[2, 0, 1, 3]) / 2, atol=1e-6)
    np.testing.assert_allclose(back.probabilities(at(-50, 1e9, prompt_class=9)), table[0, 1, 0, -1], atol=1e-6)
    with pytest.raises(policy.PolicyError, match="another CMDP"):
        policy.table_of(back, replace(small, deadline_s=1.0))


def test_a_plan_is_read_on_no_cmdp_of_other_decisions_or_cells(small: CMDP, best: lp.Optimum) -> None:
    planned = policy.of_table(small, best.policy, {"scenario": {}})
    np.testing.assert_array_equal(policy.table_of(planned, replace(small, deadline_s=1.0)), best.policy)
    for other in (
        replace(small, decisions=small.decisions[::-1]),
        replace(small, backlog_s=1.01 * small.backlog_s),
        replace(small, snr_db=small.snr_db + 1),
    ):
        with pytest.raises(policy.PolicyError, match="other states or decisions than the CMDP: plan again"):
            policy.table_of(planned, other)


def test_any_policy_is_asked_in_each_state(small: CMDP) -> None:
    def rule(observation: Observation) -> Decision:
        busy = observation.backlog_s > 0.2 and observation.arrival_phase == 0
        return small.decisions[0 if busy or (observation.channel.snr_db or 0) < 0 else 3]

    table = policy.asked(small, rule)
    shaped = table.reshape(*small.shape, -1)
    assert (table.sum(1) == 1).all()
    for c, p, f, w in np.ndindex(*small.shape):
        seen = at(float(small.snr_db[c]), float(small.backlog_s[w]), prompt_class=p, phase=f)
        assert shaped[c, p, f, w, small.decisions.index(rule(seen))] == 1
    assert evaluate(small, table).occupancy.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="the CMDP does not have Decision"):
        policy.asked(small, lambda observation: Decision(7, 0.1))


def test_decisions_are_drawn_with_the_policys_probabilities(small: CMDP) -> None:
    table = np.tile([0.1, 0.2, 0.3, 0.4], (small.states, 1))
    made, rng = policy.policy_of(small, table, {}), np.random.default_rng(0)
    drawn = [small.decisions.index(made.decide(at(0.0), rng)) for _ in range(800)]
    np.testing.assert_allclose(np.bincount(drawn) / 800, [0.1, 0.2, 0.3, 0.4], atol=0.06)


def test_a_measured_rate_stands_for_the_snr() -> None:
    assert policy.snr_db_of(ChannelState(None, 1e6, 1e6)) == pytest.approx(0.0)
    assert policy.snr_db_of(ChannelState(None, 1e6, 1e6 * np.log2(1 + 10**1.5))) == pytest.approx(15.0)
    assert np.isfinite(policy.snr_db_of(ChannelState(None, 1.0, 1e12)))
    with pytest.raises(ValueError, match="needs the link's SNR or its rate"):
        policy.snr_db_of(ChannelState(None, 1e6, 0.0))


def test_broken_policies_are_refused(small: CMDP, best: lp.Optimum, tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    with pytest.raises(policy.PolicyError, match="train one with megen control train"):
        policy.load(file)
    policy.save(policy.policy_of(small, best.policy, {}), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(policy.PolicyError, match="not a whole policy"):
        policy.load(file)
    made = policy.policy_of(small, best.policy, {})
    for change, why in (
        ({"snr_db": made.snr_db * np.nan}, "SNRs and backlogs must be finite and rise"),
        ({"backlog_s": made.backlog_s[::-1]}, "SNRs and backlogs must be finite and rise"),
        ({"snr_db": made.snr_db[:2]}, "has the shape"),
        ({"table": -made.table}, "must be probabilities"),
    ):
        with pytest.raises(policy.PolicyError, match=why):
            replace(made, **change)
        policy.save(made, file)
        with np.load(file) as kept:
            arrays = {**kept, **{name: value.astype(kept[name].dtype) for name, value in change.items()}}
        np.savez(file, **arrays)
        with pytest.raises(policy.PolicyError, match=why):
            policy.load(file)
    file.write_bytes(b"\x89PNG no policy")
    with pytest.raises(policy.PolicyError, match="no zip file"):
        policy.load(file)


def test_the_conformal_margin_covers_what_is_exchangeable() -> None:
    rng, missed = np.random.default_rng(0), []
    for _ in range(400):
        scores = rng.exponential(size=60)
        missed.append((rng.exponential(size=200) > shield.margin(scores, 0.1)).mean())
    assert np.mean(missed) == pytest.approx(0.1, abs=0.01)  # between alpha - 1/61 and alpha
    with pytest.raises(ValueError, match=r"alpha must lie in \[1/6, 1\) with 5 held-out requests, got 0.05"):
        shield.margin(np.ones(5), 0.05)
    with pytest.raises(ValueError, match="alpha must lie"):
        shield.margin(np.ones(5), 1.0)


def test_under_the_shield_hardly_a_request_is_late_that_need_not_be(small: CMDP) -> None:
    slow = np.tile(np.eye(small.actions)[2], (small.states, 1))  # four steps, no merging: late on a bad channel
    guard = shield.calibrate(small, 0.05)
    safe = shield.shielded(small, slow, guard)
    np.testing.assert_allclose(safe.sum(1), 1)
    passed = shield.allowed(small, guard)
    assert safe[passed.any(1)][~passed[passed.any(1)]].max() == 0
    simulator, rng = Simulator(small), np.random.default_rng(1)
    state, late, seen = simulator.start(2000, rng), 0.0, 0
    for _ in range(60):
        possible = passed[state].any(1)
        after, outcome = simulator.step(state, sample(safe, state, rng), rng)
        late, seen, state = late + float(outcome.costs[0][possible].sum()), seen + int(possible.sum()), after
    assert late / seen <= 0.05 + 0.01
    assert evaluate(small, safe).costs[0] < evaluate(small, slow).costs[0]


def test_the_coverage_is_what_a_simulation_finds(small: CMDP) -> None:
    """With alpha above a half, as the tests' airtimes have two values: half of the requests that pass are late somewhere."""
    slow = np.tile(np.eye(small.actions)[2], (small.states, 1))
    guard = shield.calibrate(small, 0.7)
    safe, passed = shield.shielded(small, slow, guard), shield.allowed(small, guard).any(1)
    on_time, reached = shield.coverage(small, safe, guard)
    assert on_time is not None
    assert on_time < 0.95
    simulator, rng = Simulator(small), np.random.default_rng(1)
    weight, late, seen = 1.0, 0.0, 0.0
    state = simulator.start(4000, rng)
    for _ in range(80):
        possible = passed[state]
        state, outcome = simulator.step(state, sample(safe, state, rng), rng)
        late, seen, weight = (
            late + weight * float(outcome.costs[0][possible].sum()),
            seen + weight * float(possible.sum()),
            weight * small.gamma,
        )
    assert on_time == pytest.approx(1 - late / seen, abs=0.01)
    assert reached == pytest.approx((1 - small.gamma) * seen / 4000, abs=0.01)
    hopeless = replace(small, deadline_s=0.01)
    assert shield.coverage(hopeless, safe, shield.calibrate(hopeless, 0.5)) == (None, 0.0)


def test_the_promise_is_for_single_services_where_the_tables_hold_only_their_means(small: CMDP) -> None:
    """Services with a tail that their two equiprobable values have lost: calibrated on some, kept on others."""
    raw = replace(small, deviation_s=np.random.default_rng(0).exponential(0.25, (2, *small.service_s.shape[:3], 800)) - 0.25)
    assert raw.digest == small.digest  # a policy of the one is one of the other
    slow = np.tile(np.eye(small.actions)[2], (small.states, 1))
    told = {}
    for process in (small, raw):
        guard = shield.calibrate(process, 0.05)
        told[process is raw] = shield.coverage(raw, shield.shielded(process, slow, guard), guard)[0]
    assert told[True] > 0.95 - 0.01 > 0.9 > told[False]
    kept = shield.within_margin(raw, shield.calibrate(raw, 0.05))
    np.testing.assert_allclose(kept, 0.95, atol=0.01)
    other = replace(raw, deviation_s=np.stack([raw.deviation_s[0], raw.deviation_s[1] + 9]))
    guard = shield.calibrate(other, 0.05)  # is tested on the half that it does not know
    assert (shield.within_margin(other, guard) == 0).all()
    assert shield.coverage(other, shield.shielded(other, slow, guard), guard)[0] == 0
    twice = replace(raw, service_s=2 * small.service_s)
    np.testing.assert_allclose(shield.calibrate(twice, 0.05).margin_s, shield.calibrate(raw, 0.05).margin_s)
    with pytest.raises(ValueError, match=r"deviation_s has the shape .*, expected \(2, 3, 2, 4\) and requests"):
        replace(raw, deviation_s=raw.deviation_s[:, :, :, :1])


def test_episodes_have_the_exact_means(small: CMDP, best: lp.Optimum) -> None:
    found = report.run_episodes(small, best.policy, 3000, 100, np.random.default_rng(0))
    assert found.reward.mean() == pytest.approx(best.reward, rel=0.01)
    np.testing.assert_allclose(found.costs.mean(1), best.costs, rtol=0.03)
    share = report.violation_rate(found, small.limits)
    assert ((share > 0.2) & (share < 0.8)).all()  # a policy at its limits


def test_aggregates_are_interquartile_means_with_an_interval() -> None:
    got = report.aggregate([0.0, 1.0, 2.0, 3.0, 100.0, 2.0, 1.5, 2.5])
    assert got.iqm == pytest.approx(np.mean([1.5, 2.0, 2.0, 2.5]))
    assert got.low < got.iqm < got.high < 100
    assert report.aggregate([2.0]) == report.Aggregate(2.0, None, None)
    with pytest.raises(ValueError, match="at least one seed"):
        report.aggregate([])


def test_regret_and_the_first_feasible_sample() -> None:
    costs, limits = np.array([[2.0, 1.0], [1.5, 0.5], [1.0, 1.0]]), np.array([1.0, 1.0])
    samples = np.array([1e6, 2e6, 3e6])
    np.testing.assert_allclose(report.regret(costs, limits, samples), [1.5, 0.0])
    assert report.samples_until_feasible(costs, limits, samples) == 2e6
    assert report.samples_until_feasible(costs[:2], limits, samples[:2]) == np.inf
    assert report.samples_until_feasible(costs[2:], limits, samples[2:]) == 0.0
