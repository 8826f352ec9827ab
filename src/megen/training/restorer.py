"""Trains the restorer on latents that crossed the very links it will serve: merged, quantised, noisy, with parts lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import codec, merging, pipeline
from megen.codec import features
from megen.models import weights
from megen.models.placement import bf16_pays, place
from megen.models.restorer import Restorer, RestorerConfig
from megen.pipeline import Clock, Link
from megen.training import loop
from megen.training.muon import Muon
from megen.ue import Arrival, arrive

RATIOS = (0.0, 0.0, 0.25, 0.5, 0.75)
SNR_DB = (-8.0, 26.0)
LOST_SHARE = 0.15
IDENTITY = 0


class _Notes:
    """A receiver that keeps what arrived instead of making a picture of it."""

    identity = IDENTITY

    def __init__(self, prior: codec.Prior) -> None:
        self.prior = prior
        self.heard: list[Arrival] = []

    def __call__(self, arrival: Arrival) -> np.ndarray:
        self.heard.append(arrival)
        return np.empty(0)


def harm(latent: Float[Tensor, "1 c h w"], prior: codec.Prior, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One latent after a random merge and link: [c, h, w] as it is unmerged, and its state [4, h, w]."""
    notes, (height, width) = _Notes(prior), latent.shape[-2:]
    ratio = float(rng.choice(RATIOS))
    if rng.random() < 0.5:
        fading = "awgn" if rng.random() < 0.5 else "rayleigh"
        link, result = Link("analog", float(rng.uniform(*SNR_DB)), fading=fading), None
        while result is None:  # until the header arrives; a poor channel is told by the features alone
            try:
                result = pipeline.send(latent, ratio, link, rng, notes, Clock())
            except pipeline.NotDeliveredError:
                link = replace(link, snr_db=link.snr_db + 1)
    else:
        depth = int(rng.integers(features.MIN_DEPTH, features.MAX_DEPTH + 1))
        payload = pipeline.send(latent, ratio, Link(), rng, notes, Clock(), depth).payload
        if rng.random() < LOST_SHARE and len(payload.features) > 1:
            lost = int(rng.integers(1, len(payload.features)))
            payload = replace(payload, features=tuple(b"" if i == lost else p for i, p in enumerate(payload.features)))
        notes(arrive(payload, notes))
    last = notes.heard[-1]
    tokens = merging.unmerge(last.rows, last.mapping)
    return _as_grid(tokens, height, width), _as_grid(last.state, height, width)


def _as_grid(columns: np.ndarray, height: int, width: int) -> Tensor:
    return torch.from_numpy(columns.T.reshape(-1, height, width).copy())


def train(
    latents: Float[Tensor, "n c h w"],
    prior: codec.Prior,
    config: RestorerConfig,
    folder: Path,
    device: torch.device,
    steps: int = 1200,
    batch: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
) -> Restorer:
    """Train (or resume from `folder`) on normalised latents, each harmed anew every few times it is seen."""
    channels = latents.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = place(Restorer(config, channels), device)
    # errors count as they show in the picture: in units of each channel's quantiser step
    weight = torch.from_numpy(prior.step / prior.step.mean()).float()[:, None, None].to(device) ** -1
    kernels, biases = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    bf16 = bf16_pays(device)
    optimisers = [
        Muon([{"params": kernels, "base_lr": lr}], lr=lr, weight_decay=0.01, bf16=bf16),
        torch.optim.AdamW([{"params": biases, "base_lr": lr}], lr=lr, weight_decay=0.0),
    ]
    path, done = folder / "restorer.checkpoint.safetensors", 0
    made_from = weights.digest(f"prior {prior.digest}, {config}", {"latents": latents})
    if path.is_file() and weights.about(path).get("made_from") == made_from:  # else its latents are not these
        about = loop.load_checkpoint(path, {"model": model}, optimisers)
        done, bf16 = int(about["step"]), bool(about["bf16"])
        optimisers[0].param_groups[0]["bf16"] = bf16
    harmed = _pool(latents, prior, seed)
    for step, shown in loop.progress(done, steps, "restorer"):
        loop.set_lr(optimisers, loop.lr_factor(step, steps, warmup=50, decay_share=0.5))
        index = torch.randint(len(harmed[0]), (batch,), generator=loop.step_generator(seed, step))
        z, state, target = (part[index].to(device, memory_format=torch.channels_last) for part in harmed)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            restored = model(z, state).float()
        error = ((restored - target) * weight).square().mean((1, 2, 3))
        before = ((z - target) * weight).square().mean((1, 2, 3))
        value = (error + 1e-6).sqrt().mean()
        loop.descend(value, model, optimisers)
        gain_db = float(10 * torch.log10(before / error.detach()).mean())
        shown["gain_db"] = 0.97 * shown.get("gain_db", gain_db) + 0.03 * gain_db
        if (step + 1) % 200 == 0 or step == steps - 1:
            about = {"step": step + 1, "bf16": bf16, "made_from": made_from, **weights.provenance()}
            loop.save_checkpoint(path, {"model": model}, optimisers, about)
    return model.eval()


def _pool(latents: Float[Tensor, "n c h w"], prior: codec.Prior, seed: int) -> Sequence[Tensor]:
    parts = []
    for i, shown in loop.progress(0, len(latents), "harmed latents"):
        parts.append(harm(latents[i : i + 1], prior, np.random.default_rng([seed, i])))
        shown["of"] = float(len(latents))
    z, state = (torch.stack(p) for p in zip(*parts, strict=True))
    return z, state, latents
