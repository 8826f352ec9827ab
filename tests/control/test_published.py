"""`auto` for a published checkpoint: its own profile, its own quality grid, and a plan by them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="megen[published] is not installed")

from megen.cli.main import main
from megen.control.controller import Controller
from megen.control.scenarios.scenario import assumed_for, long_run
from megen.cost import device_profile, quality_grid
from megen.evaluation import quality_grid as measuring
from megen.halves import transmitter_of
from megen.models.fingerprint import identity
from megen.serving import server
from megen.serving.decider import Asked
from megen.types import Budget, ChannelState, Decision, InputError, Observation

PROMPT = "a castle at dawn"
GUIDED = 5.0


@pytest.fixture(scope="module")
def folder(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two ways of running it, prompts, a profile and a grid of the first way."""
    out = tmp_path_factory.mktemp("auto")
    for name, guidance in (("one", GUIDED), ("other", 2 * GUIDED)):
        said = {"source": str(folders / "sdxl"), "steps": [1, 2], "guidance": guidance}
        (out / f"{name}.json").write_text(json.dumps(said))
    words = ("castle", "lighthouse", "windmill", "lake")
    (out / "prompts.txt").write_text("\n".join(f"a {a} at {b}\n" for a in words for b in ("dawn", "dusk", "night")))
    backbone = ["--backbone", str(out / "one.json")]
    assert main(["profile", *backbone, "--repeats", "2", "--out", str(out / "profile.json")]) == 0
    options = ["--prompts", "12", "--texts", str(out / "prompts.txt"), "--out", str(out / "grid.npz")]
    with pytest.MonkeyPatch.context() as patch:  # fewer of all, for the seconds that it takes
        patch.setattr(measuring, "SNRS_DB", (-6.0, 6.0, 18.0))
        patch.setattr(measuring, "COARSER", (2.5,))
        assert main(["measure", *backbone, *options]) == 0
    return out


def files(folder: Path) -> list[str]:
    profile = str(folder / "profile.json")
    return ["--quality", str(folder / "grid.npz"), "--server", profile, "--phone", profile]


def load(folder: Path) -> Controller:
    profile = str(folder / "profile.json")
    return Controller.load(server=profile, phone=profile, quality=folder / "grid.npz")


def test_the_grid_is_of_the_checkpoint_as_it_is_run_and_nobody_judged_it(folder: Path) -> None:
    grid = quality_grid.load(folder / "grid.npz")
    assert (grid.about["backbone"], grid.steps.tolist(), grid.about["prompts"]) == ("sdxl", [1, 2], 12)
    assert grid.about["weights"] == identity(transmitter_of(str(folder / "one.json")).backbone)
    assert grid.about["weights"] != identity(transmitter_of(str(folder / "other.json")).backbone)
    assert "lighthouse" in grid.words
    assert grid.fidelity is None
    for kind in ("seen", "attributes"):
        with pytest.raises(InputError, match="'reference'"):
            grid.reward(kind)
    assert (grid.reward("reference")[:, 1, 0] > grid.reward("reference")[:, 0, 0]).all()  # more steps are closer to the most


def test_the_profile_is_of_the_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = device_profile.load(str(folder / "profile.json"))
    assert measured.backbone == "sdxl"
    assert min(measured.step_gflop, measured.decode_gflop, measured.text_s, measured.step_s, measured.decode_s) > 0
    assert main(["profile", "--backbone", str(folder / "one.json")]) == 2
    assert "--out" in capsys.readouterr().err


def test_auto_decides_by_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate = ["generate", PROMPT, "--steps", "auto", "--merge-ratio", "auto", "--out", str(tmp_path / "out.png")]
    backbone, report = ["--backbone", str(folder / "one.json")], tmp_path / "report.json"
    assert main([*generate, *backbone, *files(folder), "--report", str(report)]) == 0
    said = capsys.readouterr().err
    assert "closeness to the most steps" in said
    assert re.search(r"the load is assumed, with deadlines of [\d.]+ s and [\d.]+ J", said)  # longer where this machine is busy
    said = json.loads(report.read_text())
    assert said["decided_by"] == "policy plan"
    assert Decision(**said["decision"]) in quality_grid.load(folder / "grid.npz").decisions
    assert main(["generate", PROMPT, "--quality", str(folder / "grid.npz")]) == 2
    assert "--quality is for --steps auto" in capsys.readouterr().err
    for wrong, why in (
        ([*backbone], "--quality"),
        ([*backbone, *files(folder)[:2]], "megen profile --backbone"),
        (["--backbone", str(folder / "other.json"), *files(folder)], "other weights"),
    ):
        assert main([*generate, *wrong]) == 2
        assert why in capsys.readouterr().err


def test_the_load_that_is_assumed_is_of_its_own_seconds_and_joules(folder: Path) -> None:
    controller = load(folder)
    assert controller.scenario == assumed_for(controller.grid, controller.server, controller.phone)
    fast = [profile.scaled(1e-3, 0.0, "a test") for profile in (controller.server, controller.phone)]
    assert replace(assumed_for(controller.grid, *fast), reward="seen") == long_run()  # faster than the bundled backbone
    large = replace(controller.server, step_s=5.0, power_w=300.0)  # two steps: ten seconds and 3000 J
    assumed, usual = assumed_for(controller.grid, large, controller.phone), long_run()
    bundled = device_profile.load("cpu"), device_profile.load("phone")
    usual_s = bundled[0].es_s(4) + bundled[1].ue_s()
    usual_j = bundled[0].es_s(4) * bundled[0].power_w + bundled[1].ue_s() * bundled[1].power_w
    assert assumed.deadline_s / usual.deadline_s == pytest.approx(10 / usual_s, rel=0.05)
    assert assumed.mean_gap_s[0] / usual.mean_gap_s[0] == pytest.approx(assumed.deadline_s / usual.deadline_s)
    assert assumed.energy_limit_j / usual.energy_limit_j == pytest.approx(3000 / usual_j, rel=0.05)


def test_a_deadline_needs_a_grid_of_more_prompts(folder: Path) -> None:
    with pytest.raises(InputError, match="60 prompts or more"):
        load(folder)(Observation(ChannelState(6.0, 1e6), budget=Budget(deadline_s=1.0)))


def test_a_server_plans_for_it(folder: Path, tmp_path: Path) -> None:
    profile, grid = str(folder / "profile.json"), quality_grid.load(folder / "grid.npz")
    few = server.Options(str(folder / "one.json"), quality=folder / "grid.npz", profiles=(profile, profile))
    with pytest.raises(InputError, match="60 prompts"):  # a server's requests bring deadlines
        server.decider(few, transmitter_of(few.backbone, "cpu"), str(grid.about["weights"]))
    quality_grid.save(replace(grid, airtime_draws_s=np.tile(grid.airtime_draws_s, 6)), tmp_path / "more.npz")
    options = replace(few, quality=tmp_path / "more.npz")
    transmitter = transmitter_of(options.backbone, "cpu")
    decider = server.decider(options, transmitter, identity(transmitter.backbone))
    assert decider.policy is not None
    assert decider.policy.planned.scenario.reward == "reference"
    decided = decider.decide(Asked(PROMPT), ChannelState(6.0, 1e6), 1, None)
    assert decided.why.startswith("by the plan")
    assert decider.decide(Asked(PROMPT, budget=Budget(deadline_s=5.0)), ChannelState(6.0, 1e6), 1, None).fits
    other = server.decider(replace(options, quality=None, profiles=(None, None)), transmitter, identity(transmitter.backbone))
    assert other.policy is None
    assert "other weights" in other.why_fixed


def test_a_server_refuses_files_that_were_named_and_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, why in (("--quality", "no quality grid"), ("--server", "no device profile"), ("--phone", "no device profile")):
        assert main(["serve", "--port", "0", option, str(folder / "nowhere")]) == 2
        assert why in capsys.readouterr().err
    options = server.Options(quality=folder / "grid.npz", profiles=(str(folder / "profile.json"),) * 2)
    with pytest.raises(InputError, match="other weights"):
        server.decider(options, transmitter_of(str(folder / "one.json")), "others")


def test_a_plan_of_ones_own_keeps_its_load_and_limits(folder: Path, tmp_path: Path) -> None:
    profile, plan = str(folder / "profile.json"), tmp_path / "plan.npz"
    asked = ["--reward", "reference", "--deadline-s", "2", "--energy-limit-j", "100", "--out", str(plan)]
    assert main(["control", "plan", "--quality", str(folder / "grid.npz"), "--server", profile, "--phone", profile, *asked]) == 0
    scenario = Controller.load(str(plan), server=profile, phone=profile, quality=str(folder / "grid.npz")).scenario
    assert (scenario.deadline_s, scenario.energy_limit_j, scenario.reward) == (2.0, 100.0, "reference")


def test_a_checkpoint_is_known_by_its_net_and_how_it_is_run(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(source: str, **said: object) -> str:
        (tmp_path / "said.json").write_text(json.dumps({"source": source, "steps": [1, 2], **said}))
        return identity(transmitter_of(str(tmp_path / "said.json")).backbone)

    usual = of(str(folders / "sdxl"), guidance=5)
    assert usual == of(str(folders / "sdxl"), guidance=5.0)
    assert usual != of(str(folders / "sdxl"), guidance=6)
    assert usual != of(str(folders / "sdxl"), guidance=5, sampler="ddim")
    tuned = tmp_path / "sdxl"
    shutil.copytree(folders / "sdxl", tuned)
    assert usual == of(str(tuned), guidance=5)  # wherever it lies
    net = next((tuned / "unet").glob("*.safetensors"))
    tensors = load_file(net)
    tensors = {name: t + 1e-3 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for name, t in tensors.items()}
    save_file(tensors, net)
    assert usual != of(str(tuned), guidance=5)
    monkeypatch.chdir(folders / "sdxl")
    assert transmitter_of(".").backbone.spec.name == "sdxl"


def test_prompts_that_a_grid_cannot_be_measured_on_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few.txt"
    few.write_text("a castle\n")
    measure = ["measure", "--prompts", "12", "--out", str(tmp_path / "grid.npz")]
    twice, long = tmp_path / "twice.txt", tmp_path / "long.txt"
    lines = (folder / "prompts.txt").read_text().splitlines()
    twice.write_text("\n".join([*lines, "At DAWN, a castle"]))
    long.write_text("\n".join([*lines[:-1], "a castle " * 60]))
    (tmp_path / "digits.txt").write_text("\n".join([*lines[:3], "42", *lines[4:]]))
    own = ["--backbone", str(folder / "one.json")]
    for options, why in (
        (["--texts", str(twice), "--prompts", "13", *own], "has the words of line 1"),
        (["--texts", str(long), *own], f"line {len(lines)}: the prompt has"),
        (["--texts", str(tmp_path / "digits.txt"), *own], "line 4"),
        (["--texts", str(few), "--backbone", str(folder / "one.json")], "1 prompts, fewer than the 12"),
        (["--texts", str(tmp_path / "none.txt"), "--backbone", str(folder / "one.json")], "none.txt"),
        (["--texts", str(folder / "prompts.txt")], "published"),
    ):
        assert main([*measure, *options]) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "grid.npz").exists()
