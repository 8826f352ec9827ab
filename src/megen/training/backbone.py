"""Trains a whole backbone: autoencoder, cached latents, text encoder and denoiser, then one set of weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from megen import run_folder
from megen.codec import prior as priors
from megen.diffusion import denoise, flow_map
from megen.errors import InputError
from megen.files import replacing
from megen.models import embedded, weights
from megen.models.autoencoder import PATCH, Autoencoder, AutoencoderConfig
from megen.models.denoiser import Denoiser, DenoiserConfig
from megen.models.embedded import BackboneConfig, EmbeddedBackbone
from megen.models.placement import place
from megen.models.restorer import RestorerConfig
from megen.models.text import TextConfig
from megen.provenance import provenance
from megen.scenes import captions as scenes
from megen.scenes.render import render
from megen.scenes.splits import SHARPENING_SEED, TRAIN_SEED, VALIDATION_SEED, scene
from megen.training import adversarial, distill, judges, loop, pictures, teacher
from megen.training import autoencoder as autoencoder_training
from megen.training import latents as latent_sets
from megen.training import prior as prior_training
from megen.training import restorer as restorer_training
from megen.training.adversarial import AdversarialRecipe, Student
from megen.training.autoencoder import AutoencoderRecipe
from megen.training.distill import DistillRecipe
from megen.training.latents import LatentSet
from megen.training.pictures import Captioned
from megen.training.teacher import TeacherRecipe, TextToLatent
from megen.words import left_out, words

SAMPLES = 8  # of a contact sheet
OWN_PER_PICTURE = 4  # latents of the backbone's own for each picture of its training, at most


@dataclass(frozen=True)
class Plan:
    """All that decides a training; the folder keeps what each part has reached."""

    name: str
    folder: Path
    pictures: Path | None = None  # None: scenes, rendered
    image_px: int = 1024
    scenes: int = 6144  # rendered before the denoiser's training begins
    fresh_scenes_per_step: int = 2  # rendered in the background for each of its steps
    channels: int = 32
    finest_width: int = 0  # of the decoder's stage at a quarter of the picture's resolution; 0: as the start has it
    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    text_layers: int = 3
    receiver_steps: int = 1200  # of the entropy coder's prior and of the restorer each; 0: those of the start
    made: int = 1024  # latents of the backbone's own that they learn from, beside as many true ones
    restorer: RestorerConfig = field(default_factory=lambda: RestorerConfig(128, 3))
    start: str | None = None  # a backbone to train on from
    reset_denoiser: bool = False  # keep its autoencoder only
    distill: DistillRecipe | None = None  # make a flow map of it instead of training it on
    adversarial: AdversarialRecipe | None = None  # sharpen it, a flow map, instead of training it on
    student: str | None = None  # a flow map to distil on from
    workers: int = os.cpu_count() or 1


def train(plan: Plan, device: torch.device) -> Path:
    """Train, or go on where the folder left off; returns the folder of the finished weights.

    Errors: InputError on unusable pictures or weights, and where the folder is another training's or is being trained in.
    """
    start = embedded.load(plan.start) if plan.start else None
    if start is None and (plan.autoencoder.decoder_only or not plan.autoencoder.steps or not plan.teacher.steps):
        raise InputError("without a backbone to train on from, autoencoder and denoiser must both be trained, and whole")
    grown = start if start is not None and not plan.reset_denoiser else None  # whose denoiser is trained on
    trained_on = plan.teacher.steps and plan.distill is None and plan.adversarial is None
    if grown is not None and grown.config.flow_map and trained_on:
        raise InputError(f"{plan.start} is a flow map and learns from its teacher only: train one with --reset-denoiser, or --distill one")
    entries = pictures.read_captions(plan.pictures) if plan.pictures else []
    own_words = TextConfig(tuple(_vocabulary(entries)), layers=plan.text_layers, direct=True)
    text = replace(grown.config.text, direct=True) if grown else own_words
    denoiser = replace(grown.config.denoiser if grown else plan.denoiser, placed=True)
    if plan.pictures is not None:
        _check_captions(entries, text)
    with run_folder.held(plan.folder, _recipe(plan, entries)):
        autoencoder = _autoencoder(plan, entries, device, start)
        if plan.adversarial is not None:
            return _sharpen(plan, plan.adversarial, device)
        if plan.distill is not None:
            return _distill(plan, entries, plan.distill, autoencoder, device)
        return _train(plan, entries, start, text, denoiser, autoencoder, device)


def _recipe(plan: Plan, entries: Sequence[Captioned]) -> dict[str, Any]:
    """All that decides what a training makes: pictures and backbones by their content, not by where they lie."""
    elsewhere = ("folder", "workers", "pictures", "start", "student")
    about = {key: value for key, value in asdict(plan).items() if key not in elsewhere}
    about["pictures"] = pictures.digest(entries)[:16] if entries else "scenes"
    for key, name in (("start", plan.start), ("student", plan.student)):
        about[key] = weights.content(embedded.folder_of(name))[:16] if name else None
    return about


def _train(
    plan: Plan,
    entries: Sequence[Captioned],
    start: EmbeddedBackbone | None,
    text: TextConfig,
    denoiser: DenoiserConfig,
    autoencoder: Autoencoder,
    device: torch.device,
) -> Path:
    """Train text encoder and denoiser on the latents of an autoencoder, then what the receiver needs."""
    grown = start if start is not None and not plan.reset_denoiser else None
    prompts = _sample_prompts(entries)
    model = None if grown is None else (_trained_on(grown, text, denoiser), grown.latent_mean, grown.latent_scale)
    keeps_latents = plan.autoencoder.decoder_only or plan.autoencoder.steps == 0
    start_folder = embedded.folder_of(plan.start) if plan.start else Path()

    def assemble(average: TextToLatent, step: int, mean: Tensor, scale: Tensor) -> Path:
        side = plan.image_px // PATCH
        fresh = BackboneConfig(plan.name, text, denoiser, autoencoder.config, steps=(1, 2, 4, 8, 12, 20, 32), grid=(side, side))
        own = {"name": plan.name, "text": text, "denoiser": denoiser, "autoencoder": autoencoder.config, "grid": (side, side)}
        config = replace(grown.config, **own) if grown else fresh  # type: ignore[arg-type]
        if start and keeps_latents:
            config = replace(config, restorer=start.config.restorer)
        whole = EmbeddedBackbone(config)
        if start and keeps_latents:
            whole.restorer.load_state_dict(start.restorer.state_dict())
            whole.refiner = None if plan.teacher.steps else start.refiner
            _keep_prior(start_folder, plan.folder / "weights")
        whole.text.load_state_dict(average.text.state_dict())
        whole.denoiser.load_state_dict(average.denoiser.state_dict())
        whole.autoencoder.load_state_dict(autoencoder.state_dict())
        whole.latent_mean.copy_(mean)
        whole.latent_scale.copy_(scale)
        about = {"teacher_step": step, "teacher": asdict(plan.teacher), "trained_on_from": plan.start, **provenance()}
        embedded.save(whole, plan.folder / "weights", about)
        write_samples(place(whole, device).eval(), plan.folder / f"samples-{step:06d}.png", prompts)
        return plan.folder / "weights"

    if model is not None and plan.teacher.steps == 0:
        folder = assemble(model[0], 0, model[1], model[2])
        if plan.receiver_steps:
            with _latents(replace(plan, fresh_scenes_per_step=0), entries, autoencoder, device) as (data, _):
                finish_receiver(folder, data(0), plan, device)
        return folder
    with _latents(plan, entries, autoencoder, device) as (data, validation):
        if model is not None and not keeps_latents:
            model = (model[0], *teacher.statistics(data(0).latents))
        average, mean, scale = teacher.train(
            plan.teacher, text, denoiser, data, validation, plan.folder, device, start=model, on_save=assemble
        )
        seen = data(0)
    folder = assemble(average, plan.teacher.steps, mean, scale)
    if plan.receiver_steps:
        finish_receiver(folder, seen, plan, device)
    return folder


def _trained_on(grown: EmbeddedBackbone, text: TextConfig, denoiser: DenoiserConfig) -> TextToLatent:
    """The nets of a backbone that is trained on, in the shape of today's."""
    model = TextToLatent(text, denoiser)
    if model.text.direct is not None:
        torch.nn.init.zeros_(model.text.direct.weight)  # where the start has none, the net begins as it was
    model.text.load_state_dict(grown.text.state_dict(), strict=grown.config.text.direct)
    model.denoiser.load_state_dict(grown.denoiser.state_dict(), strict=grown.config.denoiser.placed)
    return model


def _keep_prior(start: Path, folder: Path) -> None:
    """Copy the entropy coder's prior of the backbone that a training began from: its latents are the same."""
    if (start / priors.FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / priors.FILE) as temporary:
            temporary.write_bytes((start / priors.FILE).read_bytes())


def _distill(plan: Plan, entries: Sequence[Captioned], recipe: DistillRecipe, autoencoder: Autoencoder, device: torch.device) -> Path:
    """Make a flow map of the plan's start. Errors: InputError where it is one already."""
    if plan.start is None:
        raise InputError("distillation needs a teacher: name a backbone to start from")
    whole = embedded.load(plan.start, str(device))
    if whole.config.flow_map:
        raise InputError(f"{plan.start} is a flow map already: distil the teacher that it was made from")
    whole.refiner = None  # it is of the teacher's ends
    start = embedded.load(plan.student, str(device)).denoiser if plan.student else None
    teacher_folder, prompts = embedded.folder_of(plan.start), _sample_prompts(entries)
    flow = replace(whole.config, name=plan.name, guidance=1.0, flow_map=True, steps=(1, 2, 4, 8, 12))

    def assemble(denoiser: Denoiser, step: int, errors: dict[str, float] | None = None) -> Path:
        made = EmbeddedBackbone(flow)
        made.load_state_dict({**whole.state_dict(), **denoiser.state_dict(prefix="denoiser.")})
        about = {
            "distill_step": step,
            "distill": asdict(recipe),
            "raw_error": errors,
            "teacher_weights": plan.start,
            "student": plan.student,
        }
        embedded.save(made, plan.folder / "weights", about | provenance())
        _keep_prior(teacher_folder, plan.folder / "weights")
        if recipe.loss != "consistency":
            write_samples(place(made, device).eval(), plan.folder / f"samples-{recipe.loss}-{step:06d}.png", prompts, steps=4)
        return plan.folder / "weights"

    along = recipe.loss == "trajectory"  # its steps read no latents of pictures
    with _latents(replace(plan, fresh_scenes_per_step=0) if along else plan, entries, autoencoder, device) as (data, validation):
        best, errors = distill.train(recipe, whole, data, validation, plan.folder, device, on_save=assemble, start=start)
        folder = assemble(best, recipe.steps, errors)
        if plan.receiver_steps:
            finish_receiver(folder, data(0), plan, device)
    return folder


def _sharpen(plan: Plan, recipe: AdversarialRecipe, device: torch.device) -> Path:
    """Fine-tune the plan's start, a flow map, against a discriminator and a judge. Errors: InputError where it is none."""
    assert plan.start is not None
    whole = embedded.load(plan.start, str(device))
    if not whole.config.flow_map:
        raise InputError(f"{plan.start} is no flow map: distil one of it first, with --distill")
    whole.refiner = None  # it is of the ends before
    plan.folder.mkdir(parents=True, exist_ok=True)

    def assemble(student: Student, step: int) -> Path:
        made = EmbeddedBackbone(replace(whole.config, name=plan.name))
        parts = {**student.text.state_dict(prefix="text."), **student.denoiser.state_dict(prefix="denoiser.")}
        made.load_state_dict({**whole.state_dict(), **parts})
        about = {"adversarial_step": step, "adversarial": asdict(recipe), "trained_on_from": plan.start, **provenance()}
        embedded.save(made, plan.folder / "weights", about)
        _keep_prior(embedded.folder_of(plan.start or ""), plan.folder / "weights")
        return plan.folder / "weights"

    with _latents(plan, [], whole.autoencoder, device, SHARPENING_SEED) as (data, validation):
        more = judges.more_latents(whole, judges.MORE_SCENES, plan.image_px, plan.folder / "latents")
        pair = [
            judges.train(recipe_of_judge, whole, data(0), more, plan.folder / f"judge-{name}.safetensors")
            for name, recipe_of_judge in (("reward", judges.REWARD), ("choosing", judges.CHOOSING))
        ]
        student = adversarial.train(recipe, whole, (pair[0], pair[1]), data, validation, plan.folder, device, on_save=assemble)
        folder = assemble(student, recipe.steps)
        if plan.receiver_steps:
            finish_receiver(folder, data(0), plan, device)
    return folder


def finish_receiver(folder: Path, data: LatentSet, plan: Plan, device: torch.device) -> None:
    """Train the entropy coder's prior and the restorer for the weights in `folder`, on its own latents and on true ones."""
    backbone, quick = (embedded.load(str(folder), str(device), fast) for fast in (False, True))
    _, about = weights.read_sharded(folder, embedded.STEM)
    rng, chosen = np.random.default_rng(plan.teacher.seed), torch.arange(min(len(data), plan.made))
    true = (data.latents[chosen].float() - backbone.latent_mean.cpu()[:, None, None]) / backbone.latent_scale.cpu()[:, None, None]
    made = [true]
    counts = backbone.config.steps if backbone.config.flow_map else (12,)  # a teacher is good at many steps only
    count = own_latents(plan.made, len(data))
    for first, _ in loop.progress(0, -(-count // 8), "latents of the backbone's own, eight each"):
        seeds, steps = range(8 * first, min(8 * first + 8, count)), counts[first % len(counts)]
        captions = [data.caption(int(i), rng) for i in rng.integers(len(data), size=len(seeds))]
        made.append(sampled(quick, captions, seeds, steps).cpu())
    latents = torch.cat(made)[torch.from_numpy(rng.permutation(sum(map(len, made))))]
    few = latents[:3].to(device)
    prior = prior_training.train(latents, prior_training.relative_steps(backbone.decode, few, plan.teacher.seed), plan.receiver_steps)
    priors.save(prior, folder, {"steps": plan.receiver_steps, **provenance()})
    config = replace(backbone.config, restorer=plan.restorer)
    whole = EmbeddedBackbone(config)
    whole.refiner = backbone.refiner
    whole.load_state_dict({**backbone.cpu().state_dict(), **whole.restorer.state_dict(prefix="restorer.")})
    model = restorer_training.train(latents, prior, config.restorer, plan.folder, device, steps=plan.receiver_steps)
    whole.restorer.load_state_dict(model.cpu().state_dict())
    embedded.save(
        whole, folder, {k: v for k, v in about.items() if k not in ("format", "config")} | {"receiver_steps": plan.receiver_steps}
    )


def own_latents(most: int, pictures: int) -> int:
    """How many latents a backbone makes for its receiver to learn from: in proportion to the pictures, up to `most`."""
    return min(most, OWN_PER_PICTURE * pictures)


def _check_captions(entries: Sequence[Captioned], text: TextConfig) -> None:
    """Refuse what would stop a training half-way. Errors: InputError."""
    if len(entries) < 2:
        raise InputError("a training needs at least two pictures, one of them to validate on")
    for entry in entries:
        if len(words(entry.caption)) > text.max_words:
            raise InputError(f"the caption of {entry.name} has more than {text.max_words} words: shorten it")
    unknown = sorted({w for entry in entries for w in left_out(entry.caption, text.vocabulary)})
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        print(f"megen: warning: left out of the captions, as no word that is learned: {', '.join(unknown[:20])}{more}", file=sys.stderr)


def _autoencoder(plan: Plan, entries: Sequence[Captioned], device: torch.device, start: EmbeddedBackbone | None) -> Autoencoder:
    if start is not None and plan.autoencoder.steps == 0:
        return place(start.autoencoder, device).eval()

    def pool_of(first: int, count: int) -> Tensor:
        if not entries:
            made = [scene(TRAIN_SEED, first + i) for i in range(count)]
            pool = torch.empty(count, 3, plan.image_px, plan.image_px, dtype=torch.uint8)
            for i in range(0, count, 2):
                pool[i : i + 2] = (render(made[i : i + 2], plan.image_px, device) * 255).round().byte().cpu()
            return pool
        return pictures.stack(entries[first : first + count], plan.image_px)

    config = start.config.autoencoder if start else AutoencoderConfig(channels=plan.channels)
    config = replace(config, finest_width=plan.finest_width) if plan.finest_width else config
    begun = start.autoencoder if start else None
    return autoencoder_training.train(plan.autoencoder, config, pool_of, plan.folder, device, begun).eval()


@contextmanager
def _latents(
    plan: Plan, entries: Sequence[Captioned], autoencoder: Autoencoder, device: torch.device, seed: int = TRAIN_SEED
) -> Iterator[tuple[Callable[[int], LatentSet], LatentSet]]:
    """What a step draws from, and what is validated on."""
    folder, side = plan.folder / "latents", plan.image_px
    if not entries:
        latent_sets.cache_scenes(autoencoder, VALIDATION_SEED, latent_sets.SHARD, side, folder / "validation", device, plan.workers)
        validation = latent_sets.load(folder / "validation", latent_sets.SHARD)
        growing = (plan.scenes, plan.fresh_scenes_per_step, side, folder / "train")
        with latent_sets.growing_scenes(autoencoder, seed, *growing, device=device, workers=plan.workers) as data:
            yield data, validation
        return
    latent_sets.cache_pictures(autoencoder, entries, side, folder / "train", device)
    every, held = latent_sets.load(folder / "train", len(entries)), _held_out(entries)
    train = LatentSet(every.latents[held:], every.sources[held:])
    yield lambda step: train, LatentSet(every.latents[:held], every.sources[:held])


def _held_out(entries: Sequence[Captioned]) -> int:
    """How many pictures, the first ones, a training validates on."""
    return max(1, min(48, len(entries) // 10))


def _sample_prompts(entries: Sequence[Captioned]) -> Sequence[str]:
    """What samples are drawn of: held-out captions of the training's own pictures, or of scenes."""
    return [entry.caption for entry in entries[: min(SAMPLES, _held_out(entries))]] if entries else scenes.SAMPLE_PROMPTS


def _vocabulary(entries: Sequence[Captioned]) -> list[str]:
    return sorted({w for entry in entries for w in words(entry.caption)}) if entries else scenes.vocabulary()


def write_samples(backbone: EmbeddedBackbone, out: Path, prompts: Sequence[str], steps: int = 16, side_px: int = 320) -> None:
    """A contact sheet of prompts, four in a row, each at its own seed, without merging or link."""
    latents = sampled(backbone, prompts, range(len(prompts)), steps)
    sheet = Image.new("RGB", (min(4, len(prompts)) * side_px, -(-len(prompts) // 4) * side_px))
    for i in range(len(prompts)):
        with torch.inference_mode():
            pixels = backbone.decode(latents[i : i + 1])[0].permute(1, 2, 0)
        picture = Image.fromarray((pixels * 255).round().byte().cpu().numpy())
        sheet.paste(picture.resize((side_px, side_px), Image.Resampling.LANCZOS), (i % 4 * side_px, i // 4 * side_px))
    with replacing(out) as temporary:
        sheet.save(temporary, format="PNG")


@torch.inference_mode()
def sampled(backbone: EmbeddedBackbone, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
    """Latents of prompts, each from its own seed, in any number of steps."""
    times = flow_map.times(steps, backbone.config.time_shift)
    return denoise.sample(backbone, backbone.condition(prompts), seeds, times)
