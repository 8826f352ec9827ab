"""Training and evaluating through the command line, on a small grid and small profiles."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from megen.cli import main
from megen.control import policy, session
from megen.control.kernel import Kernel
from megen.cost import profile, quality
from megen.cost.profile import DeviceProfile
from megen.cost.quality import QualityGrid


@pytest.fixture(scope="module")
def process(grid: QualityGrid, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a process from files."""
    folder = tmp_path_factory.mktemp("process")
    quality.save(grid, folder / "quality.npz")
    for name, step_s, power_w in (("server", 0.1, 30.0), ("phone", 0.0, 4.0)):
        made = DeviceProfile(name, "this test", "tiny", 0.02, step_s, 0.001, 0.001, 0.01, 0.1, 5.0, 30.0, power_w)
        profile.save(made, folder / f"{name}.json", {})
    options = ["--quality", folder / "quality.npz", "--server", folder / "server.json", "--phone", folder / "phone.json"]
    return [*map(str, options), "--deadline-s", "1.2", "--late-limit", "0.2", "--energy-limit-j", "20"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_train_then_evaluate(process: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["control", "train", "--out", str(out), "--iterations", "2", *process]) == 0
    first = (out / "policy.npz").read_bytes()
    rows = rows_of(out / "progress.csv")
    assert [float(r["samples"]) for r in rows] == [session.SAMPLES_AN_ITERATION, 2 * session.SAMPLES_AN_ITERATION]
    assert {"reward", "late", "energy_j", "price_late", "price_energy_j", "seconds"} < set(rows[0])
    capsys.readouterr()
    assert main(["control", "evaluate", str(out), "--episodes", "20", "--horizon", "40", "--json", "-", *process]) == 0
    found = json.loads(capsys.readouterr().out)
    figures = found["policies"]
    assert {"LP optimum", "myopic", "backlog-blind", "channel-blind", "best fixed decision", "greedy per slot", "random"} < set(figures)
    learned = figures["cvpo, seed 0"]
    assert figures["LP optimum"]["gap"] == pytest.approx(0, abs=1e-6)
    assert figures["unconstrained optimum"]["gap"] <= 1e-6
    assert set(learned) >= {"reward", "gap", "costs", "over_limit", "violation_share", "late_share"}
    assert main(["control", "train", "--out", str(out), "--iterations", "2", *process]) == 0  # nothing is left to do
    assert rows_of(out / "progress.csv") == rows
    assert policy.load(out / "policy.npz").table.tolist() == _table(first, tmp_path)


def _table(file: bytes, folder: Path) -> list:
    (folder / "first.npz").write_bytes(file)
    return policy.load(folder / "first.npz").table.tolist()


def test_a_killed_training_keeps_its_log_and_ends_alike(small: Kernel, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(row: session.Row) -> None:
        if row["samples"] > 0.5 * session.SAMPLES_AN_ITERATION:
            raise Killed

    whole, rows = session.train(small, "cvpo", 0, 2, tmp_path / "whole")
    with pytest.raises(Killed):
        session.train(small, "cvpo", 0, 2, tmp_path / "cut", kill)
    again, more = session.train(small, "cvpo", 0, 2, tmp_path / "cut")
    np.testing.assert_allclose(again, whole, atol=1e-6)
    assert [r["reward"] for r in more] == pytest.approx([r["reward"] for r in rows])


def test_what_cannot_be_is_said_in_one_line(small: Kernel, process: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["train", "--out", str(tmp_path / "a"), "--iterations", "0"], "--iterations must lie in"),
        (["train", "--out", str(tmp_path / "a"), "--gap-s", "1"], "--gap-s takes two mean gaps"),
        (["evaluate", "--alpha", "2"], "--alpha must lie in (0, 1)"),
        (["evaluate", str(tmp_path / "none.npz")], "train one with megen control train"),
        (["evaluate", "--energy-limit-j", "0.5"], "energy_j can be no less than"),
    ]
    for arguments, wanted in cases:
        assert main(["control", arguments[0], *process, *arguments[1:]]) == 2
        told = capsys.readouterr().err
        assert wanted in told
        assert told.count("\n") == 1
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="must be one of cvpo"):
        session.train(small, "dqn", 0, 1, tmp_path)
