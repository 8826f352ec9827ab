"""Trains text encoder and denoiser by flow matching on cached latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from megen.diffusion import losses
from megen.diffusion.flow_map import interpolate
from megen.models.denoiser import Denoiser, DenoiserConfig
from megen.models.placement import bf16_pays, place
from megen.models.text import TextConfig, TextEncoder
from megen.provenance import provenance
from megen.training import loop
from megen.training.batches import batches, normalised
from megen.training.latents import LatentSet
from megen.training.muon import Muon

BANDS = ((0.05, 0.28), (0.28, 0.5), (0.5, 0.75), (0.75, 0.998))  # noise levels of the validation


@dataclass(frozen=True)
class TeacherRecipe:
    """How long and how the denoiser is trained."""

    steps: int = 4000
    batch: int = 32
    lr: float = 2e-3  # Muon's, for the matrices; AdamW's is a third of it
    decay_share: float = 0.5
    caption_dropout: float = 0.1
    time_shift: float = 2.0
    ema: float = 0.999
    seed: int = 0
    save_every: int = 250


class TextToLatent(nn.Module):
    """Text encoder and denoiser under one roof, as they are trained."""

    def __init__(self, text: TextConfig, denoiser: DenoiserConfig) -> None:
        super().__init__()
        self.text, self.denoiser = TextEncoder(text), Denoiser(denoiser)


def optimisers_of(model: nn.Module, lr: float, bf16: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices within; AdamW for vectors, the text encoder, and what meets inputs, outputs and conditions."""
    outer = ("inward", "outward", "time", "pooled", "modulation", "place")
    named = list(model.named_parameters())
    text = [p for name, p in named if name.startswith("text.") or ".place" in name]
    inner = [p for name, p in named if p.ndim > 1 and not name.startswith("text.") and not any(word in name for word in outer)]
    rest = [p for _, p in named if all(p is not q for q in (*inner, *text))]
    groups = [{"params": rest, "base_lr": lr / 3}, *([{"params": text, "base_lr": lr / 2}] if text else [])]
    return [
        Muon([{"params": inner, "base_lr": lr}], lr=lr, weight_decay=0.01, bf16=bf16),
        torch.optim.AdamW(groups, lr=lr / 3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def statistics(latents: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    """Mean per channel, and scale: the channel's std to the power 1/2, times one scalar for unit mean variance."""
    values = latents[:4096].float()
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    scale = std.sqrt()
    return mean, scale * ((std / scale) ** 2).mean().sqrt()


def validation_error(model: TextToLatent, x: Float[Tensor, "n c h w"], captions: list[str], device: torch.device) -> list[float]:
    """Mean squared error of the clean-latent estimate in each band of `BANDS`, the same noise every time."""
    tokens = model.text.tokenise(captions).to(device)
    errors = []
    with torch.inference_mode():
        text, pooled, mask = model.text(tokens)
        for k, (low, high) in enumerate(BANDS):
            generator = torch.Generator().manual_seed(1000 + k)
            noise = torch.randn(x.shape, generator=generator).to(device)
            t = 1 - (low + (high - low) * torch.rand(len(x), generator=generator)).to(device)
            z = interpolate(x, noise, t)
            estimate = z + (1 - t)[:, None, None, None] * model.denoiser(z, t, t, text, pooled, mask)
            errors.append(float((estimate - x).square().mean()))
    return errors


def train(
    recipe: TeacherRecipe,
    text: TextConfig,
    config: DenoiserConfig,
    data: Callable[[int], LatentSet],
    validation: LatentSet,
    folder: Path,
    device: torch.device,
    *,
    start: tuple[TextToLatent, Tensor, Tensor] | None = None,
    on_save: Callable[[TextToLatent, int, Tensor, Tensor], object] | None = None,
) -> tuple[TextToLatent, Tensor, Tensor]:
    """Train (or resume from `folder`); returns the averaged model and the latents' mean and scale.

    `data(step)` is the set that a step draws from. `start` is a model to train on and its latents' mean and scale;
    `on_save(average, step, mean, scale)` is called after every checkpoint, to write samples.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model, average = TextToLatent(text, config), TextToLatent(text, config)
    if start is not None:
        model.load_state_dict(start[0].state_dict())
    place(model, device)
    place(average, device).eval()
    ema = loop.Average(model, average, recipe.ema)
    path, done, bf16 = folder / "teacher.checkpoint.safetensors", 0, bf16_pays(device)
    optimisers = optimisers_of(model, recipe.lr, bf16)
    mean, scale = statistics(data(0).latents) if start is None else start[1:]
    statistic = nn.ParameterDict({"mean": nn.Parameter(mean, False), "scale": nn.Parameter(scale, False)})
    modules = {"model": model, "average": average, "statistics": statistic}
    if path.is_file():
        about = loop.load_checkpoint(path, modules, optimisers, asdict(recipe))
        done, bf16 = int(about["step"]), about.get("bf16", False)  # a resumed run keeps its precision
        optimisers[0].param_groups[0]["bf16"] = bf16
    mean, scale = statistic["mean"].detach(), statistic["scale"].detach()
    held = normalised(validation.latents[:48], mean, scale, device)
    held_captions = [validation.caption(i, np.random.default_rng(i)) for i in range(len(held))]
    denoiser, loss = loop.compiled(model.denoiser, device), loop.Smoothed()
    steps = range(done, recipe.steps)
    source = batches(data, model.text, (mean, scale), recipe.batch, steps, device, caption_dropout=recipe.caption_dropout, seed=recipe.seed)
    for (step, shown), batch in zip(loop.progress(done, recipe.steps, "denoiser"), source, strict=True):
        loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, decay_share=recipe.decay_share))
        t = losses.sample_times(recipe.batch, recipe.time_shift, batch.generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            context = model.text(batch.tokens)
            value = losses.flow_matching(lambda z, s, u: denoiser(z, s, u, *context).float(), batch.x, batch.noise, t).mean()  # noqa: B023
        loop.descend(value, model, optimisers)
        ema.update(model, step)
        loss.add(value)
        if step % 50 == 49 or device.type == "cpu":
            shown["loss"] = loss.read()
        if (step + 1) % recipe.save_every == 0 or step == recipe.steps - 1:
            bands = validation_error(average, held, held_captions, device)
            shown.update({"loss": loss.read(), **{f"x{k}": v for k, v in enumerate(bands)}})
            about = {"step": step + 1, "text": asdict(text), "denoiser": asdict(config), "recipe": asdict(recipe)}
            about |= {"validation": bands, "bf16": bf16, **provenance()}
            loop.save_checkpoint(path, modules, optimisers, about)
            if on_save is not None:
                on_save(average, step + 1, mean, scale)
    return average, mean, scale
