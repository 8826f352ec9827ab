"""Trains a whole backbone: autoencoder, cached latents, text encoder and denoiser, then one set of weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from megen import pipeline
from megen.codec import prior as priors
from megen.files import replacing
from megen.models import backbone as backbones
from megen.models import text as text_model
from megen.models import weights
from megen.models.autoencoder import PATCH, Autoencoder, AutoencoderConfig
from megen.models.backbone import Backbone, BackboneConfig
from megen.models.denoiser import Denoiser, DenoiserConfig
from megen.models.placement import place
from megen.models.restorer import RestorerConfig
from megen.models.text import TextConfig
from megen.training import autoencoder as autoencoder_training
from megen.training import distill, loop, scenes, teacher
from megen.training import latents as latent_sets
from megen.training import prior as prior_training
from megen.training import restorer as restorer_training
from megen.training.autoencoder import AutoencoderRecipe
from megen.training.distill import DistillRecipe
from megen.training.latents import LatentSet
from megen.training.render import render
from megen.training.teacher import TeacherRecipe, TextToLatent
from megen.ue import unharmed

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3
SAMPLE_PROMPTS = (
    "a lighthouse at sunset, snowy mountains, pine trees",
    "a cabin on the left at night, a full moon, stars, a calm lake",
    "a sailboat in the middle at noon, the sea, hills, clouds",
    "a castle on the right at dawn, fog, rolling hills",
    "a windmill at noon, sand dunes, snowing",
    "a crescent moon at night, snowy mountains, a lake, no trees",
    "rain, a cabin on the right, pine trees, at dusk",
    "a lighthouse on the left at dawn, the ocean, clouds",
)


@dataclass(frozen=True)
class Plan:
    """All that decides a training; the folder keeps what each part has reached."""

    name: str
    folder: Path
    pictures: Path | None = None  # None: scenes, rendered
    image_px: int = 1024
    scenes: int = 6144  # rendered before the denoiser's training begins
    fresh: int = 2  # rendered in the background for each of its steps
    channels: int = 32
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    text_layers: int = 3
    receiver_steps: int = 1200  # of the entropy coder's prior and of the restorer each; 0: those of the start
    made: int = 1024  # latents of the backbone's own that they learn from, beside as many true ones
    restorer: RestorerConfig = field(default_factory=lambda: RestorerConfig(128, 3))
    start: str | None = None  # a backbone to train on from
    anew: bool = False  # keep its autoencoder only
    distill: DistillRecipe | None = None  # make a flow map of it instead of training it on
    student: str | None = None  # a flow map to distil on from
    workers: int = os.cpu_count() or 1


def train(plan: Plan, device: torch.device) -> Path:
    """Train, or go on where the folder left off; returns the folder of the finished weights.

    Errors: ValueError and weights.WeightsError on unusable pictures or weights.
    """
    start = backbones.load(plan.start) if plan.start else None
    if start is None and (plan.autoencoder.decoder_only or not plan.autoencoder.steps or not plan.teacher.steps):
        raise ValueError("without a backbone to train on from, autoencoder and denoiser must both be trained, and whole")
    grown = start if start is not None and not plan.anew else None  # whose denoiser is trained on
    if grown is not None and grown.config.flow_map and plan.teacher.steps and plan.distill is None:
        raise ValueError(f"{plan.start} is a flow map, which learns from its teacher only: train a teacher with --anew, or --distill one")
    text = replace(grown.config.text, direct=True) if grown else TextConfig(tuple(_vocabulary(plan)), layers=plan.text_layers, direct=True)
    denoiser = replace(grown.config.denoiser if grown else plan.denoiser, placed=True)
    if plan.pictures is not None:
        _check_captions(plan.pictures, text)
    plan.folder.mkdir(parents=True, exist_ok=True)
    autoencoder = _autoencoder(plan, device, start)
    if plan.distill is not None:
        return _distill(plan, plan.distill, autoencoder, device)
    model = None
    if grown is not None:
        known = TextToLatent(text, denoiser)
        if known.text.direct is not None:
            torch.nn.init.zeros_(known.text.direct.weight)  # where the start has none, the net begins as it was
        known.text.load_state_dict(grown.text.state_dict(), strict=grown.config.text.direct)
        known.denoiser.load_state_dict(grown.denoiser.state_dict(), strict=grown.config.denoiser.placed)
        model = (known, grown.latent_mean, grown.latent_scale)

    keeps_latents = plan.autoencoder.decoder_only or plan.autoencoder.steps == 0
    start_folder = backbones.folder_of(plan.start) if plan.start else Path()

    def assemble(average: TextToLatent, step: int, mean: Tensor, scale: Tensor) -> Path:
        side = plan.image_px // PATCH
        fresh = BackboneConfig(plan.name, text, denoiser, autoencoder.config, steps=(1, 2, 4, 8, 12, 20, 32), grid=(side, side))
        config = replace(grown.config, name=plan.name, text=text, denoiser=denoiser, grid=(side, side)) if grown else fresh
        if start and keeps_latents:
            config = replace(config, restorer=start.config.restorer)
        whole = Backbone(config)
        if start and keeps_latents:
            whole.restorer.load_state_dict(start.restorer.state_dict())
            _keep_prior(start_folder, plan.folder / "weights")
        whole.text.load_state_dict(average.text.state_dict())
        whole.denoiser.load_state_dict(average.denoiser.state_dict())
        whole.autoencoder.load_state_dict(autoencoder.state_dict())
        whole.latent_mean.copy_(mean)
        whole.latent_scale.copy_(scale)
        about = {"teacher_step": step, "teacher": asdict(plan.teacher), "trained_on_from": plan.start, **weights.provenance()}
        backbones.save(whole, plan.folder / "weights", about)
        write_samples(place(whole, device).eval(), plan.folder / f"samples-{step:06d}.png")
        return plan.folder / "weights"

    if model is not None and plan.teacher.steps == 0:
        folder = assemble(model[0], 0, model[1], model[2])
        if plan.receiver_steps:
            with _latents(replace(plan, fresh=0), autoencoder, device) as (data, _):
                finish_receiver(folder, data(0), plan, device)
        return folder
    with _latents(plan, autoencoder, device) as (data, validation):
        if model is not None and not keeps_latents:
            model = (model[0], *teacher.statistics(data(0).latents))
        average, mean, scale = teacher.train(plan.teacher, text, denoiser, data, validation, plan.folder, device, model, assemble)
        seen = data(0)
    folder = assemble(average, plan.teacher.steps, mean, scale)
    if plan.receiver_steps:
        finish_receiver(folder, seen, plan, device)
    return folder


def _keep_prior(start: Path, folder: Path) -> None:
    """Copy the entropy coder's prior of the backbone that a training began from: its latents are the same."""
    if (start / priors.FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / priors.FILE) as temporary:
            temporary.write_bytes((start / priors.FILE).read_bytes())


def _distill(plan: Plan, recipe: DistillRecipe, autoencoder: Autoencoder, device: torch.device) -> Path:
    """Make a flow map of the plan's start. Errors: ValueError where it is one already."""
    if plan.start is None:
        raise ValueError("distillation needs a teacher: name a backbone to start from")
    whole = backbones.load(plan.start, str(device))
    if whole.config.flow_map:
        raise ValueError(f"{plan.start} is a flow map already: distil the teacher that it was made from")
    start = backbones.load(plan.student, str(device)).denoiser if plan.student else None
    teacher_folder = backbones.folder_of(plan.start)
    flow = replace(whole.config, name=plan.name, guidance=1.0, flow_map=True, steps=(1, 2, 4, 8, 12))

    def assemble(denoiser: Denoiser, step: int, errors: dict[str, float] | None = None) -> Path:
        made = Backbone(flow)
        made.load_state_dict({**whole.state_dict(), **denoiser.state_dict(prefix="denoiser.")})
        about = {
            "distill_step": step,
            "distill": asdict(recipe),
            "raw_error": errors,
            "teacher_weights": plan.start,
            "student": plan.student,
        }
        backbones.save(made, plan.folder / "weights", about | weights.provenance())
        _keep_prior(teacher_folder, plan.folder / "weights")
        if recipe.loss != "consistency":
            write_samples(place(made, device).eval(), plan.folder / f"samples-{recipe.loss}-{step:06d}.png", steps=4)
        return plan.folder / "weights"

    along = recipe.loss == "trajectory"  # its steps read no latents of pictures
    with _latents(replace(plan, fresh=0) if along else plan, autoencoder, device) as (data, validation):
        best, errors = distill.train(recipe, whole, data, validation, plan.folder, device, assemble, start)
        folder = assemble(best, recipe.steps, errors)
        if plan.receiver_steps:
            finish_receiver(folder, data(0), plan, device)
    return folder


def finish_receiver(folder: Path, data: LatentSet, plan: Plan, device: torch.device) -> None:
    """Train the entropy coder's prior and the restorer for the weights in `folder`, on its own latents and on true ones."""
    backbone, quick = (backbones.load(str(folder), str(device), fast) for fast in (False, True))
    _, about = weights.read_sharded(folder, backbones.STEM)
    rng, chosen = np.random.default_rng(plan.teacher.seed), torch.arange(min(len(data), plan.made))
    true = (data.latents[chosen].float() - backbone.latent_mean.cpu()[:, None, None]) / backbone.latent_scale.cpu()[:, None, None]
    made = [true]
    counts = backbone.config.steps if backbone.config.flow_map else (12,)  # a teacher is good at many steps only
    for first, _ in loop.progress(0, -(-plan.made // 8), "latents of the backbone's own, eight each"):
        captions = [data.caption(int(i), rng) for i in rng.integers(len(data), size=8)]
        steps = counts[first % len(counts)]
        made.append(pipeline.denoise(quick, captions, range(8 * first, 8 * first + 8), steps, pipeline.Clock()).cpu())
    latents = torch.cat(made)[torch.from_numpy(rng.permutation(sum(map(len, made))))]
    few = latents[:3].to(device)
    prior = prior_training.train(
        latents, prior_training.relative_steps(backbone.decode_latents, few, plan.teacher.seed), plan.receiver_steps
    )
    priors.save(prior, folder, {"steps": plan.receiver_steps, **weights.provenance()})
    config = replace(backbone.config, restorer=plan.restorer)
    whole = Backbone(config)
    whole.load_state_dict({**backbone.cpu().state_dict(), **whole.restorer.state_dict(prefix="restorer.")})
    model = restorer_training.train(latents, prior, config.restorer, plan.folder, device, plan.receiver_steps)
    whole.restorer.load_state_dict(model.cpu().state_dict())
    backbones.save(
        whole, folder, {k: v for k, v in about.items() if k not in ("format", "config")} | {"receiver_steps": plan.receiver_steps}
    )


def _check_captions(pictures: Path, text: TextConfig) -> None:
    """Refuse what would stop a training half-way. Errors: ValueError."""
    entries = latent_sets.read_captions(pictures)
    if len(entries) < 2:
        raise ValueError("a training needs at least two pictures, one of them to validate on")
    for path, caption in entries:
        if len(text_model.words(caption)) > text.max_words:
            raise ValueError(f"the caption of {path.name} has more than {text.max_words} words: shorten it")
    unknown = sorted({w for _, caption in entries for w in text_model.unknown_words(caption, text.vocabulary)})
    if unknown:
        print(f"megen: warning: words that the backbone does not know are left out: {', '.join(unknown[:20])}", file=sys.stderr)


def _autoencoder(plan: Plan, device: torch.device, start: Backbone | None) -> Autoencoder:
    if start is not None and plan.autoencoder.steps == 0:
        return place(start.autoencoder, device).eval()

    def pictures(first: int, count: int) -> Tensor:
        if plan.pictures is None:
            made = [latent_sets.scene(TRAIN_SEED, first + i) for i in range(count)]
            pool = torch.empty(count, 3, plan.image_px, plan.image_px, dtype=torch.uint8)
            for i in range(0, count, 2):
                pool[i : i + 2] = (render(made[i : i + 2], plan.image_px, device) * 255).round().byte().cpu()
            return pool
        entries = latent_sets.read_captions(plan.pictures)[first : first + count]
        return torch.stack([latent_sets.load_picture(p, plan.image_px) for p, _ in entries])

    config = start.config.autoencoder if start else AutoencoderConfig(channels=plan.channels)
    own = start.autoencoder if start else None
    return autoencoder_training.train(plan.autoencoder, config, pictures, plan.folder, device, own).eval()


@contextmanager
def _latents(plan: Plan, autoencoder: Autoencoder, device: torch.device) -> Iterator[tuple[Callable[[int], LatentSet], LatentSet]]:
    """What a step draws from, and what is validated on."""
    kept, side = plan.folder / "latents", plan.image_px
    if plan.pictures is None:
        latent_sets.cache_scenes(autoencoder, VALIDATION_SEED, latent_sets.SHARD, side, kept / "validation", device, plan.workers)
        validation = latent_sets.load(kept / "validation", latent_sets.SHARD)
        growing = latent_sets.growing_scenes
        with growing(autoencoder, TRAIN_SEED, plan.scenes, plan.fresh, side, kept / "train", device, plan.workers) as data:
            yield data, validation
        return
    latent_sets.cache_folder(autoencoder, plan.pictures, side, kept / "train", device)
    every = latent_sets.load(kept / "train", len(latent_sets.read_captions(plan.pictures)))
    held = max(1, min(48, len(every) // 10))
    train = LatentSet(every.latents[held:], every.sources[held:])
    yield lambda step: train, LatentSet(every.latents[:held], every.sources[:held])


def _vocabulary(plan: Plan) -> list[str]:
    if plan.pictures is None:
        return scenes.vocabulary()
    captions = [c for _, c in latent_sets.read_captions(plan.pictures)]
    return sorted({w for c in captions for w in text_model.words(c)})


def write_samples(backbone: Backbone, out: Path, prompts: Sequence[str] = SAMPLE_PROMPTS, steps: int = 16, side_px: int = 320) -> None:
    """A contact sheet of prompts, four in a row, each at its own seed, without merging or link."""
    latents = pipeline.denoise(backbone, prompts, range(len(prompts)), steps, pipeline.Clock())
    receiver = pipeline.TorchReceiver(backbone, priors.plain(backbone.latent_shape[0]))
    sheet = Image.new("RGB", (4 * side_px, -(-len(prompts) // 4) * side_px))
    for i in range(len(prompts)):
        picture = Image.fromarray(receiver(unharmed(pipeline.as_tokens(latents[i : i + 1]))))
        sheet.paste(picture.resize((side_px, side_px), Image.Resampling.LANCZOS), (i % 4 * side_px, i // 4 * side_px))
    with replacing(out) as temporary:
        sheet.save(temporary, format="PNG")
