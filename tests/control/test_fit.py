"""A log of requests says again what it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.control import fit, planner
from megen.control.fit import PhaseFilter, Request
from megen.control.judge import Process, drawn_from, simulated_log
from megen.control.scenarios.scenario import long_run
from megen.cost import device_profile, quality_grid
from megen.errors import InputError

GRID = quality_grid.load()
SERVER, PHONE = (replace(device_profile.load(name), spread=0.05) for name in ("cpu", "phone"))
TRUTH = long_run()


@pytest.fixture(scope="module")
def log() -> list[Request]:
    plan = planner.plan(TRUTH, GRID, SERVER, PHONE)
    process = Process(TRUTH, GRID, SERVER, PHONE)
    return simulated_log(process, drawn_from(plan.policy, process), 3000, np.random.default_rng(5))


def test_the_load_and_the_seconds_are_recovered(log: list[Request], tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("".join(r.line() + "\n" for r in log))
    assert fit.read(file) == log
    found = fit.fit(log)
    np.testing.assert_allclose(found.scenario.mean_gap_s, TRUTH.mean_gap_s, rtol=0.1)
    np.testing.assert_allclose(found.scenario.phase_stay, TRUTH.phase_stay, rtol=0.1)
    assert found.scenario.snr_correlation == pytest.approx(TRUTH.snr_correlation, abs=0.03)
    server, phone = found.server(device_profile.load("cpu")), found.phone(device_profile.load("phone"))
    for n in (1, 12):
        assert server.es_s(n) == pytest.approx(SERVER.es_s(n), rel=0.03)
    assert phone.ue_s() == pytest.approx(PHONE.ue_s(), rel=0.02)
    assert server.spread == pytest.approx(0.05, abs=0.01)


def test_what_cleaning_takes_is_neither_the_machines_speed_nor_its_spread() -> None:
    cleaning = replace(PHONE, clean_s=0.3 * PHONE.decode_s, fine_bits=5.0, spread=0.02)
    plan = planner.plan(TRUTH, GRID, SERVER, cleaning)
    process = Process(TRUTH, GRID, SERVER, cleaning)
    requests = simulated_log(process, drawn_from(plan.policy, process), 1000, np.random.default_rng(5))
    assert len({cleaning.ue_s(r.decision) for r in requests}) == 2
    found = fit.fit(requests).phone(replace(cleaning.scaled(3.0, 0.5, "a test")))
    assert found.ue_s() == pytest.approx(cleaning.ue_s(), rel=0.005)
    assert found.clean_s == pytest.approx(cleaning.clean_s, rel=0.005)
    assert found.arrive_last_s / found.arrive_s == pytest.approx(cleaning.arrive_last_s / cleaning.arrive_s)
    assert found.spread == pytest.approx(0.02, abs=0.002)


def test_the_spread_of_few_requests_alike_is_not_smaller(log: list[Request]) -> None:
    rng = np.random.default_rng(0)
    few = [replace(r, merge_ratio=0.01 + 0.7 * rng.random(), ue_s=float(rng.normal(1.0, 0.3))) for r in log[:400]]
    assert fit.fit(few).ue_spread == pytest.approx(0.3, abs=0.03)


def test_deadlines_of_the_requests_become_budget_classes(log: list[Request]) -> None:
    own = [replace(r, deadline_s=0.5 if k % 4 else 2.0) for k, r in enumerate(log[:400])]
    classes = fit.fit(own).scenario.budgets
    assert [(b.deadline_s, b.share) for b in classes] == [(0.5, pytest.approx(0.75)), (2.0, pytest.approx(0.25))]
    many = [replace(r, deadline_s=0.4 + 0.01 * k) for k, r in enumerate(log[:300])]
    classes = fit.fit(many).scenario.budgets
    assert len(classes) == fit.MOST_BUDGETS
    assert classes[0].deadline_s == pytest.approx(0.4)  # at its shortest: none is planned for as later than it asks


def test_the_likelihood_is_the_forward_recursions() -> None:
    rng = np.random.default_rng(0)
    gaps, means, stay = rng.exponential(0.4, 37), np.array([0.2, 1.0]), np.array([0.9, 0.8])
    change = np.array([[stay[0], 1 - stay[0]], [1 - stay[1], stay[1]]])
    forward = np.array([1 - stay[1], 1 - stay[0]]) / (2 - stay.sum())
    for gap in gaps:
        forward = (forward * np.exp(-gap / means) / means) @ change
    assert fit.log_likelihood(gaps, means, stay) == pytest.approx(np.log(forward.sum()), abs=1e-9)


def test_short_gaps_mean_a_burst() -> None:
    phase = PhaseFilter((0.2, 1.0), (0.9, 0.8))
    assert [phase.update(0.05) for _ in range(4)][-1] == 0
    assert [phase.update(3.0) for _ in range(3)][-1] == 1
    assert 0 <= phase.burst <= 1


def test_what_is_no_log_is_refused_by_its_line(log: list[Request], tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(log[0].line() + "\n{}\n")
    with pytest.raises(InputError, match="line 2 is no request"):
        fit.read(file)
    file.write_text(log[0].line().replace('"snr_db": ', '"snr_db": NaN, "x": '))
    with pytest.raises(InputError, match="snr_db must be a finite number"):
        fit.read(file)
    with pytest.raises(InputError, match="at least 200 requests, got 3"):
        fit.fit(log[:3])
    with pytest.raises(InputError, match="arrivals must rise"):
        fit.fit([*log[10:300], log[0]])
    with pytest.raises(InputError, match="two step counts"):
        fit.fit([replace(r, steps=4) for r in log[:300]])
