"""Trains a whole backbone: autoencoder, cached latents, text encoder and denoiser, then one set of weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from megen import pipeline
from megen.files import replacing
from megen.models import backbone as backbones
from megen.models import text as text_model
from megen.models import weights
from megen.models.autoencoder import PATCH, Autoencoder, AutoencoderConfig
from megen.models.backbone import Backbone, BackboneConfig
from megen.models.denoiser import DenoiserConfig
from megen.models.placement import place
from megen.models.text import TextConfig
from megen.training import autoencoder as autoencoder_training
from megen.training import latents as latent_sets
from megen.training import scenes, teacher
from megen.training.autoencoder import AutoencoderRecipe
from megen.training.render import render
from megen.training.teacher import TeacherRecipe, TextToLatent

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
    scenes: int = 6144
    channels: int = 32
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    text_layers: int = 3
    start: str | None = None  # a backbone to train on from
    workers: int = os.cpu_count() or 1


def train(plan: Plan, device: torch.device) -> Path:
    """Train, or go on where the folder left off; returns the folder of the finished weights.

    Errors: ValueError and weights.WeightsError on unusable pictures or weights.
    """
    start = backbones.load(plan.start) if plan.start else None
    if start is None and (plan.autoencoder.decoder_only or not plan.autoencoder.steps or not plan.teacher.steps):
        raise ValueError("without a backbone to train on from, autoencoder and denoiser must both be trained, and whole")
    text = start.config.text if start else TextConfig(tuple(_vocabulary(plan)), layers=plan.text_layers)
    denoiser = start.config.denoiser if start else plan.denoiser
    if plan.pictures is not None:
        _check_captions(plan.pictures, text)
    plan.folder.mkdir(parents=True, exist_ok=True)
    autoencoder = _autoencoder(plan, device, start)
    model = None
    if start is not None:
        known = TextToLatent(text, denoiser)
        known.text.load_state_dict(start.text.state_dict())
        known.denoiser.load_state_dict(start.denoiser.state_dict())
        model = (known, start.latent_mean, start.latent_scale)

    def assemble(average: TextToLatent, step: int, mean: Tensor, scale: Tensor) -> Path:
        side = plan.image_px // PATCH
        fresh = BackboneConfig(plan.name, text, denoiser, autoencoder.config, steps=(1, 2, 4, 8, 12, 20, 32), grid=(side, side))
        config = replace(start.config, name=plan.name, grid=(side, side)) if start else fresh
        whole = Backbone(config)
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
        return assemble(model[0], 0, model[1], model[2])
    data, validation = _latents(plan, autoencoder, device)
    keeps_latents = plan.autoencoder.decoder_only or plan.autoencoder.steps == 0
    if model is not None and not keeps_latents:
        model = (model[0], *teacher.statistics(data.latents))
    average, mean, scale = teacher.train(plan.teacher, text, denoiser, data, validation, plan.folder, device, model, assemble)
    return assemble(average, plan.teacher.steps, mean, scale)


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


def _latents(plan: Plan, autoencoder: Autoencoder, device: torch.device) -> tuple[latent_sets.LatentSet, latent_sets.LatentSet]:
    kept = plan.folder / "latents"
    if plan.pictures is None:
        latent_sets.cache_scenes(autoencoder, VALIDATION_SEED, latent_sets.SHARD, kept / "validation", device, plan.workers)
        latent_sets.cache_scenes(autoencoder, TRAIN_SEED, plan.scenes, kept / "train", device, plan.workers)
        return latent_sets.load(kept / "train", plan.scenes), latent_sets.load(kept / "validation", latent_sets.SHARD)
    latent_sets.cache_folder(autoencoder, plan.pictures, plan.image_px, kept / "train", device)
    every = latent_sets.load(kept / "train", len(latent_sets.read_captions(plan.pictures)))
    held = max(1, min(48, len(every) // 10))
    return (
        latent_sets.LatentSet(every.latents[held:], every.sources[held:]),
        latent_sets.LatentSet(every.latents[:held], every.sources[:held]),
    )


def _vocabulary(plan: Plan) -> list[str]:
    if plan.pictures is None:
        return scenes.vocabulary()
    captions = [c for _, c in latent_sets.read_captions(plan.pictures)]
    return sorted({w for c in captions for w in text_model.words(c)})


def write_samples(backbone: Backbone, out: Path, prompts: Sequence[str] = SAMPLE_PROMPTS, steps: int = 16, side_px: int = 320) -> None:
    """A contact sheet of prompts, four in a row, each at its own seed, without merging or link."""
    latents = pipeline.denoise(backbone, prompts, range(len(prompts)), steps, pipeline.Clock())
    receiver = pipeline.TorchReceiver(backbone)
    every_token = np.arange(latents.shape[-1] * latents.shape[-2], dtype=np.int64)
    sheet = Image.new("RGB", (4 * side_px, -(-len(prompts) // 4) * side_px))
    for i in range(len(prompts)):
        picture = Image.fromarray(receiver(pipeline.as_tokens(latents[i : i + 1]), every_token))
        sheet.paste(picture.resize((side_px, side_px), Image.Resampling.LANCZOS), (i % 4 * side_px, i // 4 * side_px))
    with replacing(out) as temporary:
        sheet.save(temporary, format="PNG")
