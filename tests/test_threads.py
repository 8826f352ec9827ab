"""How PyTorch's threads wait: said before it loads, and never over what the environment says."""

from __future__ import annotations

import os
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from megen import threads
from megen.cli.main import main
from megen.threads import SPINS, ready_threads

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def said() -> tuple[str | None, ...]:
    return tuple(os.environ.get(name) for name in NAMES)


@pytest.fixture(params=["libgomp.so.1", "libgomp-a34b3233.so.1"])
def gnu(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PyTorch that brings GNU's OpenMP."""
    library = tmp_path / "torch" / "lib" / request.param
    library.parent.mkdir(parents=True)
    library.touch()
    origin = str(tmp_path / "torch" / "__init__.py")
    monkeypatch.setattr(threads, "find_spec", lambda name: ModuleSpec(name, None, origin=origin))
    return library


def test_they_spin_shortly_with_gnus_openmp(gnu: Path) -> None:
    ready_threads()
    assert said() == ("ACTIVE", SPINS)


def test_they_do_not_spin_with_another_openmp_which_would_not_end(gnu: Path) -> None:
    gnu.unlink()
    ready_threads()
    assert said() == ("PASSIVE", None)


def test_they_do_not_spin_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "find_spec", lambda name: None)
    ready_threads()
    assert said() == ("PASSIVE", None)


@pytest.mark.parametrize("given", ["PASSIVE", "ACTIVE", ""])
def test_what_the_environment_says_stays(gnu: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given)
    ready_threads()
    assert said() == (given, None)


@pytest.mark.parametrize(("command", "policy"), [("generate", "ACTIVE"), ("train", "PASSIVE")])
def test_a_training_leaves_the_cores_to_what_renders_beside_it(gnu: Path, command: str, policy: str) -> None:
    assert main([command, "--help"]) == 0
    assert said()[0] == policy
