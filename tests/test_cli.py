from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megen.cli.main import main

PROMPT = "a lighthouse at sunset, snowy mountains, pine trees"


def test_generate_writes_an_image_and_a_report(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report, grid = tmp_path / "a.png", tmp_path / "a.json", tmp_path / "grid.png"
    options = ["--steps", "4", "--merge-ratio", "0.5", "--snr-db", "12", "--reference", "--backbone", str(tiny_folder)]
    code = main(["generate", PROMPT + ", 3 zeppelin", "--out", str(out), "--report", str(report), "--grid", str(grid), *options])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "unknown words: 3, zeppelin" in printed.err
    assert Image.open(out).size == (256, 256)
    assert Image.open(grid).width > 4 * 256
    told = json.loads(report.read_text())
    assert told["decision"] == {"steps": 4, "merge_ratio": 0.5}
    assert told["image"] == {"width_px": 256, "height_px": 256}
    assert set(told["latency_s"]) == {"queue", "text", "denoise", "merge", "code", "transmit", "decode", "total"}
    assert set(told["energy_j"]) == {"es", "radio", "ue", "total"}
    assert set(told["payload_bits"]) == {"header", "merge_map", "features", "total"}
    assert {"link", "snr_db", "bandwidth_hz", "rate_bps", "attempts", "residual_bler"} <= set(told["channel"])
    assert set(told["quality"]) == {"psnr_db", "ssim", "reference"}
    assert told["quality"]["psnr_db"] > 5
    assert "latency_s.transmit" in told["modelled"]
    assert {"version", "commit", "command", "device", "torch"} <= set(told["made_by"])
    assert not list(tmp_path.glob(".*"))  # no temporary file stays
    again = tmp_path / "b.png"
    main(["generate", PROMPT + ", zeppelin", "--out", str(again), *options[:-3], *options[-2:]])
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["generate", ""], "the prompt is empty"),
        (["generate", "  "], "the prompt is empty"),
        (["generate", "rain " * 10_000], "at most 64 words, got 10000"),
        (["generate", "123 !!!"], "holds no words"),
        (["generate", PROMPT, "--out", "x.psd"], "no picture can be written as .psd"),
        (["generate", PROMPT, "--out", "/dev/null"], "is a device"),
        (["generate", PROMPT, "two\nlines"], "unrecognized arguments: two lines"),
        (["generate", PROMPT, "--merge-ratio", "0.9"], "merge_ratio must lie in [0, 0.75]"),
        (["generate", PROMPT, "--merge-ratio", "nan"], "merge_ratio must lie in [0, 0.75]"),
        (["generate", PROMPT, "--merge-ratio", "lots"], "--merge-ratio must be a number"),
        (["generate", PROMPT, "--merge-ratio", "auto", "--link", "none"], "auto decides for the digital link"),
        (["generate", PROMPT, "--steps", "3"], "steps must be one of 1, 2, 4"),
        (["generate", PROMPT, "--steps", "2.5"], "--steps must be a whole number"),
        (["generate", PROMPT, "--link", "smoke"], "invalid choice: 'smoke'"),
        (["generate", PROMPT, "--backbone", "nosuch"], "no backbone named 'nosuch'"),
        (["generate", PROMPT, "--snr-db", "nan"], "snr_db must lie in"),
        (["generate", PROMPT, "--bandwidth-hz", "0"], "bandwidth_hz must lie in"),
        (["generate", PROMPT, "--distance-m", "5"], "holds from 10 m to 5 km"),
        (["generate", PROMPT, "--distance-m", "50", "--trace", "x.csv"], "give one of them"),
        (["generate", PROMPT, "--trace", "x.csv"], "x.csv cannot be read"),
        (["generate", PROMPT, "--speed-m-s", "-1"], "speed_m_s must lie in"),
        (["generate", PROMPT, "--bits-budget", "100"], "a budget of 100 bits is too small"),
        (["generate", PROMPT, "--out", "/nosuch/folder/x.png"], "there is no folder"),
        (["generate", PROMPT, "--out", "/tmp"], "is a folder"),
        (["generate", PROMPT, "--deadline-s", "-1"], "deadline_s must be a positive number"),
        (["generate", PROMPT, "--seed", "-1"], "--seed must lie in"),
        (["generate", PROMPT, "--device", "toaster"], "the device must be auto, cpu"),
        (["generate", PROMPT, "--out", "x.png", "--report", "x.png"], "must be different files"),
        (["scenes", ""], "the caption is empty"),
        (["scenes", "the sun at night"], "does not shine at night"),
        (["scenes", "rain", "--size-px", "9"], "--size-px must lie in"),
        (["train", "nosuch", "--out", "x"], "must be scenes or a folder"),
        (["train", "scenes", "--out", "x", "--steps", "0"], "--steps must be at least 1"),
        (["train", "scenes", "--out", "x", "--seed", "-1"], "--seed must lie in"),
        (["train", "scenes", "--out", "x", "--decoder-only"], "--decoder-only needs --from"),
        (["train", "scenes", "--out", "x", "--from", "nosuch"], "no backbone named"),
        (["train", "scenes", "--out", "x", "--autoencoder-steps", "0"], "--autoencoder-steps must be at least 1"),
        (["export", "--backbone", "nosuch"], "no backbone named"),
        (["bench", "link", "--backbone", "nosuch"], "no backbone named"),
        (["bench", "link", "--prompts", "0"], "--prompts must lie in"),
        (["bench", "link", "--json", "/nosuch/x.json"], "there is no folder"),
        (["bench", "smoke"], "invalid choice: 'smoke'"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], why: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "generate" and "--backbone" not in arguments:
        arguments = [*arguments, "--backbone", str(tiny_folder)]
    if arguments[0] == "generate" and "--steps" not in arguments:
        arguments = [*arguments, "--steps", "4"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert why in error
    assert len(error.strip().splitlines()) == 1
    assert error.startswith("megen: ")
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_exit_code_1_and_leaves_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert main(["generate", PROMPT, "--steps", "1", "--backbone", str(tiny_folder), "--out", str(tmp_path / "x.png")]) == 1
    assert "failed: no space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_that_are_cut_are_refused_and_an_old_receiver_is_made_anew(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(tiny_folder, folder)
    command = ["generate", PROMPT, "--steps", "1", "--link", "none", "--backbone", str(folder), "--out", str(tmp_path / "x.png")]
    (folder / "receiver.onnx").write_bytes(b"not a graph")
    assert main(command) == 0
    assert (folder / "receiver.onnx").stat().st_size > 1000
    (shard,) = folder.glob("backbone-*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    assert main(command) == 2
    assert "not a whole safetensors file" in capsys.readouterr().err


def test_export_writes_a_graph(tiny_folder: Path, tmp_path: Path) -> None:
    assert main(["export", "--backbone", str(tiny_folder), "--out", str(tmp_path / "r.onnx")]) == 0
    assert (tmp_path / "r.onnx").stat().st_size > 1000


def test_scenes_renders_the_true_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.png"
    assert main(["scenes", PROMPT + " zeppelin", "--out", str(out), "--size-px", "128"]) == 0
    assert "unknown words, left out: zeppelin" in capsys.readouterr().err
    assert Image.open(out).size == (128, 128)


def test_help_and_import_stay_clear_of_torch() -> None:
    code = "import sys, megen.cli.main as m; m.parser(); assert not {'torch', 'onnxruntime', 'rich', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    shown = subprocess.run([sys.executable, "-m", "megen", "--help"], capture_output=True, text=True, check=True)
    assert "generate" in shown.stdout
