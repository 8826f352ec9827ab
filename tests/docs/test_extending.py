"""The programs of the pages run as they stand there."""

from __future__ import annotations

import csv
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from megen.errors import InputError
from megen.evaluation import quality_grid as measuring
from megen.halves import Receives, Transmitter, halves
from megen.link import RadioLink

PAGES = Path(__file__).parents[2] / "docs"
MOST_LINES = 25


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


LINK, GRID, POLICY, ASKED, BACKBONE, FAMILY, QUALITY = programs("extending.md")


def run(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(folder)
    path = folder / "program.py"
    path.write_text(program, encoding="utf-8")
    return runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    "program",
    [LINK, GRID, POLICY, ASKED, BACKBONE, FAMILY, QUALITY],
    ids=["link", "grid", "policy", "asked", "backbone", "family", "quality"],
)
def test_an_example_is_short(program: str) -> None:
    assert sum(bool(line.strip()) for line in program.splitlines()) <= MOST_LINES


def test_own_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(LINK, tmp_path, monkeypatch)["result"]
    lost, _, parts, *_ = capsys.readouterr().out.split()
    assert 0 < int(lost) < int(parts)
    sent, received = result.transmission.payload, result.delivery.received.payload  # type: ignore[attr-defined]
    assert [a == b for a, b in zip(sent.features, received.features, strict=True)].count(False) == int(lost)


def test_own_grid(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measure, small = measuring.measure, halves(str(tiny_folder))

    def of_a_tiny_backbone(transmitter: Transmitter, receiver: Receives, *others: Any) -> list[dict[str, Any]]:
        return measure(*small, *others)

    for name, value in (
        ("measure", of_a_tiny_backbone),
        ("SNRS_DB", (-6.0, 6.0, 18.0)),
        ("COARSER", (2.5,)),
    ):  # for the seconds that it takes
        monkeypatch.setattr(measuring, name, value)
    made = run(GRID, tmp_path, monkeypatch)
    assert float(capsys.readouterr().out.split()[-1]) > 0
    assert made["link_of"](6.0) == RadioLink(6.0, fading="rayleigh", speed_m_s=10.0)  # type: ignore[operator]
    with pytest.raises(InputError, match="link"):
        measure(*small, (1, 4), measuring.captions(12), tmp_path / "grid.work", lambda n: None)


def test_own_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(POLICY, tmp_path, monkeypatch)
    alone, first, *later = capsys.readouterr().out.splitlines()
    assert "steps=8" in alone
    assert first == "backlog 0.00 s: 8 steps, merge ratio 0.0"
    assert len(later) == 2
    assert all(": 8 steps" not in line for line in later)


def test_own_policy_beside_the_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(ASKED, tmp_path, monkeypatch)
    assert made["mine"].reward < made["best"].reward  # type: ignore[attr-defined]
    assert capsys.readouterr().out.startswith(f"{made['mine'].reward:.3f} of 8.333")  # type: ignore[attr-defined]
    assert (tmp_path / "rule.npz").is_file()


def test_own_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(BACKBONE, tmp_path, monkeypatch)["result"]
    assert result.image.shape == (64, 64, 3)  # type: ignore[attr-defined]
    assert result.report.backbone == "flat"  # type: ignore[attr-defined]
    assert result.image.reshape(-1, 3).std(0).max() < 8  # type: ignore[attr-defined]  # one colour, but for the quantiser


def test_own_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers", reason="megen[published] is not installed")
    from experiments import tiny_checkpoints as tiny
    from megen.diffusion import denoise

    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path / "checkpoint")
    run_ = run(FAMILY, tmp_path, monkeypatch)
    assert run_["result"].image.shape == (32, 32, 3)  # type: ignore[attr-defined]
    backbone = run_["es"].backbone  # type: ignore[attr-defined]
    noise = backbone.unfold(denoise.noise_of(backbone.spec.latent_shape, 0))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "checkpoint")
    options = {"num_inference_steps": 8, "guidance_scale": 7.5, "output_type": "latent", "height": 32, "width": 32}
    theirs = backbone.fold(pipe("a castle at dawn", latents=noise, **options).images)
    ours = run_["es"].denoise(["a castle at dawn"], [0], 8)  # type: ignore[attr-defined]
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def check_quality(folder: Path, rows: int) -> None:
    with (folder / "quality.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == rows
    for row in table:
        assert int(row["bits"]) > 1000
        assert 15 < float(row["psnr_db"]) < 60
        assert float(row["gradient_error"]) > 0
        assert 0 <= float(row["attributes_right"]) <= 1


def test_own_quality_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert QUALITY.count("range(20)") == 1
    run(QUALITY.replace("range(20)", "range(1)"), tmp_path, monkeypatch)
    check_quality(tmp_path, 1)


@pytest.mark.slow
def test_own_quality_measure_over_all_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(QUALITY, tmp_path, monkeypatch)
    check_quality(tmp_path, 20)


@pytest.mark.slow
@pytest.mark.parametrize("program", programs("tutorial.md"), ids=["one image", "sweep"])
def test_the_tutorials_programs_run(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(program, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_readmes_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("\n".join(programs("../README.md")), tmp_path, monkeypatch)["result"]
    assert result.image.shape == (1024, 1024, 3)  # type: ignore[attr-defined]
