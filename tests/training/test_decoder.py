"""Light receivers of any backbone: trained, interrupted, exported, and put in the place of the backbone's own decoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="megen[published] is not installed")

import megen
from megen import export
from megen.backbone import Backbone
from megen.cli.main import main
from megen.codec import prior
from megen.errors import InputError
from megen.halves import LocalReceiver, Transmitter
from megen.models import light_decoder, published, tiles, weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.light_decoder import LightReceiver, config_for
from megen.models.published import Checkpoint
from megen.models.restorer import RestorerConfig
from megen.training import decoder, examples
from megen.training.decoder import DecoderRecipe
from megen.types import Features
from megen.ue import Receiver
from tests.conftest import interrupted_at

SMALL = {"examples": 6, "steps": 4, "batch": 2}


def shown(backbone: Backbone, count: int = 8) -> examples.Examples:
    """Latents of noise, and what the backbone's decoder shows of them."""
    latents = torch.randn(count, *backbone.spec.latent_shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        pictures = (backbone.decode(latents).clamp(0, 1) * 255).round().byte()
    return examples.Examples(latents, pictures)


def small_config(backbone: Backbone) -> light_decoder.LightDecoderConfig:
    own = config_for(backbone.spec.latent_shape, backbone.spec.image_px, 0.1)
    return light_decoder.LightDecoderConfig(own.channels, own.patch, own.widths, own.blocks, RestorerConfig(8, 1))


def train(backbone: Backbone, folder: Path, **recipe: Any) -> LightReceiver:
    plain = prior.plain(backbone.spec.latent_shape[0])
    return decoder.train(DecoderRecipe(**recipe), small_config(backbone), backbone, shown(backbone), plain, folder)


def test_it_learns_what_the_backbones_own_decoder_shows(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    torch.manual_seed(4)  # of first weights: what a few steps gain depends on them
    model = train(tiny, tmp_path, steps=60, batch=4, lr=2e-3)
    start = LightReceiver(model.config)
    data = shown(tiny)
    start.decoder.start_from_least_squares(data.latents[1:], data.pictures[1:].float() / 255)
    assert decoder.held_out_psnr_db(model, data, 1) > decoder.held_out_psnr_db(start, data, 1) + 0.1
    loaded = light_decoder.load(tmp_path)
    state = torch.zeros(1, 4, *data.latents.shape[2:])
    with torch.inference_mode():
        apart = (loaded.receive(data.latents[:1], state) - model.receive(data.latents[:1], state)).abs().max()
    assert apart < 0.01  # weights are kept as halves


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    tiny: EmbeddedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny, tmp_path / "whole", steps=5, batch=2, save_every=2)
    calls = interrupted_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", steps=5, batch=2, save_every=2)
    resumed = train(tiny, tmp_path / "cut", steps=5, batch=2, save_every=2)
    assert next(calls) == 7  # steps 2, 3 and 4 came after the checkpoint
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(InputError, match="lr"):
        train(tiny, tmp_path / "cut", steps=5, batch=2, save_every=2, lr=1e-3)


def test_each_process_draws_its_own_rows(tiny: EmbeddedBackbone) -> None:
    data = shown(tiny)
    start = LightReceiver(small_config(tiny)).decoder
    chance = decoder.chance_of(start, data.latents[1:], data.pictures[1:], DecoderRecipe().crop_px)
    pool = decoder._pool(data, 1, prior.plain(data.latents.shape[1]), 0, chance)
    first, second = (pool.batch(DecoderRecipe(batch=4), number, torch.device("cpu")) for number in (6, 7))
    assert not torch.equal(first[0], second[0])
    again = pool.batch(DecoderRecipe(batch=4), 6, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_crops_are_drawn_where_the_linear_path_errs(tiny: EmbeddedBackbone) -> None:
    data, start = shown(tiny), LightReceiver(small_config(tiny)).decoder
    patch, side = start.config.patch, 2
    with torch.inference_mode():
        linear = torch.nn.functional.pixel_shuffle(start.linear(data.latents), patch) * 0.5 + 0.5
    pictures = (linear.clamp(0, 1) * 255).round().byte()
    pictures[3, :, : 2 * patch, patch : 3 * patch] = 255 - pictures[3, :, : 2 * patch, patch : 3 * patch]  # detail, in one crop
    chance = decoder.chance_of(start, data.latents, pictures, side * patch)
    weight = chance.flatten().diff(prepend=torch.zeros(1, dtype=chance.dtype)).reshape(chance.shape)
    assert (weight > 0).all()
    assert torch.unravel_index(weight.argmax(), weight.shape) == (3, 0, 1)
    pool = decoder._Pool(data.latents, data.latents, torch.zeros(len(data.latents), 4, *data.latents.shape[2:]), pictures, chance)
    recipe = DecoderRecipe(batch=400, crop_px=side * patch)
    drawn = pool.batch(recipe, 0, torch.device("cpu"))[2]
    there = (drawn == pictures[3, :, : 2 * patch, patch : 3 * patch].float() / 255).all((1, 2, 3)).float().mean()
    expected = float(weight[3, 0, 1] / chance.flatten()[-1])
    assert abs(float(there) - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


@pytest.mark.parametrize("kind", ["sdxl", "sana"])
def test_the_command_makes_a_receiver_that_a_backbone_file_names(kind: str, folders: Path, tmp_path: Path) -> None:
    px = {"sdxl": 32, "sana": 64}[kind]
    (tmp_path / "plain.json").write_text(json.dumps({"source": str(folders / kind), "image_px": px, "steps": [1, 2]}))
    out = str(tmp_path / "ue")
    common = ["--backbone", str(tmp_path / "plain.json"), "--out", out, "--examples", "6"]
    assert main(["train", "decoder", *common, "--steps", "4", "--batch", "2", "--width", "0.1"]) == 0
    own = {"source": str(folders / kind), "image_px": px, "steps": [1, 2], "receiver": out}
    (tmp_path / "light.json").write_text(json.dumps(own))
    pipe = megen.Pipeline.load(str(tmp_path / "light.json"))
    assert isinstance(pipe.receiver, Receiver)
    before = pipe("a castle", steps=2, merge_ratio=0.5, quantiser_bits=4)
    assert before.image.shape == (px, px, 3)
    assert main(["train", "prior", *common, "--steps", "20"]) == 0
    after = megen.Pipeline.load(str(tmp_path / "light.json"))("a castle", steps=2, merge_ratio=0.5, quantiser_bits=4)
    assert after.report.payload_bits.features != before.report.payload_bits.features
    assert np.abs(after.image.astype(int) - before.image).mean() < 30


def test_a_receiver_of_another_backbone_is_refused(folders: Path, tmp_path: Path, tiny_folder: Path) -> None:
    backbone = published.load(str(folders / "sdxl"))
    light = LightReceiver(small_config(backbone))
    export.export_receiver(light, backbone, prior.plain(16), tmp_path / "receiver.onnx")
    own = {"source": str(folders / "sdxl-lcm"), "receiver": str(tmp_path)}
    (tmp_path / "other.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match="is of another backbone: write it again with megen export"):
        megen.Pipeline.load(str(tmp_path / "other.json"))


@pytest.mark.parametrize("kind", ["sdxl", "sana", "klein", "z-image"])
def test_a_backbones_own_decoder_is_exported(kind: str, folders: Path, tmp_path: Path) -> None:
    backbone = published.load(Checkpoint(str(folders / kind), image_px={"sana": 64}.get(kind, 32)))
    channels = backbone.spec.latent_shape[0]
    export.export_receiver(export.net_of(backbone), backbone, prior.plain(channels), tmp_path / "receiver.onnx")
    receiver = Receiver.load(tmp_path)
    tokens = np.random.default_rng(0).standard_normal((backbone.spec.latent_shape[1] * backbone.spec.latent_shape[2], channels))
    features = Features.clean(tokens.astype(np.float32))
    here = LocalReceiver(Transmitter(backbone, receiver.codec)).image_of(features)
    assert np.abs(receiver.image_of(features).astype(int) - here).max() <= 1


def test_a_decoder_in_tiles_gives_the_bytes_of_the_whole(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    torch.manual_seed(0)
    shape = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (2, 1)}
    diffusers.AutoencoderTiny(**shape, **blocks).save_pretrained(tmp_path / "small")
    backbone = published.load(Checkpoint(str(folders / "sdxl"), decoder=str(tmp_path / "small"), image_px=128))
    net, plain = export.net_of(backbone), prior.plain(16)
    monkeypatch.setattr(tiles, "SIDE", 24)
    export.export_receiver(net, backbone, plain, tmp_path / "tiles" / "receiver.onnx")
    monkeypatch.setattr(tiles, "splits", lambda decoder: False)
    export.export_receiver(net, backbone, plain, tmp_path / "whole" / "receiver.onnx")
    tokens = np.random.default_rng(0).standard_normal((1024, 16)).astype(np.float32)
    parts, whole = (Receiver.load(tmp_path / name).image_of(Features.clean(tokens)) for name in ("tiles", "whole"))
    assert parts.shape == (128, 128, 3)
    assert (parts == whole).all()
    local = LocalReceiver(Transmitter(backbone, Receiver.load(tmp_path / "tiles").codec)).image_of(Features.clean(tokens))
    assert np.abs(local.astype(int) - whole).max() <= 1


def test_what_cannot_be_trained_is_refused(tiny: EmbeddedBackbone, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(InputError, match=r"tokens of 2, 4, \.\.\. 64 px, and these are of 24"):
        config_for((4, 8, 8), (192, 192))
    plain = prior.plain(tiny.spec.latent_shape[0])
    with pytest.raises(InputError, match="at least 2 examples, got 1"):
        decoder.train(DecoderRecipe(steps=1), small_config(tiny), tiny, shown(tiny, 1), plain, tmp_path)
    examples.collect(tiny, lambda i: (torch.zeros(1, *tiny.latent_shape),) * 2, 2, tmp_path / "e", "this")
    with pytest.raises(InputError, match="holds examples of another source: train into another folder"):
        examples.collect(tiny, lambda i: (torch.zeros(1, *tiny.latent_shape),) * 2, 2, tmp_path / "e", "that")
    for options, why in (
        (["--pictures", "x", "--scenes"], "--pictures and --scenes both say what to train on"),
        (["--prompts", "x", "--scenes"], "--prompts are for samples of the backbone"),
        (["--examples", "1"], "--examples"),
        (["--pictures", str(tmp_path)], "has no metadata.jsonl"),
    ):
        assert main(["train", "decoder", "--backbone", str(folders / "sdxl"), "--out", str(tmp_path / "o"), *options]) == 2
        assert why in capsys.readouterr().err


def test_a_light_decoder_of_the_bundled_latents_is_light() -> None:
    from megen.evaluation.device_profile import gflops

    model = LightReceiver(config_for((32, 32, 32), (1024, 1024)))
    with torch.inference_mode():
        assert gflops(lambda: model.receive(torch.zeros(1, 32, 32, 32), torch.zeros(1, 4, 32, 32))) < 40


@pytest.mark.slow
def test_two_processes_train_one_decoder(folders: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "megen", "train", "decoder"]
    options = ["--backbone", str(folders / "sdxl"), "--out", str(tmp_path), "--examples", "6", "--steps", "4", "--batch", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("receiver.onnx") == 1
    assert int(weights.about(tmp_path / light_decoder.FILE)["processes"]) == 2
    assert light_decoder.load(tmp_path).config.channels == 16
