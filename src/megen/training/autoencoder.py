"""Trains the autoencoder on crops of pictures: root mean squared error + L1, noise on the latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from megen import run_folder
from megen.errors import RunError
from megen.models import weights
from megen.models.autoencoder import PATCH, Autoencoder, AutoencoderConfig
from megen.models.placement import bf16_pays, place
from megen.provenance import provenance
from megen.training import loop
from megen.training.muon import Muon
from megen.types import InputError

SAVE_EVERY = 200


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How long and on what the autoencoder is trained."""

    steps: int = 4000
    batch: int = 16
    crop_px: int = 128
    pool: int = 500  # pictures held in memory as bytes
    lr: float = 6e-4
    latent_noise: float = 0.05
    seed: int = 0
    decoder_only: bool = False  # keep the encoder (and so every cached latent) as it is


def loss(picture: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Mean of the root mean squared error of each picture + L1 / 2, pictures in [0, 1].

    The mean PSNR is a mean of log-MSEs; the root keeps easy pictures in view, which a plain MSE forgets.
    """
    error = picture - target
    return (error.square().mean((1, 2, 3)) + 1e-6).sqrt().mean() + 0.5 * error.abs().mean()


@torch.inference_mode()
def difficulty(model: Autoencoder, pool: UInt8[Tensor, "n 3 H W"], crop_px: int) -> Float[Tensor, "n y x"]:
    """Root mean squared error of the linear path in every crop on the patch grid: where there is detail."""
    errors = []
    for part in torch.split(pool, 8):
        picture = part.float() / 255
        smooth = F.pixel_shuffle(model.decoder.linear(model.encoder.linear(2 * picture - 1)), PATCH) * 0.5 + 0.5
        error = F.avg_pool2d((smooth - picture).square().mean(1, keepdim=True), PATCH)
        errors.append(F.avg_pool2d(error, crop_px // PATCH, stride=1)[:, 0].sqrt())
    return torch.cat(errors)


def crops(pool: Tensor, weight: Float[Tensor, "n y x"], batch: int, crop_px: int, generator: torch.Generator) -> UInt8[Tensor, "b 3 s s"]:
    """Square crops of a byte pool, each drawn by its weight and then moved by up to half a patch."""
    height, width = pool.shape[-2:]
    flat = torch.multinomial(weight.flatten() + 1e-3, batch, replacement=True, generator=generator)
    which, cell = flat // weight[0].numel(), flat % weight[0].numel()
    corner = torch.stack([cell // weight.shape[2], cell % weight.shape[2]], 1) * PATCH
    corner = corner + torch.randint(-PATCH // 2, PATCH // 2 + 1, (batch, 2), generator=generator)
    corner = corner.clamp(min=0).minimum(torch.tensor([height - crop_px, width - crop_px]))
    cut = [pool[i, :, y : y + crop_px, x : x + crop_px] for i, (y, x) in zip(which.tolist(), corner.tolist(), strict=True)]
    return torch.stack(cut)


def _finished(path: Path, recipe: AutoencoderRecipe, config: AutoencoderConfig) -> Autoencoder | None:
    """The autoencoder of a checkpoint that has all its steps, or None. Errors: InputError where it is another recipe's."""
    if not path.is_file():
        return None
    tensors, about = weights.read(path)
    run_folder.check_same({"recipe": asdict(recipe), "config": asdict(config)}, {k: about.get(k) for k in ("recipe", "config")}, str(path))
    if int(about["step"]) < recipe.steps:
        return None
    model = Autoencoder(config)
    weights.load_into(model, {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}, str(path))
    return model


def _start_from(model: Autoencoder, start: Autoencoder) -> None:
    """Take over all weights; where the model's decoder has a finest stage more, those before it."""
    given = start.state_dict()
    if model.config != start.config:
        own = model.state_dict()
        given = {k: given[k] if k in given and given[k].shape == v.shape else v for k, v in own.items()}
    model.load_state_dict(given)


def optimisers_of(model: torch.nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions, AdamW for biases and, far slower, the linear path."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    linear = [p for n, p in trained.items() if ".linear." in n]
    kernels = [p for n, p in trained.items() if ".linear." not in n and p.ndim > 1]
    biases = [p for n, p in trained.items() if ".linear." not in n and p.ndim == 1]
    slow = [{"params": biases, "base_lr": 0.4 * lr}, {"params": linear, "base_lr": 0.01 * lr}]
    return [Muon([{"params": kernels, "base_lr": lr}], lr=lr), torch.optim.AdamW(slow, betas=(0.9, 0.98), weight_decay=0.0)]


def train(
    recipe: AutoencoderRecipe,
    config: AutoencoderConfig,
    pictures: Callable[[int, int], Tensor],
    folder: Path,
    device: torch.device,
    start: Autoencoder | None = None,
) -> Autoencoder:
    """Train (or resume from `folder`) and return the autoencoder.

    `pictures(first, count)` gives bytes [count, 3, H, W]. With `start`, its weights are trained on.
    """
    path = folder / "autoencoder.checkpoint.safetensors"
    finished = _finished(path, recipe, config)
    if finished is not None:
        return place(finished, device)
    pool = pictures(0, recipe.pool)
    if min(pool.shape[-2:]) < recipe.crop_px:
        raise InputError(f"pictures must be at least {recipe.crop_px} px, got {pool.shape[-2]} x {pool.shape[-1]}")
    patches = F.pixel_unshuffle(pool[:40].float() / 127.5 - 1, PATCH).permute(0, 2, 3, 1).flatten(0, 2)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = Autoencoder(config)
        model.start_from_principal_components(patches[torch.randperm(len(patches))[:20000]])
    weight = difficulty(model, pool, recipe.crop_px)
    if start is not None:
        _start_from(model, start)
    place(model, device)
    if recipe.decoder_only:
        model.encoder.requires_grad_(False)
    optimisers = optimisers_of(model, recipe.lr)
    done = 0
    if path.is_file():
        done = int(loop.load_checkpoint(path, {"model": model}, optimisers)["step"])
    bf16 = bf16_pays(device)
    for step, shown in loop.progress(done, recipe.steps, "autoencoder"):
        loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, decay_share=0.5))
        generator = loop.step_generator(recipe.seed, step)
        drawn = crops(pool, weight, recipe.batch, recipe.crop_px, generator).to(device)
        target = (drawn.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            latent = model.encoder(target)
            # noise would drown what the encoder's convolutions have to say at first: let it come in later
            level = recipe.latent_noise * min(1.0, 2 * step / recipe.steps)
            noise = torch.randn(latent.shape, generator=generator).to(device) * level
            value = loss(model.decoder(latent + noise).float(), target)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        if not torch.isfinite(value):
            raise RunError(f"the loss is {float(value)} at step {step}: train into another folder with another --seed")
        torch.autograd.backward(value)
        for optimiser in optimisers:
            optimiser.step()
        shown["loss"] = 0.98 * shown.get("loss", float(value.detach())) + 0.02 * float(value.detach())
        if (step + 1) % SAVE_EVERY == 0 or step == recipe.steps - 1:
            about = {"step": step + 1, "config": asdict(config), "recipe": asdict(recipe), **provenance()}
            loop.save_checkpoint(path, {"model": model}, optimisers, about)
    return model
