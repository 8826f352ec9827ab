"""Every experiment can still be run: its modules name what is there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
MODULES = sorted(".".join(path.relative_to(TOP).with_suffix("").parts) for path in (TOP / "experiments").rglob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_an_experiment_imports(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] in ("megen", "experiments"):
            raise
        pytest.skip(f"needs {error.name}: an extra of its own")
