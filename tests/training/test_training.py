from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from megen.models import backbone as backbones
from megen.models.autoencoder import AutoencoderConfig
from megen.models.denoiser import DenoiserConfig
from megen.models.text import TextConfig
from megen.training import autoencoder, latents, loop, teacher
from megen.training.backbone import Plan, train
from megen.training.muon import Muon, orthogonalised
from megen.training.render import render
from megen.training.scenes import vocabulary

TEXT = TextConfig(tuple(vocabulary()), width=32, layers=1, heads=2)
DENOISER = DenoiserConfig(
    channels=8, text_width=32, widths=(16, 16, 32), middle_blocks=1, up_blocks=(1, 1), condition_width=32, head_width=16
)
AUTOENCODER = AutoencoderConfig(8, (8, 8, 8), (8, 8, 8), (1, 1, 1), (1, 1, 1))
CPU = torch.device("cpu")


def pictures(first: int, count: int) -> torch.Tensor:
    return (render([latents.scene(1, first + i) for i in range(count)], 256) * 255).byte()


def latent_set(n: int = 24) -> latents.LatentSet:
    values = torch.randn(n, 8, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    return latents.LatentSet(values, tuple(latents.scene(1, i) for i in range(n)))


def run_teacher(steps: int, folder: Path) -> teacher.TextToLatent:
    recipe = teacher.TeacherRecipe(steps=50, batch=4, save_every=10)
    if steps < 50:  # "killed" at this step: a run of the same recipe that stops on the way

        class Killed(Exception):
            pass

        def kill(model: teacher.TextToLatent, step: int, *_: torch.Tensor) -> None:
            if step >= steps:
                raise Killed

        with pytest.raises(Killed):
            teacher.train(recipe, TEXT, DENOISER, latent_set(), latent_set(), folder, CPU, on_save=kill)
    return teacher.train(recipe, TEXT, DENOISER, latent_set(), latent_set(), folder, CPU)[0]


def test_a_killed_denoiser_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, resumed = run_teacher(50, tmp_path / "a"), run_teacher(20, tmp_path / "b")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_killed_autoencoder_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = autoencoder.AutoencoderRecipe(steps=12, batch=2, pool=6)
    whole = autoencoder.train(recipe, AUTOENCODER, pictures, tmp_path / "a", CPU)
    real = loop.save_checkpoint
    monkeypatch.setattr(autoencoder, "SAVE_EVERY", 5)
    calls = []

    def kill(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", kill)
    with pytest.raises(KeyboardInterrupt):
        autoencoder.train(recipe, AUTOENCODER, pictures, tmp_path / "b", CPU)
    monkeypatch.setattr(loop, "save_checkpoint", real)
    resumed = autoencoder.train(recipe, AUTOENCODER, pictures, tmp_path / "b", CPU)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_training_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = teacher.TeacherRecipe(steps=60, batch=8, save_every=20, lr=3e-3)
    data = latents.LatentSet(latent_set(2).latents.repeat(8, 1, 1, 1), latent_set(16).sources)
    held = data.latents[:4].float()

    def note(model: teacher.TextToLatent, *_: object) -> None:
        losses.append(sum(teacher.validation_error(model, held, ["rain"] * 4, CPU)))

    teacher.train(recipe, TEXT, DENOISER, data, data, tmp_path, CPU, on_save=note)
    assert losses[-1] < losses[0]
    saved = loop.weights.read(tmp_path / "teacher.checkpoint.safetensors")[1]
    assert saved["validation"][3] < 0.9  # a tiny net has learned part of two latents; zero knowledge is 1
    assert {"commit", "command", "device"} <= saved.keys()


def test_orthogonalised_flattens_the_spectrum() -> None:
    for shape in ((16, 40), (40, 16)):
        singular = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert singular.min() > 0.3
        assert singular.max() < 1.4


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    target, layer, x = torch.randn(6, 5), torch.nn.Linear(5, 6, bias=False), torch.randn(64, 5)
    optimiser = Muon(layer.parameters(), lr=0.2)
    for k in range(200):
        optimiser.param_groups[0]["lr"] = 0.2 * (1 - k / 200)
        optimiser.zero_grad()
        loss = (layer(x) - x @ target.T).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 1e-3


def test_the_rate_warms_up_stays_and_falls() -> None:
    factors = [loop.lr_factor(k, 1000, warmup=100, decay_share=0.3) for k in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[100:700] == [1.0] * 600
    assert factors[999] == pytest.approx(1 / 300)


def test_the_average_follows_with_its_decay() -> None:
    fast, slow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    average = loop.Average(fast, slow, 0.9)
    before = slow.weight.clone()
    with torch.no_grad():
        fast.weight.add_(1.0)
    average.update(fast, 10_000)
    torch.testing.assert_close(slow.weight, before + 0.1)


def folder_of_pictures(where: Path, n: int = 6) -> Path:
    where.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (300, 280, 3), dtype=np.uint8)).save(where / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"number {['one', 'two', 'three', 'four', 'five', 'six'][i]}"}))
    (where / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return where


def test_a_folder_of_pictures_trains_into_a_backbone_that_loads(tmp_path: Path) -> None:
    plan = Plan(
        "mine",
        tmp_path / "out",
        pictures=folder_of_pictures(tmp_path / "pictures"),
        image_px=256,
        channels=8,
        autoencoder=autoencoder.AutoencoderRecipe(steps=2, batch=2),
        teacher=teacher.TeacherRecipe(steps=4, batch=2, save_every=2),
        denoiser=DenoiserConfig(
            channels=8, text_width=192, widths=(16, 16, 32), middle_blocks=1, up_blocks=(1, 1), condition_width=32, head_width=16
        ),
        text_layers=1,
    )
    backbone = backbones.load(str(train(plan, CPU)))
    assert backbone.config.text.vocabulary == ("five", "four", "number", "one", "six", "three", "two")
    assert backbone.config.image_px == (256, 256)
    assert list((tmp_path / "out").glob("samples-*.png"))
    # the decoder alone, on from there: latents and denoiser stay
    more = replace(
        plan,
        folder=tmp_path / "more",
        start=str(tmp_path / "out" / "weights"),
        autoencoder=autoencoder.AutoencoderRecipe(steps=2, batch=2, decoder_only=True),
        teacher=teacher.TeacherRecipe(steps=0),
    )
    tuned = backbones.load(str(train(more, CPU)))
    torch.testing.assert_close(tuned.autoencoder.encoder.state_dict(), backbone.autoencoder.encoder.state_dict())
    torch.testing.assert_close(tuned.denoiser.state_dict(), backbone.denoiser.state_dict())
    assert not torch.equal(tuned.autoencoder.decoder.net[0].weight, backbone.autoencoder.decoder.net[0].weight)
    # pictures that were added since make the cached latents another set
    with (plan.pictures / "metadata.jsonl").open("a") as file:  # type: ignore[operator]
        file.write(json.dumps({"file_name": "0.png", "text": "one"}) + "\n")
    with pytest.raises(ValueError, match="other pictures"):
        train(plan, CPU)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("not json", "needs file_name and text"),
        ('{"file_name": "0.png"}', "needs file_name and text"),
        ('{"file_name": "x.png", "text": "a"}', "no picture"),
    ],
)
def test_a_wrong_line_of_captions_is_named(tmp_path: Path, line: str, why: str) -> None:
    folder = folder_of_pictures(tmp_path / "p")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"metadata.jsonl:7: .*{why}"):
        latents.read_captions(folder)


def test_latents_are_cached_once_and_scenes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megen.models.autoencoder import Autoencoder

    monkeypatch.setattr(latents, "SHARD", 16)
    monkeypatch.setattr(latents, "render", lambda scenes, device: render(scenes, 64, device))
    model = Autoencoder(AUTOENCODER)
    latents.cache_scenes(model, 1, 20, tmp_path, CPU, 2)
    first = latents.load(tmp_path, 20)
    assert len(first) == 20
    assert first.latents.shape == (20, 8, 2, 2)
    assert first.sources[3] == latents.scene(1, 3)
    times = [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())]
    latents.cache_scenes(model, 1, 20, tmp_path, CPU, 2)
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())] == times
    with pytest.raises(ValueError, match="made from another encoder"):
        latents.cache_scenes(Autoencoder(AUTOENCODER), 1, 20, tmp_path, CPU, 2)
