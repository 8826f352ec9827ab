from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
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
    assert told["decision"] == {"steps": 4, "merge_ratio": 0.5, "quantiser_bits": 5.0}
    assert (told["completed_prompt"], told["added"]) == (told["prompt"], [])  # this backbone's world is not the bundled one
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
        (["generate", PROMPT, "--quantiser-bits", "9"], "quantiser_bits must lie in [0.25, 8], got 9.0 (in steps of 0.25)"),
        (["generate", PROMPT, "--quantiser-bits", "2.1"], "quantiser_bits must be a multiple of 0.25, got 2.1"),
        (["generate", PROMPT, "--quantiser-bits", "5", "--bits-budget", "9000"], "both set the quantiser: give one of them"),
        (["generate", PROMPT, "--bandwidth-hz", "0"], "bandwidth_hz must lie in"),
        (["generate", PROMPT, "--distance-m", "5"], "holds from 10 m to 5 km"),
        (["generate", PROMPT, "--distance-m", "50", "--trace", "x.csv"], "give one of them"),
        (["generate", PROMPT, "--trace", "x.csv"], "x.csv cannot be read"),
        (["generate", PROMPT, "--trace", "x.csv", "--snr-db", "3"], "--snr-db and --trace both set the channel"),
        (["generate", PROMPT, "--trace", "x.csv", "--fading", "rician"], "--fading and --trace both set the channel"),
        (["generate", PROMPT, "--distance-m", "50", "--snr-db", "3"], "--snr-db and --distance-m both set the SNR"),
        (["generate", PROMPT, "--path-loss", "umi-nlos"], "--path-loss needs --distance-m"),
        (["generate", PROMPT, "--policy", "nope"], "--policy is for --steps auto or --merge-ratio auto"),
        (["generate", PROMPT, "--server", "nope"], "--server is for --steps auto or --merge-ratio auto"),
        (["generate", PROMPT, "--phone", "nope"], "--phone is for --steps auto or --merge-ratio auto"),
        (["generate", PROMPT, "--link", "analog", "--bits-budget", "30"], "--bits-budget sets a quantiser, and --link analog has none"),
        (["generate", PROMPT, "--link", "analog", "--order", "layer"], "--order is of bits, and --link analog has none"),
        (["generate", PROMPT, "--order", "layer", "--quantiser-bits", "1"], "needs a quantiser of at least 2.25 bits, got 1"),
        (["generate", PROMPT, "--steps", "auto", "--order", "layer"], "--order layer is nothing that a policy plans for"),
        (["generate", PROMPT, "--copies", "2"], "--copies is for features that travel as symbols: give --link analog"),
        (["generate", PROMPT, "--reduction", "transform"], "--reduction is for features that travel as symbols"),
        (["generate", PROMPT, "--csi-error", "0.1"], "--csi-error is for features that travel as symbols"),
        (["generate", PROMPT, "--link", "analog", "--copies", "9"], "copies must lie in [1, 8], got 9"),
        (["generate", PROMPT, "--link", "analog", "--copies", "0"], "copies must lie in [1, 8], got 0"),
        (["generate", PROMPT, "--link", "analog", "--csi-error", "2"], "csi_error must lie in [0, 1], got 2.0"),
        (["generate", PROMPT, "--snr-db", "-Infinity"], "snr_db must lie in"),
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
        (["train", "scenes", "--out", "x", "--gan-weight", "1"], "--gan-weight needs --adversarial"),
        (["train", "scenes", "--out", "x", "--reward-weight", "0"], "--reward-weight needs --adversarial"),
        (["train", "scenes", "--out", "x", "--guidance", "3"], "--guidance needs --distill"),
        (["train", "scenes", "--out", "x", "--save-every", "0"], "--save-every must lie in"),
        (["bench", "link", "--sheet", "x.jpg"], "--sheet is for megen bench backbone: bench link does not use it"),
        (["bench", "link", "--batch", "4"], "--batch is for megen bench backbone"),
        (["bench", "link", "--beside", "x"], "--beside is for megen bench backbone"),
        (["bench", "link", "--drafts", "2"], "--drafts is for megen bench backbone"),
        (["bench", "backbone", "--drafts", "17"], "--drafts must lie in"),
        (["bench", "backbone", "--beside", "nosuch"], "no backbone named"),
        (["generate", "a castle", "--drafts", "0"], "--drafts must lie in"),
        (["generate", "a castle", "--drafts", "2", "--steps", "auto"], "--drafts is nothing that a policy plans for"),
        (["bench", "backbone", "--sweep", "2"], "--sweep is for megen bench link"),
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


def run_in_a_shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of its own process, `megen` standing for the program."""
    line = command.replace("megen", f"{sys.executable} -m megen", 1)
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})


def test_closed_streams_and_a_narrow_encoding_are_no_failure(tmp_path: Path) -> None:
    command = "megen scenes castle --size-px 64 --out"
    assert run_in_a_shell(f"{command} a.png >&- 2>&-", tmp_path).returncode == 0
    narrow = run_in_a_shell(f"{command} é.png", tmp_path, PYTHONIOENCODING="ascii")
    assert (narrow.returncode, narrow.stdout) == (0, "\\xe9.png\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "é.png"]


def test_an_interrupt_while_the_commands_load_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("megen.cli.main.import_module", interrupted)
    assert main(["scenes", "castle"]) == 130
    assert capsys.readouterr().err == "megen: interrupted\n"


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("generate fog", "torch", "server"),
        ("control evaluate", "scipy", "control"),
        ("control train --out x", "torch", "train"),
        ("train scenes --out x", "torch", "train"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    command: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(args: object) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(f"megen.cli.{command.split()[0]}.run", missing)
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"megen: this command needs {package}: pip install 'megen[{extra}]'\n"


def test_a_name_of_megen_that_needs_an_extra_says_which() -> None:
    code = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
import megen
for name in ("generate", "RadioLink", "Controller"):
    try:
        getattr(megen, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert shown == [
        "megen.generate needs torch: pip install 'megen[server]'",
        "megen.RadioLink needs scipy: pip install 'megen[server]'",
        "megen.Controller needs scipy: pip install 'megen[control]'",
    ]


def test_a_report_holds_the_command_and_every_figure_of_the_link(tiny_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "a.json"
    options = ["--steps", "1", "--fading", "rician", "--speed-m-s", "3", "--backbone", str(tiny_folder), "--report", str(report)]
    assert main(["generate", "a castle", "--out", str(tmp_path / "a.png"), *options]) == 0
    written = json.loads(report.read_text())
    assert written["made_by"]["command"].startswith("megen generate 'a castle' --out")
    figures = {"link": "digital", "fading": "rician", "snr_db": 10.0, "bandwidth_hz": 1e6, "speed_m_s": 3.0, "carrier_hz": 3.5e9}
    assert {name: written["channel"][name] for name in figures} == figures
    assert written["decided_by"] == "given"


def test_auto_measures_this_machine_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It once decided by the bundled seconds of another machine."""
    from megen.cost import device_profile
    from megen.evaluation import device_profile as measuring

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = replace(device_profile.load("cpu"), step_s=0.5)
    calls = []
    monkeypatch.setattr(measuring, "profile", lambda *a: calls.append(a) or slow)
    command = ["generate", PROMPT, "--steps", "auto", "--merge-ratio", "auto", "--deadline-s", "1.5", "--out", str(tmp_path / "x.png")]
    for _ in range(2):
        assert main(command) == 0
    assert len(calls) == 1
    warnings = capsys.readouterr().err
    assert "measuring this machine for auto to decide by" in warnings
    assert "chose 2 steps" in warnings  # .5 s each, beside some .3 s of everything else
