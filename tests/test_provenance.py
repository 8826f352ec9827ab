from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import megen
from megen import provenance

ROOT = Path(__file__).parents[1]
SOURCE = Path(provenance.__file__).parent


def git(folder: Path, *arguments: str) -> str:
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True, env=quiet).stdout.strip()


def repository(folder: Path, project: str) -> str:
    """A git repository of one commit with a project of a name; gives the commit."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


def build_of(package: Path, built: dict[str, str] | None = None) -> dict[str, str]:
    """What a copy of megen at `package`, with what its build left there, says of its own making."""
    package.mkdir(parents=True)
    for name in ("__init__.py", "provenance.py"):
        shutil.copy(SOURCE / name, package / name)
    if built is not None:
        (package / provenance.BUILD).write_text(json.dumps(built))
    code = "import json, megen.provenance as p; print(json.dumps(p.build()))"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, cwd=package.parent)
    return dict(json.loads(done.stdout))


def test_the_users_repository_says_nothing_of_an_installed_megen(tmp_path: Path) -> None:
    repository(tmp_path / "project", "theirs")
    installed = tmp_path / "project" / ".venv" / "lib" / "site-packages" / "megen"
    assert build_of(installed) == {"version": megen.__version__, "commit": "unknown"}
    repository(tmp_path / "named", "megen")  # a user's project that bears the name, megen in its .venv
    assert build_of(tmp_path / "named" / ".venv" / "megen")["commit"] == "unknown"


def test_megens_own_checkout_says_its_commit(tmp_path: Path) -> None:
    head = repository(tmp_path / "own", "megen")
    assert build_of(tmp_path / "own" / "src" / "megen")["commit"] == head


def test_a_copy_of_the_source_inside_another_repository_is_not_asked(tmp_path: Path) -> None:
    repository(tmp_path / "outer", "theirs")
    inner = tmp_path / "outer" / "vendor" / "megen"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text('[project]\nname = "megen"\n')
    assert build_of(inner / "src" / "megen")["commit"] == "unknown"
    assert provenance.commit_of(tmp_path / "nowhere") is None


def test_the_commit_of_the_build_counts_where_there_is_one(tmp_path: Path) -> None:
    repository(tmp_path / "own", "megen")
    told = {"version": "9.9", "commit": "abc"}
    assert build_of(tmp_path / "own" / "src" / "megen", told) == told
    assert build_of(tmp_path / "broken" / "megen", {"version": "9.9"}) == {"version": megen.__version__, "commit": "unknown"}


def test_a_git_hooks_environment_does_not_mislead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = repository(tmp_path / "own", "megen")
    repository(tmp_path / "other", "theirs")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert provenance.commit_of(tmp_path / "own") == head


def test_the_command_is_that_of_the_command_line_and_else_the_scripts_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, command in (
        (["/home/me/train.py", "--token", "secret"], "train.py"),
        (["/bin/megen", "generate"], "megen"),
        (["-c", "x"], "python"),
        ([""], "python"),
        ([], "python"),
        (["/lib/site-packages/theirs/__main__.py"], "python"),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        assert provenance.provenance()["command"] == command
        with provenance.running("megen generate 'a castle'"):
            assert provenance.provenance()["command"] == "megen generate 'a castle'"


def test_provenance_loads_no_torch_and_names_it_where_it_is_loaded() -> None:
    code = "import sys, megen.provenance as p; a = p.provenance(); assert 'torch' not in sys.modules; print(sorted(a))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['command', 'commit', 'device', 'version']"
    import torch

    assert provenance.provenance()["torch"] == torch.__version__
