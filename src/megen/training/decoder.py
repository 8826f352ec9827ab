"""Distils a light receiver from a backbone's own decoder: from latents that crossed random links to the picture of the undisturbed one.

A published autoencoder's decoder takes 0.6 to 10 TFLOP a picture of 1024 px; this one takes 0.03 to 0.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megen.backbone import Backbone
from megen.codec import Prior
from megen.errors import InputError
from megen.models import light_decoder
from megen.models.light_decoder import LightDecoderConfig, LightReceiver
from megen.models.placement import place
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

    def batch(self, recipe: DecoderRecipe, step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Crops of a step: what arrives, how it was degraded, and the picture."""
        generator = loop.step_generator(recipe.seed, step)
        patch = self.pictures.shape[-1] // self.clean.shape[-1]
        side = min(max(1, recipe.crop_px // patch), *self.clean.shape[-2:])
        rows = torch.randint(len(self.clean), (recipe.batch,), generator=generator).tolist()
        disturbed = (torch.rand(recipe.batch, generator=generator) >= CLEAN_SHARE).tolist()
        room = torch.tensor(self.clean.shape[-2:]) - side + 1
        corners = (torch.rand(recipe.batch, 2, generator=generator) * room).long().tolist()
        parts = []
        for i, after, (y, x) in zip(rows, disturbed, corners, strict=True):
            place_ = (i, slice(None), slice(y, y + side), slice(x, x + side))
            picture = self.pictures[i, :, patch * y : patch * (y + side), patch * x : patch * (x + side)].float() / 255
            state = self.degradation[place_]
            parts.append((self.sent[place_] if after else self.clean[place_], state if after else state * 0, picture))
        z, degradation, target = (torch.stack(column).to(device) for column in zip(*parts, strict=True))
        return z, degradation, target


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
    place(model, accelerator.device)  # before its optimisers, whose state lies where the weights do
    optimisers = optimisers_of(model, recipe.lr)
    path, done = folder / CHECKPOINT, 0
    about = {"recipe": asdict(recipe), "config": asdict(config), "prior": learned.digest, "examples": len(examples.latents)}
    if path.is_file():
        done = int(loop.load_checkpoint(path, {"model": model}, optimisers, about)["step"])
    net = accelerator.prepare(model)
    pool = _pool(examples, held, learned, recipe.seed)
    for step, shown in loop.progress(done, recipe.steps, "decoder"):
        loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, decay_share=0.5))
        number = step * accelerator.num_processes + accelerator.process_index  # each process draws its own rows
        z, degradation, target = pool.batch(recipe, number, accelerator.device)
        with accelerator.autocast():
            picture = net(z, degradation).float()
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


def _pool(examples: Examples, held: int, learned: Prior, seed: int) -> _Pool:
    sent: list[Tensor] = []
    states: list[Tensor] = []
    for i, _ in loop.progress(held, len(examples.latents), "degraded latents"):
        latent, degradation = degraded(examples.latents[i : i + 1], learned, np.random.default_rng([seed, i]))
        sent.append(latent)
        states.append(degradation)
    return _Pool(examples.latents[held:], torch.stack(sent), torch.stack(states), examples.pictures[held:])
