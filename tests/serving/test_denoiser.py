"""A server whose backbone has a phone's denoiser: user equipment that has none of its files gets all three."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch

from megen import export
from megen.models import embedded, phone_denoiser
from megen.models.phone_denoiser import PhoneDenoiser, PhoneDenoiserConfig
from megen.pipeline import Pipeline
from megen.serving import server
from megen.types import Received
from megen.ue import Receiver
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
            data = kept.read_bytes()
            for earlier in (None, b"of earlier weights"):
                kept.unlink() if earlier is None else kept.write_bytes(earlier)
                assert (ask(url) == answer).all()
                assert kept.read_bytes() == data
            without = ask(url, replace(Receiver.load(kept.parent), denoiser=None))
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


def test_a_denoiser_of_another_backbone_or_none_at_all_is_not_offered(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export.placed_receiver(embedded.load(str(folder)), folder)
    graph = folder / "denoiser.onnx"
    for spoilt, why in ((graph.read_bytes().replace(b"fingerprint", b"fingerpaint"), "of another backbone"), (b"no graph", "not offered")):
        graph.write_bytes(spoilt)
        assert server._denoiser_asset(graph, 1) is None
        assert why in caplog.text
    (folder / phone_denoiser.FILE).unlink()
    export.placed_receiver(embedded.load(str(folder)), folder)
    assert not graph.exists()
    app = server.build(server.Options(str(folder), "cpu", log_path=tmp_path / "log.jsonl"))
    try:
        assert not [path for path in app.files if path.endswith("/denoiser.onnx")]
    finally:
        app.service.engine.close()  # type: ignore[attr-defined]


def ask(url: str, receiver: Receiver | None = None) -> np.ndarray:
    return asyncio.run(Client([url], receiver=receiver).ask("a castle at dawn", seed=3, steps=4, **COARSE)).image
