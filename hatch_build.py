"""Writes version and commit into the wheel and the sdist, so that an installed megen never asks the git around it."""

from __future__ import annotations

import json
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface):
    """Adds `megen/_build.json`: from git in megen's own repository, else as an sdist holds it already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a checkout is asked at run time
            return
        root = Path(self.root)
        kept = root / "src" / "megen" / "_build.json"
        commit = runpy.run_path(str(root / "src" / "megen" / "provenance.py"))["commit_of"](root)
        if commit is None and kept.is_file():
            commit = json.loads(kept.read_text(encoding="utf-8"))["commit"]
        self._folder = tempfile.TemporaryDirectory()
        made = Path(self._folder.name) / "_build.json"
        made.write_text(json.dumps({"version": self.metadata.version, "commit": commit or "unknown"}) + "\n", encoding="utf-8")
        inside = "megen/_build.json" if self.target_name == "wheel" else "src/megen/_build.json"
        build_data["force_include"][str(made)] = inside

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()
