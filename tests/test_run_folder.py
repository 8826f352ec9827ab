from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megen import run_folder
from megen.types import InputError

RECIPE = {"lr": 1e-3, "sizes": (1, 2), "teacher": {"seed": 0, "mean": np.float64(0.5)}}


def test_a_folder_goes_on_with_its_own_recipe_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    for _ in range(2):
        with run_folder.held(folder, RECIPE):
            pass
    for change, why in (
        ({"lr": 2e-3}, r"lr is 0.001 there, 0.002 here"),
        ({"teacher": {"seed": 1, "mean": 0.5}}, r"teacher.seed is 0 there, 1 here"),
        ({"sizes": [1, 2, 3]}, r"sizes is \[1, 2\] there"),
        ({"new": "x"}, r'new is null there, "x" here'),
    ):
        with pytest.raises(InputError, match=why), run_folder.held(folder, {**RECIPE, **change}):
            raise AssertionError("the run began")
    (folder / run_folder.MARK).write_text("{")
    with pytest.raises(InputError, match=r"recipe.json is not a recipe"), run_folder.held(folder, RECIPE):
        raise AssertionError("the run began")


def test_results_of_an_unknown_recipe_are_not_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "latents").mkdir()
    (tmp_path / "policy.npz").write_text("")
    with pytest.raises(InputError, match=r"holds policy.npz but no recipe.json"), run_folder.held(tmp_path, RECIPE):
        raise AssertionError("the run began")
    (tmp_path / "policy.npz").unlink()
    with run_folder.held(tmp_path, RECIPE):
        pass


def test_many_differences_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"k4 is 4 there, 5 here and 3 more\)"):
        run_folder.check_same({f"k{i}": i + 1 for i in range(8)}, {f"k{i}": i for i in range(8)}, "x")


def test_a_second_run_is_refused_at_once_and_the_first_goes_on(tmp_path: Path) -> None:
    with run_folder.held(tmp_path, RECIPE):
        with pytest.raises(InputError, match="another run is at work"), run_folder.held(tmp_path, RECIPE):
            raise AssertionError("the run began")
        code = "import sys; from pathlib import Path; from megen import run_folder; run_folder.held(Path(sys.argv[1]), {}).__enter__()"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert "another run is at work" in other.stderr
    with run_folder.held(tmp_path, RECIPE):
        pass


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from megen import run_folder\n"
        "run = run_folder.held(Path(sys.argv[1]), {'a': 1}); run.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another run"), run_folder.held(tmp_path, {"a": 1}):
        raise AssertionError("the run began")
    holder.kill()
    holder.communicate()
    with run_folder.held(tmp_path, {"a": 1}):
        pass


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / run_folder.LOCK).mkdir(parents=True)
    with pytest.raises(InputError, match="odd is not writable"), run_folder.held(tmp_path / "odd", RECIPE):
        raise AssertionError("the run began")
    with pytest.raises(InputError, match="x cannot be made"), run_folder.held(tmp_path / "file" / "x", RECIPE):
        raise AssertionError("the run began")
