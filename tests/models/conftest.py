from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.models import tiny_checkpoints as tiny


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tiny checkpoints, written once."""
    logging.disable(logging.WARNING)
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in tiny.PIPELINES:
        tiny.write(kind, root / kind)
    logging.disable(logging.NOTSET)
    return root
