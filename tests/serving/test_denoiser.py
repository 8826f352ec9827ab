"""A server whose backbone has a phone's denoiser: user equipment that has none of its files gets all three."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch

from megen.models import embedded, phone_denoiser
from megen.models.phone_denoiser import PhoneDenoiser, PhoneDenoiserConfig
from megen.pipeline import Pipeline
from megen.serving import server
from megen.types import Received
from megen.ue.client import Client
from tests.conftest import make_tiny

from .helpers import live

COARSE = {"merge_ratio": 0.5, "quantiser_bits": 1.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of random weights; the user's cache folder is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "phone"
    embedded.save(make_tiny(), place, {})
    torch.manual_seed(0)
    net = PhoneDenoiser(PhoneDenoiserConfig(8, (8, 16, 64), (1, 1), 1, (1, 1)))
    torch.nn.init.normal_(net.outward.weight, std=0.05)
    phone_denoiser.save(net, place, {})
    return place


def test_coarse_features_are_cleaned_by_the_denoiser_that_the_server_offers(folder: Path, tmp_path: Path) -> None:
    app = server.build(server.Options(str(folder), "cpu", log_path=tmp_path / "log.jsonl"))
    try:
        with live(app) as url:
            answer, kept = ask(url), next((tmp_path / "cache").rglob("denoiser.onnx"))
            kept.unlink()
            without = ask(url)
            (path,) = [path for path in app.files if path.endswith("/denoiser.onnx")]
            with urlopen(url + path) as file:
                assert "immutable" in file.headers["Cache-Control"]
                assert len(file.read()) > 2 * sum(p.numel() for p in phone_denoiser.load(folder).parameters())  # type: ignore[union-attr]
    finally:
        app.service.engine.close()  # type: ignore[attr-defined]
    pipe = Pipeline.load(str(folder), device="cpu")
    latent = pipe.transmitter.denoise(["a castle at dawn"], [3], 4)
    payload = pipe.transmitter.encode(latent, COARSE["merge_ratio"], quantiser_bits=COARSE["quantiser_bits"]).payload
    own = pipe.receiver.decode(Received(payload)).astype(int)
    assert np.abs(answer - own).max() <= 1
    assert np.abs(without - own).max() > 3


def ask(url: str) -> np.ndarray:
    return asyncio.run(Client([url]).ask("a castle at dawn", seed=3, steps=4, **COARSE)).image
