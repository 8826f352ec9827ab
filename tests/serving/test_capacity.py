"""The capacity model beside what is known in closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.cli.main import main
from megen.cost import device_profile
from megen.errors import InputError
from megen.serving.capacity import Load, engines_for, forecast, simulate

SERVER = replace(
    device_profile.load("cpu"), text_s=0.0, merge_s=0.0, code_s=0.0, code_first_s=0.0, step_s=0.1, refine_s=0.0, spread=0.0, batch_fixed=0.0
)
PHONE = replace(device_profile.load("phone"), arrive_s=0.0, arrive_last_s=0.0, decode_s=0.2)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_row_of_one_step_is_the_md1_queue(busy: float) -> None:
    """Pollaczek and Khinchine: the mean wait is busy s / (2 (1 - busy))."""
    load = Load(3600 * busy / 0.1, 1.0, (1,))
    rng = np.random.default_rng(0)
    arrivals_s, steps = load.draw(200_000, rng)
    taken_s, measured, rows = simulate(arrivals_s, steps.tolist(), 1, 1, SERVER, rng)
    assert taken_s.mean() - 0.1 == pytest.approx(busy * 0.1 / (2 * (1 - busy)), rel=0.05)
    assert measured == pytest.approx(busy, rel=0.02)
    assert rows == 1


def test_a_lone_request_takes_its_stages() -> None:
    server = replace(SERVER, text_s=0.01, merge_s=0.02, code_s=0.03)
    taken_s, _, _ = simulate(np.array([5.0]), [4], 2, 8, server, np.random.default_rng(0))
    assert taken_s == pytest.approx([0.46])
    found = forecast(Load(1.0, 0.7, (4,), air_s=0.05), 1, server, PHONE, requests=100)
    assert found.p50_s == pytest.approx(0.71)
    assert found.late == 1
    streams = replace(server, code_first_s=0.01), replace(PHONE, arrive_s=0.04, arrive_last_s=0.03)
    found = forecast(Load(1.0, 0.7, (4,), air_s=0.05), 1, *streams, requests=100)
    assert found.p50_s == pytest.approx(0.71 + 0.04 - 0.02 - 0.01)  # what runs while parts cross


def test_on_shared_cores_the_next_step_waits_for_the_work_beside() -> None:
    server = replace(SERVER, text_s=0.01, merge_s=0.02, code_s=0.03)

    def taken(arrivals_s: list[float], rows: int, shared: bool = True) -> tuple[list[float], float]:
        steps = [1] * len(arrivals_s)
        found, busy, _ = simulate(np.array(arrivals_s, float), steps, 1, rows, server, np.random.default_rng(0), shared)
        return found.tolist(), busy

    assert taken([0, 0], 1)[0] == pytest.approx([0.16, 0.32])
    assert taken([0, 0], 1, shared=False)[0] == pytest.approx([0.16, 0.26])
    assert taken([0, 0.111], 1)[0] == pytest.approx([0.16, 0.32 - 0.111])  # it comes while the first is coded
    assert taken([0, 0, 0], 2)[0] == pytest.approx([0.16, 0.43, 0.48])  # two together, coded one after the other
    assert taken([0, 1.0], 1)[1] == pytest.approx(0.32)


def test_a_batch_takes_as_long_as_it_says() -> None:
    server = replace(SERVER, batch_fixed=0.5)
    taken_s, _, rows = simulate(np.zeros(4), [2, 2, 2, 2], 1, 3, server, np.random.default_rng(0))
    # the first runs alone for a step, is joined by two, leaves; the fourth joins when a row is free
    assert taken_s[0] == pytest.approx(0.1 + 0.2)
    assert taken_s[1:3] == pytest.approx([0.3 + 0.2] * 2)
    assert taken_s[3] == pytest.approx(0.5 + 0.1)
    assert rows == pytest.approx(8 / 4)


def test_bursts_have_the_variation_that_was_asked_for() -> None:
    for burst in (1.0, 4.0, 16.0):
        arrivals_s, _ = Load(3600.0, 1.0, burst=burst).draw(200_000, np.random.default_rng(1))
        gaps = np.diff(arrivals_s)
        assert gaps.mean() == pytest.approx(1.0, rel=0.03)
        assert gaps.var() / gaps.mean() ** 2 == pytest.approx(burst, rel=0.1)


def test_the_fewest_engines_that_are_enough() -> None:
    load = Load(100_000, 1.0, (1, 4), (0.5, 0.5))
    found = engines_for(load, 0.05, SERVER, PHONE, requests=5_000)
    assert found.late <= 0.05
    assert forecast(load, found.engines - 1, SERVER, PHONE, requests=5_000).late > 0.05
    saving = engines_for(load, 0.05, replace(SERVER, batch_fixed=0.4), PHONE, requests=5_000)
    assert saving.engines < found.engines
    with pytest.raises(InputError, match="late with 4096 engines"):
        engines_for(Load(10.0, 0.1), 0.05, SERVER, PHONE, requests=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_an_hour": 0},
        {"deadline_s": -1.0},
        {"burst": 0.5},
        {"air_s": -1.0},
        {"steps": (0,)},
        {"steps": (1, 2)},
        {"shares": (0.0,)},
        {"shares": (-1.0,)},
    ],
)
def test_a_load_checks_itself(wrong: dict) -> None:
    with pytest.raises(InputError):
        Load(**{"requests_an_hour": 10.0, "deadline_s": 1.0, **wrong})


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--requests-an-hour", "20000", "--requests", "5000", "--server", "cpu", "--steps", "1:0.2,4:0.8"]
    assert main(["capacity", *options]) == 0
    assert "engines:" in capsys.readouterr().out
    assert main(["capacity", *options, "--engines", "3", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["engines"] == 3
    for extra in (["--steps", "four"], ["--late", "2"], ["--engines", "0"], ["--requests", "1"], ["--rows", "0"], ["--burst", "0"]):
        assert main(["capacity", *options, *extra]) == 2
