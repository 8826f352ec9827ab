"""A published checkpoint behind the server: it decodes where no user equipment can, or a decoder in tiles is offered."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="megen[published] is not installed")

import megen
from megen import export
from megen.codec import prior
from megen.control import fit
from megen.models import published, tiles
from megen.protocol.messages import Coded, Generate, Resume
from megen.serving import server
from megen.serving.decoding import Pictures
from megen.serving.service import Settings
from megen.ue.client import Client
from megen.ue.receiver import GRAPH, TAIL, Receiver

from .helpers import Peer, live, until

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


@pytest.fixture(scope="module")
def in_tiles(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone's file whose receiver is a decoder of the TAESD kind, cut into 3 x 3 tiles."""
    import diffusers

    place = tmp_path_factory.mktemp("tiles")
    torch.manual_seed(0)
    shape = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (2, 1)}
    diffusers.AutoencoderTiny(**shape, **blocks).save_pretrained(place / "small")
    own = {"source": str(folders / "sdxl"), "decoder": str(place / "small"), "image_px": 128, "steps": [1, 2]}
    (place / "plain.json").write_text(json.dumps(own))
    backbone = published.load(str(place / "plain.json"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiles, "SIDE", 24)
        export.export_receiver(export.net_of(backbone), backbone, prior.plain(backbone.spec.latent_shape[0]), place / "ue" / GRAPH)
    (place / "light.json").write_text(json.dumps({**own, "receiver": str(place / "ue")}))
    return place / "light.json"


def test_a_decoder_in_tiles_is_offered_and_the_server_decodes_for_who_knows_none(
    in_tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = megen.Pipeline.load(str(in_tiles), link=megen.PerfectLink())(PROMPT, seed=3, steps=2).image.astype(int)
    app = server.build(server.Options(str(in_tiles), "cpu", settings=Settings(rows=4)))
    try:
        with live(app) as url:
            answer = asyncio.run(Client([url]).ask(PROMPT, seed=3, steps=2))
            peer = Peer(url, said={"protocols": (1, 2)})
            peer.send(Generate(id="0" * 32, prompt=PROMPT, seed=3, steps=2))
            coded = next(e for e in peer.until("done") if isinstance(e, Coded))
    finally:
        app.service.engine.close()  # type: ignore[attr-defined]
    assert answer.received is not None
    assert (answer.image == Receiver.load(in_tiles.parent / "ue").decode(answer.received)).all()
    assert np.abs(answer.image.astype(int) - expected).mean() < 0.5
    assert len(list(tmp_path.rglob(TAIL))) == 1
    assert peer.first.receiver is None
    assert coded.picture == "image/webp"


def test_a_picture_is_decoded_where_it_is_there_sooner(in_tiles: Path) -> None:
    app = server.build(server.Options(str(in_tiles), "cpu", settings=Settings(rows=4)))
    try:
        with live(app) as url:
            slow, fast = (Peer(url, said={"decode_s": seconds}) for seconds in (60.0, 0.01))
            for peer, crosses in ((slow, "image/webp"), (fast, None)):
                peer.send(Generate(id=secrets.token_hex(16), prompt=PROMPT, seed=3, steps=2))
                assert next(e for e in peer.until("done") if isinstance(e, Coded)).picture == crosses
            begun = Generate(id=secrets.token_hex(16), prompt=PROMPT, seed=3, steps=2)
            fast.send(begun)
            fast.until("done")
            older = Peer(url, said={"protocols": (1, 2)})  # which could not read its features
            older.send(Resume(id=begun.id))
            assert older.until("error")[-1].code == "unknown_request"
    finally:
        app.service.engine.close()  # type: ignore[attr-defined]


def test_a_slow_user_equipment_gets_a_picture_and_its_deadline_is_planned_with_the_servers_decoding(in_tiles: Path, tmp_path: Path) -> None:
    app = server.build(server.Options(str(in_tiles), "cpu", settings=Settings(rows=4), log_path=tmp_path / "log.jsonl"))
    try:
        with live(app) as url:
            answer = asyncio.run(Client([url], decode_s=60.0).ask(PROMPT, seed=3, steps=2, deadline_s=30.0))
            until(lambda: (tmp_path / "log.jsonl").is_file())
    finally:
        app.service.engine.close()  # type: ignore[attr-defined]
    assert answer.received is None
    assert answer.image.shape == (128, 128, 3)
    assert answer.accepted.expected_s is None or answer.accepted.expected_s < 30
    (line,) = fit.read(tmp_path / "log.jsonl")
    decoded_s = answer.report["latency_s"]["es_decode"]
    assert line.ue_s == pytest.approx(decoded_s + answer.decode_s, rel=0.01)  # the server stands for the user equipment
    assert line.es_s == pytest.approx(sum(answer.report["latency_s"][k] for k in ("text", "denoise", "merge", "code")), rel=0.3)


def test_the_sooner_place_goes_by_both_machines_and_the_link() -> None:
    pictures = Pictures()
    assert not pictures.sooner_here(None, 1e6)  # it tries
    assert not pictures.sooner_here(18.0, 0.0)
    assert pictures.sooner_here(18.0, 1e6)
    assert not pictures.sooner_here(18.0, 5e4)  # a slow link
    assert not pictures.sooner_here(1.0, 1e7)
    for _ in range(30):
        pictures.decoded(0.1, 8 * 20_000)
        pictures.coded(8 * 7_000)
    assert pictures.sooner_here(1.0, 1e7)
    assert not pictures.sooner_here(0.1, 1e7)
    assert pictures.sooner_here(0.5, 1e7)
    pictures.waiting = 4
    assert not pictures.sooner_here(0.5, 1e7)
