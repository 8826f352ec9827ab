"""Trains a whole backbone: autoencoder, cached latents, text encoder and denoiser, then one set of weights."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from megen.diffusion import path
from megen.models import backbone as backbones
from megen.models import text as text_model
from megen.models import weights
from megen.models.autoencoder import Autoencoder, AutoencoderConfig
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
    pictures: Path | None = None  # None: scenes, without end
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
    autoencoder = _autoencoder(plan, device, start)
    data, validation = _latents(plan, autoencoder, device)
    text = start.config.text if start else TextConfig(tuple(_vocabulary(plan)), layers=plan.text_layers)
    denoiser = start.config.denoiser if start else plan.denoiser
    model = None
    if start is not None:
        known = TextToLatent(text, denoiser)
        known.text.load_state_dict(start.text.state_dict())
        known.denoiser.load_state_dict(start.denoiser.state_dict())
        model = (known, start.latent_mean, start.latent_scale)

    def assemble(average: TextToLatent, step: int, mean: Tensor, scale: Tensor) -> Path:
        side = plan.image_px // 32
        config = BackboneConfig(plan.name, text, denoiser, autoencoder.config, steps=(1, 2, 4, 8, 12, 20, 32), grid=(side, side))
        whole = Backbone(config)
        whole.text.load_state_dict(average.text.state_dict())
        whole.denoiser.load_state_dict(average.denoiser.state_dict())
        whole.autoencoder.load_state_dict(autoencoder.state_dict())
        whole.latent_mean.copy_(mean)
        whole.latent_scale.copy_(scale)
        about = {"teacher_step": step, "teacher": asdict(plan.teacher), "trained_on": len(data), **weights.provenance()}
        backbones.save(whole, plan.folder / "weights", about)
        write_samples(place(whole, device).eval(), plan.folder / f"samples-{step:06d}.png")
        return plan.folder / "weights"

    average, mean, scale = teacher.train(plan.teacher, text, denoiser, data, validation, plan.folder, device, model, assemble)
    return assemble(average, plan.teacher.steps, mean, scale)


def _autoencoder(plan: Plan, device: torch.device, start: Backbone | None) -> Autoencoder:
    if start is not None and plan.autoencoder.steps == 0:
        return place(start.autoencoder, device).eval()

    def pictures(first: int, count: int) -> Tensor:
        if plan.pictures is None:
            torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
            made = [latent_sets.scene(TRAIN_SEED, first + i) for i in range(count)]
            parts = [(render(made[i : i + 2], plan.image_px, device) * 255).round().byte().cpu() for i in range(0, count, 2)]
            torch.set_num_threads(plan.workers)
            return torch.cat(parts)
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
        return latent_sets.load(kept / "train"), latent_sets.load(kept / "validation")
    latent_sets.cache_folder(autoencoder, plan.pictures, plan.image_px, kept / "train", device)
    every = latent_sets.load(kept / "train")
    held = max(1, min(48, len(every) // 10))
    if len(every) < 2:
        raise ValueError("a training needs at least two pictures, one of them to validate on")
    return (
        latent_sets.LatentSet(every.latents[held:], every.sources[held:]),
        latent_sets.LatentSet(every.latents[:held], every.sources[:held]),
    )


def _vocabulary(plan: Plan) -> list[str]:
    if plan.pictures is None:
        return scenes.vocabulary()
    captions = [c for _, c in latent_sets.read_captions(plan.pictures)]
    return sorted({w for c in captions for w in text_model.words(c)})


@torch.inference_mode()
def write_samples(backbone: Backbone, out: Path, prompts: tuple[str, ...] = SAMPLE_PROMPTS, steps: int = 16, side_px: int = 320) -> None:
    """A contact sheet of prompts, four in a row, guided, each at its own seed."""
    n, device = len(prompts), backbone.latent_mean.device
    context = backbone.encode_prompts([*prompts, *[""] * n])
    noise = torch.cat([torch.randn((1, *backbone.latent_shape), generator=torch.Generator().manual_seed(i)) for i in range(n)])
    z = noise = noise.to(device).contiguous(memory_format=torch.channels_last)
    grid = path.times(steps, backbone.config.time_shift)
    for z in path.walk(lambda z, s, t: backbone.velocity(z, s, t, context, backbone.config.guidance), noise, grid):  # noqa: B007
        pass
    sheet = Image.new("RGB", (4 * side_px, -(-n // 4) * side_px))
    for i in range(n):
        picture = (backbone.decode_latents(z[i : i + 1])[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
        small = Image.fromarray(np.ascontiguousarray(picture)).resize((side_px, side_px), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % 4 * side_px, i // 4 * side_px))
    temporary = out.with_name(out.name + ".tmp")
    sheet.save(temporary, format="PNG")
    os.replace(temporary, out)
