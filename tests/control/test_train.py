"""Training and evaluating through the command line, on a small grid and small profiles."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.cli import control_run
from megen.cli.main import main
from megen.control import policy, report, train
from megen.control.cmdp import CMDP
from megen.control.scenarios import reference
from megen.control.scenarios.main import main_cmdp
from megen.control.scenarios.scenario import Scenario
from megen.cost import device_profile as profile
from megen.cost import quality_grid as quality
from megen.cost.device_profile import DeviceProfile
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError


@pytest.fixture(scope="module")
def process(grid: QualityGrid, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a process from files."""
    folder = tmp_path_factory.mktemp("process")
    quality.save(grid, folder / "quality.npz")
    for name, step_s, power_w in (("server", 0.1, 30.0), ("phone", 0.0, 4.0)):
        made = DeviceProfile(name, "this test", "tiny", 0.02, step_s, 0.001, 0.001, 0.01, 0.1, 0.1, 5.0, 30.0, power_w)
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
    assert [float(r["samples"]) for r in rows] == [train.SAMPLES_AN_ITERATION, 2 * train.SAMPLES_AN_ITERATION]
    assert {"reward", "late", "energy_j", "multiplier_late", "multiplier_energy_j", "seconds"} < set(rows[0])
    capsys.readouterr()
    asked = ["--episodes", "20", "--horizon", "40", "--seed", "3", "--json", "-", *process]
    assert main(["control", "evaluate", "--policy", str(out), "--env", "main", *asked]) == 0
    own = json.loads(capsys.readouterr().out)
    assert {"policy", "env", "reward", "costs", "limits", "violation_rate", "lp_reward", "gap", "shielded"} < set(own)
    assert own["gap"] == pytest.approx(1 - own["reward"] / own["lp_reward"])
    assert main(["control", "evaluate", "--policy", "lp", *asked]) == 0
    best = json.loads(capsys.readouterr().out)
    assert best["gap"] == pytest.approx(0, abs=1e-6)
    assert best["reward"] == pytest.approx(own["lp_reward"])
    assert set(best["costs"]) == set(best["violation_rate"]) == {"late", "energy_j"}
    assert main(["control", "evaluate", *asked]) == 0
    figures = json.loads(capsys.readouterr().out)["policies"]
    assert {"lp", *report.RULES} < set(figures)
    assert figures["lp"] == {k: v for k, v in best.items() if k in figures["lp"]}
    assert figures["unconstrained"]["gap"] <= 1e-6
    assert main(["control", "train", "--out", str(out), "--iterations", "2", *process]) == 0  # nothing is left to do
    assert rows_of(out / "progress.csv") == rows
    assert policy.load(out / "policy.npz").table.tolist() == _table(first, tmp_path)


def _table(file: bytes, folder: Path) -> list:
    (folder / "first.npz").write_bytes(file)
    return policy.load(folder / "first.npz").table.tolist()


def test_a_killed_training_keeps_its_log_and_ends_alike(small: CMDP, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(row: train.Row) -> None:
        if row["samples"] > 1.5 * train.SAMPLES_AN_ITERATION:
            raise Killed

    whole, rows = train.train(small, "cvpo", 0, 3, tmp_path / "whole", {})
    with pytest.raises(Killed):
        train.train(small, "cvpo", 0, 3, tmp_path / "cut", {}, on_row=kill)
    assert (tmp_path / "cut" / "cvpo.safetensors").is_file()
    first = train.read_rows(tmp_path / "cut" / "progress.csv", small)[0]
    again, more = train.train(small, "cvpo", 0, 3, tmp_path / "cut", {})
    np.testing.assert_allclose(again.table, whole.table, atol=1e-6)
    assert [r["reward"] for r in more] == pytest.approx([r["reward"] for r in rows])
    assert more[0] == first  # its seconds too
    with pytest.raises(ValueError, match="holds another training"):
        train.train(small, "cvpo", 1, 3, tmp_path / "cut", {})
    mark = tmp_path / "cut" / "training.json"
    told = mark.read_text()
    mark.write_text(told.replace('"critic_steps": 60', '"critic_steps": 61'))
    with pytest.raises(ValueError, match="holds another training"):  # another version's recipe: its result is not this one's
        train.train(small, "cvpo", 0, 3, tmp_path / "cut", {})
    mark.write_text(told)
    (tmp_path / "cut" / "progress.csv").write_text("samples,seconds\n1,")
    with pytest.raises(ValueError, match=r"progress.csv is not a log of this version"):
        train.train(small, "cvpo", 0, 3, tmp_path / "cut", {})


def test_what_cannot_be_is_said_in_one_line(small: CMDP, process: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["train", "--out", str(tmp_path / "a"), "--iterations", "0"], "--iterations must lie in"),
        (["train", "--out", str(tmp_path / "a"), "--gap-s", "1"], "--gap-s takes two mean gaps"),
        (["train", "--out", str(tmp_path / "a"), "--energy-limit-j", "0.5"], "energy_j can be no less than"),
        (["evaluate", "--alpha", "0.0001"], "alpha must lie in [1/41, 1) with 40 held-out requests, got 0.0001"),
        (["train", "--out", str(tmp_path / "file" / "x"), "--iterations", "1"], "x cannot be made"),
        (["evaluate", "--late-limit", "5"], "late_limit must lie in [1e-06, 1], got 5"),
        (["evaluate", "--deadline-s", "-1"], "deadline_s must lie in [1e-06, 1e+09], got -1"),
        (["evaluate", "--json", str(tmp_path / "no" / "x.json")], "there is no folder"),
        (["evaluate", "--gap-s", "2,nan"], "mean_gap_s must lie in [1e-06, 1e+09], got nan"),
        (["evaluate", "--env", "as-released"], "--late-limit is the main process's"),
        (["evaluate", "--policy", str(tmp_path / "none.npz")], "none.npz': give lp, unconstrained, myopic"),
        (["evaluate", "--energy-limit-j", "0.5"], "energy_j can be no less than"),
    ]
    (tmp_path / "file").touch()
    for arguments, wanted in cases:
        assert main(["control", arguments[0], *process, *arguments[1:]]) == 2
        told = capsys.readouterr().err
        assert wanted in told
        assert told.count("\n") == 1
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="must be one of cvpo"):
        train.train(small, "dqn", 0, 1, tmp_path, {})


@pytest.fixture
def bundled_policy(process: list[str], grid: QualityGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CMDP:
    """As if grid, profiles and a policy that decides by chance were bundled."""
    given = dict(zip(process[::2], process[1::2], strict=True))
    quality.save(replace(grid, about={"backbone": "tiny"}), tmp_path / "quality.npz")
    monkeypatch.setattr(quality, "MAIN_V0", tmp_path / "quality.npz")
    monkeypatch.setattr(profile, "MAIN_V0", (given["--server"], given["--phone"]))
    cmdp = main_cmdp()
    (tmp_path / "main").mkdir()
    policy.save(policy.policy_of(cmdp, np.full((cmdp.states, cmdp.actions), 1 / cmdp.actions), {}), tmp_path / "main" / "cvpo.npz")
    monkeypatch.setattr(policy, "BUNDLED", tmp_path)
    return cmdp


def test_the_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for what, names in (("train", train.ALGORITHMS), ("evaluate", ("lp", *report.RULES, *train.ALGORITHMS))):
        assert main(["control", what, "--help"]) == 0
        told = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # lines break at hyphens
        assert all(name in told for name in names)
        if what == "train":
            assert f"of {train.SAMPLES_AN_ITERATION:,} requests each (default: {train.ITERATIONS})" in told


def test_a_bundled_policy_is_known_by_its_name_on_its_own_process_alone(
    bundled_policy: CMDP, process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The fixture's process has the default setting, not that of the options."""
    few = ["--episodes", "4", "--horizon", "5"]
    assert main(["control", "evaluate", "--policy", "cvpo", *few, *process]) == 2
    assert "learned on another CMDP" in capsys.readouterr().err
    assert main(["control", "evaluate", *few, *process, "--json", "-"]) == 0
    told = capsys.readouterr()
    assert "left out, as learned on another CMDP: the bundled cvpo\n" in told.err
    assert "cvpo" not in json.loads(told.out)["policies"]


def test_the_mean_latency_is_that_of_a_process_whose_cost_it_is(small: CMDP) -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(small.actions), small.states)
    found = report.figures(small, table, report.EpisodePlan(10, 20, 0), 1.0)
    as_cost = report.figures(replace(small, cost_names=("latency_s", "energy_j")), table, report.EpisodePlan(10, 20, 0), 1.0)
    assert found["latency_s"] == pytest.approx(as_cost["costs"]["latency_s"])
    assert set(found["costs"]) == {"late", "energy_j"}


def test_the_help_tells_the_defaults_of_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    usual = Scenario()
    assert main(["control", "evaluate", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split()).replace("as- released", "as-released")
    for name, value in (
        ("deadline", f"(default: {usual.deadline_s:g}; as-released: {reference.LATENCY_LIMIT_S:g}, of its mean)"),
        ("late", f"miss it (default: {usual.late_limit:g})"),
        ("energy", f"(default: {usual.energy_limit_j:g}; as-released: {reference.ENERGY_LIMIT_J:g})"),
        ("gap", "(default: " + ",".join(f"{g:g}" for g in usual.mean_gap_s) + ")"),
        ("snr", f"mean SNR of the link (default: {usual.snr_mean_db:g})"),
        ("horizon", f"(default: {control_run.HORIZONS['main']}; as-released: {control_run.HORIZONS['as-released']})"),
    ):
        assert value in told, name


def test_the_published_form_of_the_constraint_has_no_long_run_means(small: CMDP, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="take the form 'advantage' for long-run ones"):
        train.train(replace(small, gamma=1.0), "cvpo-value", 0, 1, tmp_path / "x", {})
