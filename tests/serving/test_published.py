"""A published checkpoint behind the server: no user equipment decodes it, so the server does."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers", reason="megen[published] is not installed")

import megen
from megen.serving import server
from megen.serving.service import Settings
from megen.ue.client import Client

from .helpers import live

PROMPT = "a castle at dawn"


@pytest.fixture(scope="module")
def backbone(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("file") / "fast.json"
    path.write_text(json.dumps({"source": str(folders / "sdxl"), "sampler": "ancestral", "steps": [1, 2, 4]}))
    return str(path)


@pytest.fixture(scope="module")
def address(backbone: str) -> Iterator[str]:
    app = server.build(server.Options(backbone, "cpu", settings=Settings(rows=4)))
    with live(app) as url:
        yield url
    app.service.engine.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def expected(backbone: str) -> np.ndarray:
    return megen.Pipeline.load(backbone, link=megen.PerfectLink())(PROMPT, seed=3, steps=2).image.astype(int)


def test_the_picture_crosses_where_the_features_cannot_be_decoded(address: str, expected: np.ndarray) -> None:
    answer = asyncio.run(Client([address]).ask(PROMPT, seed=3, steps=2))
    assert answer.received is None
    file = io.BytesIO()
    Image.fromarray(expected.astype(np.uint8)).save(file, "webp", quality=server.WEBP_QUALITY)
    assert np.abs(answer.image.astype(int) - np.asarray(Image.open(file).convert("RGB"))).mean() < 0.5
    assert answer.report["latency_s"]["es_decode"] > 0


def test_rows_of_several_users_share_its_steps_and_change_nothing(address: str) -> None:
    async def both() -> list[np.ndarray]:
        asked = [Client([address]).ask(PROMPT, seed=seed, steps=steps) for seed, steps in ((3, 2), (4, 4), (5, 1))]
        return [answer.image for answer in await asyncio.gather(*asked)]

    together = asyncio.run(both())
    alone = asyncio.run(Client([address]).ask(PROMPT, seed=3, steps=2)).image
    assert np.abs(together[0].astype(int) - alone).max() <= 2  # floating-point sums of a larger batch


def test_the_images_call_decodes_it_too(address: str, expected: np.ndarray) -> None:
    body = json.dumps({"prompt": PROMPT, "seed": 3, "quality": "medium", "response_format": "b64_json"}).encode()
    with urlopen(Request(f"{address}/v1/images/generations", body, {"Content-Type": "application/json"})) as answer:
        picture = base64.b64decode(json.load(answer)["data"][0]["b64_json"])
    assert np.abs(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int) - expected).max() <= 2
