"""The source system's figures: its own numbers exactly, and where its saving comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.paper import as_released, claim, control
from megen.control import lp
from megen.control.scenarios.reference import reference_cmdp

ROOT = Path(__file__).parents[1]


def test_its_payloads_are_its_own() -> None:
    assert [round(mbit, 3) for mbit in as_released.payloads_mbit().values()] == [1.049, 0.950, 0.557, 0.311]


def test_its_latency_table_is_its_own() -> None:
    table = list(as_released.latency_table_s().values())
    assert [round(table[0], 2), *(round(seconds, 3) for seconds in table[1:])] == [60.47, 1.260, 1.142, 0.669, 0.374]


def test_its_rates_are_its_own_and_its_tables_rate_is_not_among_them() -> None:
    rates = as_released.rates()
    assert [round(rates[name], 1) for name in ("snr_db_most", "snr_db_least")] == [2.2, -4.4]
    assert round(rates["rate_mbps_mean"], 2) == 0.83
    assert rates["rate_mbps_most"] < as_released.TABLE_RATE_BPS / 1e6


def test_costs_are_lines_in_steps() -> None:
    costs = as_released.costs_by_steps()
    slope, level = costs["lines"]["tflop"]
    assert slope == pytest.approx(13.52)
    assert level == pytest.approx(0, abs=1e-9)
    assert costs["tflop"] == pytest.approx([13.52 * n for n in costs["steps"]])


def test_its_decisions_change_no_later_state() -> None:
    assert control.no_consequences() == 0


def test_the_optimum_is_no_worse_than_any_single_decision_that_keeps_the_limits() -> None:
    cmdp = reference_cmdp(None, 2.0, 400.0)
    point = control._point(30.0, cmdp)
    assert point["optimum"]["reward"] >= point["best_single"]["reward"]
    assert all(cost <= limit * (1 + 1e-6) for cost, limit in zip(point["optimum"]["costs"], cmdp.limits, strict=True))
    richer = control._point(33.0, reference_cmdp(None, 2.0, 400.0, power_dbm=33.0))
    assert richer["optimum"]["reward"] > point["optimum"]["reward"]
    assert "no policy keeps the limits" in control._point(15.0, reference_cmdp(None, 2.0, 400.0, power_dbm=15.0))["infeasible"]
    assert lp.solve(cmdp).reward == pytest.approx(point["optimum"]["reward"], rel=1e-4)


def test_nearly_all_of_the_saving_over_raw_pixels_is_the_file() -> None:
    seconds = [row["s"] for row in claim.decomposed()]
    raw, file, split, merged, fewer, file_fewer = seconds[:6]
    assert raw == pytest.approx(69.4, abs=0.1)
    assert (raw - file) / (raw - merged) > 0.99
    assert split > file  # at equal steps the plain split is slower than a file
    assert merged > file
    assert fewer > file_fewer  # a server can take fewer steps and send a file, too


def test_the_map_names_the_fastest() -> None:
    model = claim.MODELS[1]
    found = claim.winners(model)
    for i, ue_tflops in enumerate(claim.UE_TFLOPS):
        for j, rate_bps in enumerate(claim.RATES_BPS):
            ways = claim.ways(model, rate_bps, ue_tflops, model.file_bits[1])
            assert ways[found["most_file"]["winner"][i][j]] == min(ways.values())
    even = found["break_even_ue_tflops"]["light decoder"]
    ways = claim.ways(model, claim.shannon_bps(), even, model.file_bits[1])
    assert ways["split, light decoder"] == pytest.approx(ways["file"])


@pytest.mark.slow
def test_all_parts_run_at_their_smallest(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "WORK": str(tmp_path)}
    subprocess.run([ROOT / "experiments" / "paper" / "runs" / "tiny_cpu.sh"], check=True, env=environment, timeout=1200)
    try:
        table = json.loads((ROOT / "experiments" / "paper" / "schemes-tiny.json").read_text())["table"]
        assert table["MEG, fixed"]["psnr_db"]["mean"] >= table["file, WebP 80"]["psnr_db"]["mean"]
        assert np.isfinite(table["MEG, fixed"]["s"]["mean"])
    finally:
        for path in (*(ROOT / "experiments" / "paper").glob("*-tiny.json"), ROOT / "docs" / "paper-samples-tiny.jpg"):
            path.unlink(missing_ok=True)
