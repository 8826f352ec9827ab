"""Servers for tests: one with the tiny backbone, and one whose engine does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megen.backbone import BackboneSpec
from megen.protocol.messages import PROTOCOLS, Backbone, Welcome
from megen.scenes.completion import Completion
from megen.serving import server
from megen.serving.access import Access
from megen.serving.app import App, Decoding
from megen.serving.decider import Decider
from megen.serving.job import Engine
from megen.serving.outcome import Outcomes
from megen.serving.service import Service, Settings

from .helpers import GreyReceiver, live

SPEC = BackboneSpec("told", (8, 8, 8), (64, 64), {1: (0.0, 1.0), 4: (0.0, 0.25, 0.5, 0.75, 1.0)}, (0.0, 0.5), 16)
TOLD = Backbone(name="told", fingerprint=1, latent_shape=(8, 8, 8), image_px=(64, 64), steps=(1, 4), merge_ratios=(0.0, 0.5), max_words=16)
OFFERED = Welcome(protocol=PROTOCOLS[-1], server="test", backbone=TOLD, receiver="/r", codec="/c")


@pytest.fixture(scope="session")
def tiny_app(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The whole server, with a backbone of random weights."""
    log = tmp_path_factory.mktemp("log") / "outcomes.jsonl"
    app = server.build(server.Options(str(tiny_folder), "cpu", settings=Settings(rows=4, capacity=32), log_path=log))
    yield app
    app.service.engine.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def tiny_server(tiny_app: App) -> Iterator[str]:
    with live(tiny_app) as url:
        yield url


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., App]:
    """An app whose engine is given."""

    def make(engine: Engine, access: Access | None = None, **options: Any) -> App:
        log = options.pop("log", tmp_path / "outcomes.jsonl")
        service = Service(
            engine,
            Decider(SPEC),
            options.pop("complete", lambda prompt, seed: Completion(prompt)),
            settings=Settings(**options),
            outcomes=Outcomes(log),
            about={"version": "test"},
        )
        return App(service, access or Access(), Decoding(OFFERED, GreyReceiver(), {}))

    return make
