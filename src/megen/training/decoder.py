"""Distils a light receiver from a backbone's own decoder: from latents that crossed random links to the picture of the undisturbed one.

A published autoencoder's decoder takes 0.6 to 10 TFLOP a picture of 1024 px; this one takes 0.03 to 0.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megen.backbone import Backbone
from megen.codec import Prior
from megen.errors import InputError
from megen.models import light_decoder
from megen.models.light_decoder import LightDecoder, LightDecoderConfig, LightReceiver
from megen.models.placement import bf16_pays, place
from megen.provenance import provenance
from megen.training import loop
from megen.training.autoencoder import loss, optimisers_of
from megen.training.examples import Examples
from megen.training.restorer import degraded
from megen.types import check_number

CHECKPOINT = "decoder.checkpoint.safetensors"
HELD_SHARE = 1 / 16  # of the examples: not trained on
MOST_HELD = 32
FITTED = 48  # examples that the linear path starts from
CLEAN_SHARE = 0.5  # of the rows that were not disturbed
LEAST_CHANCE = 1e-3  # of a crop without detail


@dataclass(frozen=True)
class DecoderRecipe:
    """How a light receiver is trained; `crop_px` is the side of what one row of a batch shows."""

    steps: int = 4000
    batch: int = 8
    lr: float = 6e-4
    crop_px: int = 256
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop_px", "save_every"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("lr", self.lr, 1e-9, 1)
        check_number("seed", self.seed, 0, 2**31 - 1, whole=True)


@dataclass(frozen=True)
class _Pool:
    """Examples as they are and after a link: latents, degradations, pictures."""

    clean: Tensor
    sent: Tensor
    degradation: Tensor
    pictures: Tensor
    chance: Tensor  # [n, y, x]: of crops by their first token, summed up

    def batch(self, recipe: DecoderRecipe, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Crops of a step: what arrives, how it was degraded, and the picture."""
        generator, patch = loop.step_generator(recipe.seed, step), self.pictures.shape[-1] // self.clean.shape[-1]
        side = crop_side(recipe.crop_px, patch, self.clean)
        disturbed = (torch.rand(recipe.batch, generator=generator) >= CLEAN_SHARE).tolist()
        drawn = torch.rand(recipe.batch, generator=generator, dtype=torch.double) * self.chance.flatten()[-1]
        flat = torch.searchsorted(self.chance.flatten(), drawn, right=True).clamp(max=self.chance.numel() - 1)
        places = torch.stack(torch.unravel_index(flat, self.chance.shape), 1).tolist()
        parts = []
        for (i, y, x), after in zip(places, disturbed, strict=True):
            place_ = (i, slice(None), slice(y, y + side), slice(x, x + side))
            picture = self.pictures[i, :, patch * y : patch * (y + side), patch * x : patch * (x + side)].float() / 255
            state = self.degradation[place_]
            parts.append((self.sent[place_] if after else self.clean[place_], state if after else state * 0, picture))
        z, degradation, target = (torch.stack(column).to(device) for column in zip(*parts, strict=True))
        return z, degradation, target


def crop_side(crop_px: int, patch: int, latents: Tensor) -> int:
    """The side of a crop in tokens."""
    return int(min(max(1, crop_px // patch), *latents.shape[-2:]))


@torch.inference_mode()
def chance_of(decoder: LightDecoder, latents: Tensor, pictures: Tensor, crop_px: int) -> Tensor:
    """How often each crop is drawn, summed up [n, y, x]: by the root mean squared error of its linear path, which is where detail is."""
    patch, errors = decoder.config.patch, []
    side = crop_side(crop_px, patch, latents)
    for latent, picture in zip(latents, pictures, strict=True):
        smooth = F.pixel_shuffle(decoder.linear(latent[None]), patch) * 0.5 + 0.5
        error = (smooth - picture[None].float() / 255).square().mean(1, keepdim=True)
        errors.append(F.avg_pool2d(F.avg_pool2d(error, patch), side, stride=1)[:, 0].sqrt())
    weight = torch.cat(errors).double() + LEAST_CHANCE
    return weight.flatten().cumsum(0).reshape(weight.shape)


def train(
    recipe: DecoderRecipe,
    config: LightDecoderConfig,
    backbone: Backbone,
    examples: Examples,
    learned: Prior,
    folder: Path,
) -> LightReceiver:
    """Train (or resume from `folder`) on one or several devices, as torchrun says; writes `light_decoder.FILE`.

    Errors: InputError on too few examples, or on a folder of another recipe.
    """
    from accelerate import Accelerator

    held = min(MOST_HELD, max(1, int(HELD_SHARE * len(examples.latents))))
    if len(examples.latents) <= held:
        raise InputError(f"a decoder needs at least 2 examples, got {len(examples.latents)}")
    accelerator = Accelerator(cpu=backbone.device.type == "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = LightReceiver(config)
    fitted = slice(held, held + FITTED)
    model.decoder.start_from_least_squares(examples.latents[fitted], examples.pictures[fitted].float() / 255)
    chance = chance_of(model.decoder, examples.latents[held:], examples.pictures[held:], recipe.crop_px)
    place(model, accelerator.device)  # before its optimisers, whose state lies where the weights do
    optimisers = optimisers_of(model, recipe.lr)
    path, done = folder / CHECKPOINT, 0
    about = {"recipe": asdict(recipe), "config": asdict(config), "prior": learned.digest, "examples": len(examples.latents)}
    if path.is_file():
        done = int(loop.load_checkpoint(path, {"model": model}, optimisers, about)["step"])
    net = accelerator.prepare(model)
    pool = _pool(examples, held, learned, recipe.seed, chance)
    bf16 = bf16_pays(accelerator.device)
    for step, shown in loop.progress(done, recipe.steps, "decoder"):
        loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, decay_share=0.5))
        number = step * accelerator.num_processes + accelerator.process_index  # each process draws its own rows
        z, degradation, target = pool.batch(recipe, number, accelerator.device)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
            picture = net(z, degradation)
        value = loss(picture, target)
        loop.descend(value, net, optimisers)
        psnr_db = float(-10 * torch.log10((picture.detach() - target).square().mean()))
        shown["psnr_db"] = 0.97 * shown.get("psnr_db", psnr_db) + 0.03 * psnr_db
        if accelerator.is_main_process and ((step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps):
            loop.save_checkpoint(path, {"model": model}, optimisers, {"step": step + 1, "recipe": about, **provenance()})
    model.cpu().eval()
    if accelerator.is_main_process:
        figures = {"held_out_psnr_db": held_out_psnr_db(model, examples, held), "processes": accelerator.num_processes}
        light_decoder.save(model, folder, {"recipe": about, **figures, **provenance()})
    accelerator.wait_for_everyone()
    return model


@torch.inference_mode()
def held_out_psnr_db(model: LightReceiver, examples: Examples, held: int) -> float:
    """The mean PSNR to the pictures of examples that were not trained on, from their clean latents."""
    states = torch.zeros(1, 4, *examples.latents.shape[-2:])
    values = []
    for latent, picture in zip(examples.latents[:held], examples.pictures[:held], strict=True):
        error = (model.receive(latent[None], states)[0] - picture.float() / 255).square().mean()
        values.append(float(-10 * torch.log10(error + 1e-10)))
    return float(np.mean(values))


def _pool(examples: Examples, held: int, learned: Prior, seed: int, chance: Tensor) -> _Pool:
    sent: list[Tensor] = []
    states: list[Tensor] = []
    for i, _ in loop.progress(held, len(examples.latents), "degraded latents"):
        latent, degradation = degraded(examples.latents[i : i + 1], learned, np.random.default_rng([seed, i]))
        sent.append(latent)
        states.append(degradation)
    return _Pool(examples.latents[held:], torch.stack(sent), torch.stack(states), examples.pictures[held:], chance)
