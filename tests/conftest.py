"""A backbone small enough to build in a moment, with random weights."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from megen.models import embedded, placement
from megen.models.autoencoder import AutoencoderConfig
from megen.models.denoiser import DenoiserConfig
from megen.models.embedded import BackboneConfig, EmbeddedBackbone
from megen.models.restorer import RestorerConfig
from megen.models.text import TextConfig
from megen.scenes.captions import vocabulary
from megen.training import loop


def pytest_configure() -> None:
    """What is kept in the user's cache folder goes to one of the tests' own; nets keep full precision on any processor."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="megen-tests-")
    placement.CPU_INFO = Path("/nosuch/cpuinfo")  # bf16 would be measured against bounds for float32


def make_tiny(seed: int = 0) -> EmbeddedBackbone:
    torch.manual_seed(seed)
    config = BackboneConfig(
        "tiny",
        TextConfig(tuple(vocabulary()), width=32, layers=1, heads=2, direct=True),
        DenoiserConfig(
            channels=8,
            text_width=32,
            widths=(16, 32, 32),
            middle_blocks=1,
            up_blocks=(1, 1),
            condition_width=32,
            head_width=16,
            placed=True,
        ),
        AutoencoderConfig(8, (8, 8, 16), (8, 8, 16), (1, 1, 1), (1, 1, 1)),
        steps=(1, 2, 4),
        grid=(8, 8),
        restorer=RestorerConfig(16, 1),
    )
    backbone = EmbeddedBackbone(config)
    for p in [*backbone.denoiser.parameters(), *backbone.restorer.parameters()]:  # the zero-initialised layers would hide every mistake
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.05)
    backbone.latent_mean.normal_()
    backbone.latent_scale.uniform_(0.5, 1.5)
    return backbone.eval()


def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[int]:
    """Let a training be interrupted in that step, counted from 0; the numbers of the steps to come, of the runs after it too."""
    descend, calls = loop.descend, itertools.count()

    def stopping(*args: Any) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        descend(*args)

    monkeypatch.setattr(loop, "descend", stopping)
    return calls


@pytest.fixture(scope="session")
def tiny() -> EmbeddedBackbone:
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tiny: EmbeddedBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    embedded.save(tiny, folder, {})
    return folder


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls as a user makes them, without the tests' check of every signature: for inputs of a wrong type."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tiny checkpoints, written once."""
    from experiments import tiny_checkpoints as tiny

    logging.disable(logging.WARNING)
    root = tmp_path_factory.mktemp("checkpoints")
    for kind in tiny.PIPELINES:
        tiny.write(kind, root / kind)
    logging.disable(logging.NOTSET)
    return root
