from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from megen import run_folder
from megen.codec import prior as priors
from megen.models import embedded
from megen.models.autoencoder import AutoencoderConfig
from megen.models.denoiser import DenoiserConfig
from megen.models.restorer import RestorerConfig
from megen.models.text import TextConfig
from megen.scenes import captions as scenes
from megen.scenes.captions import vocabulary
from megen.scenes.render import render
from megen.training import autoencoder, latents, loop, restorer, teacher
from megen.training import backbone as backbone_training
from megen.training import pictures as pictures_module
from megen.training.backbone import Plan, train
from megen.training.distill import DistillRecipe
from megen.training.muon import Muon, orthogonalised
from megen.types import InputError

TEXT = TextConfig(tuple(vocabulary()), width=32, layers=1, heads=2, direct=True)
DENOISER = DenoiserConfig(
    channels=8, text_width=32, widths=(16, 16, 32), middle_blocks=1, up_blocks=(1, 1), condition_width=32, head_width=16, placed=True
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
            teacher.train(recipe, TEXT, DENOISER, lambda step: latent_set(), latent_set(), folder, CPU, on_save=kill)
    return teacher.train(recipe, TEXT, DENOISER, lambda step: latent_set(), latent_set(), folder, CPU)[0]


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

    teacher.train(recipe, TEXT, DENOISER, lambda step: data, data, tmp_path, CPU, on_save=note)
    assert losses[-1] < losses[0]
    saved = loop.weights.read(tmp_path / "teacher.checkpoint.safetensors")[1]
    assert saved["validation"][3] < 0.9  # a tiny net has learned part of two latents; zero knowledge is 1
    assert {"commit", "command", "device"} <= saved.keys()


def test_a_growing_set_depends_on_the_step_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = autoencoder.Autoencoder(AUTOENCODER).eval()

    def opened() -> AbstractContextManager[Callable[[int], latents.LatentSet]]:
        return latents.growing_scenes(encoder, 1, 40, 2, 64, tmp_path, device=CPU, workers=2)

    with opened() as at:
        first, second = at(0), at(300)
        assert at(301) is second  # nothing new before the next whole shard
    assert len(first) == 40
    assert len(second) == 40 + latents.SHARD
    torch.testing.assert_close(second.latents[:40], first.latents)
    last = latents.scene(1, 2 * latents.SHARD - 1)
    assert second.sources[-1] == last
    with torch.inference_mode():
        torch.testing.assert_close(second.latents[-1:], encoder.encoder(render([last], 64)).half(), rtol=1e-2, atol=1e-2)
    with opened() as at:  # as after a kill
        torch.testing.assert_close(at(300).latents, second.latents)


def test_the_restorer_learns_to_undo_what_links_do(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(192, 8, 4, 4, generator=generator)
    fields = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")  # tokens that resemble their neighbours
    plain, config = priors.plain(8), RestorerConfig(32, 1)
    model = restorer.train(fields, plain, config, tmp_path / "a", CPU, steps=200, batch=16, lr=4e-3)
    z, state = (
        torch.stack(p)
        for p in zip(*(restorer.degraded(fields[i : i + 1], plain, np.random.default_rng(i)) for i in range(24)), strict=True)
    )
    with torch.inference_mode():
        after, before = ((got - fields[:24]).square().mean((1, 2, 3)).sqrt().mean() for got in (model(z, state), z))
    assert after < 0.9 * before
    again = restorer.train(fields, plain, config, tmp_path / "a", CPU, steps=200, batch=16, lr=4e-3)  # finished: nothing is trained on
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_harm_is_what_the_state_says() -> None:
    latent = torch.randn(1, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    kinds = set()
    for seed in range(60):
        z, state = restorer.degraded(latent, priors.plain(8), np.random.default_rng(seed))
        clean = state.amax(0) < 0.02
        kinds |= {k for k in range(4) if state[k].any()}
        if clean.any() and not state[2].any():  # what others were merged into is a mean, and no state of its own tells so
            assert (z - latent[0])[:, clean].abs().max() < 0.2
    assert kinds == {0, 1, 2, 3}


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
        receiver_steps=2,
        made=8,
        restorer=RestorerConfig(8, 1),
    )
    backbone = embedded.load(str(train(plan, CPU)))
    assert backbone.config.text.vocabulary == ("five", "four", "number", "one", "six", "three", "two")
    assert backbone.config.image_px == (256, 256)
    sheets = list((tmp_path / "out").glob("samples-*.png"))
    assert [Image.open(sheet).size for sheet in sheets] == [(320, 320)] * len(sheets) != []  # of the one caption that is held out
    assert backbone.config.restorer.blocks == 1
    assert priors.load(tmp_path / "out" / "weights", 8).digest != priors.plain(8).digest
    # the decoder alone, on from there: latents and denoiser stay
    more = replace(
        plan,
        folder=tmp_path / "more",
        start=str(tmp_path / "out" / "weights"),
        autoencoder=autoencoder.AutoencoderRecipe(steps=2, batch=2, decoder_only=True),
        teacher=teacher.TeacherRecipe(steps=0),
    )
    tuned = embedded.load(str(train(more, CPU)))
    torch.testing.assert_close(tuned.autoencoder.encoder.state_dict(), backbone.autoencoder.encoder.state_dict())
    torch.testing.assert_close(tuned.denoiser.state_dict(), backbone.denoiser.state_dict())
    assert not torch.equal(tuned.autoencoder.decoder.net[0].weight, backbone.autoencoder.decoder.net[0].weight)
    # a flow map of it, which is asked with both times and without guidance
    kept = autoencoder.AutoencoderRecipe(steps=0)
    few = DistillRecipe("lagrangian", steps=2, batch=2, held=1, save_every=1)
    flow = embedded.load(str(train(replace(plan, folder=tmp_path / "flow", start=more.start, autoencoder=kept, distill=few), CPU)))
    assert flow.config.flow_map
    assert flow.config.guidance == 1.0
    torch.testing.assert_close(flow.text.state_dict(), backbone.text.state_dict())
    without = replace(plan, folder=tmp_path / "kept", start=more.start, autoencoder=kept, distill=few, receiver_steps=0)
    same = embedded.load(str(train(without, CPU)))  # what entropy coder and receiver learned is kept where nothing is trained
    torch.testing.assert_close(same.restorer.state_dict(), backbone.restorer.state_dict())
    assert priors.load(without.folder / "weights", 8).digest == priors.load(tmp_path / "out" / "weights", 8).digest
    grown = replace(without, folder=tmp_path / "grown", distill=None, teacher=teacher.TeacherRecipe(steps=2, batch=2))
    torch.testing.assert_close(embedded.load(str(train(grown, CPU))).restorer.state_dict(), backbone.restorer.state_dict())
    assert priors.load(grown.folder / "weights", 8).digest == priors.load(tmp_path / "out" / "weights", 8).digest
    assert not torch.equal(flow.denoiser.outward.weight, backbone.denoiser.outward.weight)
    assert list((tmp_path / "flow").glob("samples-lagrangian-*.png"))
    with pytest.raises(ValueError, match="learns from its teacher only: train one with --reset-denoiser"):
        train(replace(grown, folder=tmp_path / "on", start=str(tmp_path / "flow" / "weights")), CPU)
    with pytest.raises(ValueError, match="flow map already"):
        train(replace(plan, folder=tmp_path / "twice", start=str(tmp_path / "flow" / "weights"), autoencoder=kept, distill=few), CPU)
    # text encoder and denoiser anew, the autoencoder stays
    anew = embedded.load(str(train(replace(plan, folder=tmp_path / "anew", start=more.start, autoencoder=kept, reset_denoiser=True), CPU)))
    torch.testing.assert_close(anew.autoencoder.state_dict(), backbone.autoencoder.state_dict())
    # another set of pictures, other options, or a run that is at work
    with (plan.pictures / "metadata.jsonl").open("a") as file:  # type: ignore[operator]
        file.write(json.dumps({"file_name": "0.png", "text": "one"}) + "\n")
    with pytest.raises(InputError, match=r'pictures is "[0-9a-f]{16}" there'):
        train(plan, CPU)
    other = replace(grown, pictures=None, scenes=7)
    with pytest.raises(InputError, match=r"scenes is 6144 there, 7 here; pictures is"):
        train(other, CPU)
    with run_folder.held(tmp_path / "busy", {}), pytest.raises(InputError, match="another run is at work"):
        train(replace(plan, folder=tmp_path / "busy"), CPU)


def test_the_receiver_learns_from_as_much_as_there_is() -> None:
    assert [backbone_training.own_latents(1024, n) for n in (12, 255, 6144)] == [48, 1020, 1024]


def test_a_checkpoint_goes_on_by_its_own_recipe_alone(tmp_path: Path) -> None:
    few, data = teacher.TeacherRecipe(steps=1, batch=2), latent_set()
    teacher.train(few, TEXT, DENOISER, lambda step: data, data, tmp_path, CPU)
    for change, why in (({"lr": 1e-3}, "lr is 0.002 there, 0.001 here"), ({"batch": 3}, "batch is 2"), ({"seed": 1}, "seed is 0")):
        with pytest.raises(InputError, match=rf"teacher.checkpoint.safetensors holds another .*{why}"):
            teacher.train(replace(few, **change), TEXT, DENOISER, lambda step: data, data, tmp_path, CPU)


def test_a_picture_edited_in_place_is_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "SHARD", 2)
    folder, model = tmp_path / "pictures", autoencoder.Autoencoder(AUTOENCODER)
    folder_of_pictures(folder)
    for i in range(6):  # bitmaps: the same number of bytes whatever they show
        Image.open(folder / f"{i}.png").save(folder / f"{i}.png", format="BMP")

    def cached() -> tuple[torch.Tensor, list[int]]:
        latents.cache_pictures(model, pictures_module.read_captions(folder), 64, tmp_path / "cache", CPU)
        return latents.load(tmp_path / "cache", 6).latents, [p.stat().st_mtime_ns for p in sorted((tmp_path / "cache").iterdir())]

    first, times = cached()
    assert cached()[1] == times  # nothing is encoded twice
    edited = folder / "3.png"
    size = edited.stat().st_size
    Image.fromarray(255 - np.asarray(Image.open(edited))).save(edited, format="BMP")
    assert edited.stat().st_size == size
    second, later = cached()
    assert [a == b for a, b in zip(times, later, strict=True)] == [True, False, True]
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [True, True, True, False, True, True]


def test_samples_of_own_pictures_are_of_their_own_held_out_captions(tmp_path: Path) -> None:
    entries = pictures_module.read_captions(folder_of_pictures(tmp_path / "pictures"))
    assert backbone_training._sample_prompts(entries) == ["number one"]
    assert backbone_training._sample_prompts(entries * 40) == [e.caption for e in (entries * 40)[:8]]
    assert backbone_training._sample_prompts([]) == scenes.SAMPLE_PROMPTS


def test_latents_are_cached_once_and_scenes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megen.models.autoencoder import Autoencoder

    monkeypatch.setattr(latents, "SHARD", 16)
    model = Autoencoder(AUTOENCODER)
    latents.cache_scenes(model, 1, 20, 64, tmp_path, CPU, 2)
    first = latents.load(tmp_path, 20)
    assert len(first) == 20
    assert first.latents.shape == (20, 8, 2, 2)
    assert first.sources[3] == latents.scene(1, 3)
    times = [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())]
    latents.cache_scenes(model, 1, 20, 64, tmp_path, CPU, 2)
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.iterdir())] == times
    with pytest.raises(ValueError, match="made from another encoder"):
        latents.cache_scenes(Autoencoder(AUTOENCODER), 1, 20, 64, tmp_path, CPU, 2)
