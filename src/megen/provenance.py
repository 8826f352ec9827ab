"""What made a file: version and commit of megen, command and device. Needs nothing but the standard library.

A wheel and an sdist carry version and commit in `_build.json` (`hatch_build.py`); git is asked in megen's own checkout only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

PACKAGE = Path(__file__).parent
BUILD = "_build.json"
UNKNOWN = "unknown"
_command: ContextVar[str | None] = ContextVar("command", default=None)


def provenance() -> dict[str, str]:
    """Version, commit, command and device of this process, for the metadata of what it writes."""
    torch = sys.modules.get("torch")  # a report of a process without torch needs none
    about = {**build(), "command": _command.get() or _program(), "device": f"{_processor()}, {os.cpu_count()} cores"}
    if torch is not None:
        about["torch"] = str(torch.__version__)
        if torch.cuda.is_available():
            about["device"] = str(torch.cuda.get_device_name())
    return about


@contextlib.contextmanager
def running(command: str) -> Iterator[None]:
    """Name what this thread runs: the command line knows its arguments, a library does not know its caller's."""
    token = _command.set(command)
    try:
        yield
    finally:
        _command.reset(token)


def _program() -> str:
    """The name of the running script, without its arguments, which may be private."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return "python" if name in ("", "-c", "-m", "__main__.py") else name


@functools.cache
def build() -> dict[str, str]:
    """Version and commit of the installed package; a commit that nothing vouches for is "unknown"."""
    from megen import __version__

    about = {"version": __version__, "commit": UNKNOWN}
    try:
        recorded = json.loads((PACKAGE / BUILD).read_text(encoding="utf-8"))
        about |= {key: str(recorded[key]) for key in about}
    except (OSError, ValueError, LookupError, TypeError):
        about["commit"] = (PACKAGE.parent.name == "src" and commit_of(PACKAGE.parents[1])) or UNKNOWN
    return about


def commit_of(root: Path) -> str | None:
    """HEAD of the git repository whose top folder is `root`, if that is megen's source tree; else None.

    A repository that merely surrounds an installed megen says nothing of it.
    """
    if _project_of(root) != "megen":
        return None
    top, head = _git(root, "rev-parse", "--show-toplevel"), _git(root, "rev-parse", "HEAD")
    return head if top and head and Path(top).resolve() == root.resolve() else None


def _project_of(root: Path) -> str | None:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return None
    return project.get("name") if isinstance(project, dict) else None


def _git(root: Path, *arguments: str) -> str | None:
    """Output of git in `root`, whatever repository the environment names (as inside a git hook)."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, cwd=root, env=environment)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    return platform.processor() or platform.machine() or UNKNOWN
