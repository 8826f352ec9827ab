"""Trains the restorer on latents that crossed the very links it will serve: merged, quantised, noisy, with parts lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import merging
from megen.codec import FeatureCodec, Prior, features, refinement
from megen.codec.pyramid import ORDERS
from megen.halves import tokens_of
from megen.link import RadioLink
from megen.models import weights
from megen.models.placement import bf16_pays, place
from megen.models.restorer import Restorer, RestorerConfig
from megen.provenance import provenance
from megen.training import loop
from megen.training.muon import Muon
from megen.types import FloatArray, Received

RATIOS = (0.0, 0.0, 0.25, 0.5, 0.75)
SNR_DB = (-8.0, 26.0)
COARSE = 12  # quarter bits
LOST_SHARE = 0.2
FINGERPRINT = 0  # the codec of a training talks to itself


def degraded(
    latent: Float[Tensor, "1 c h w"],
    learned: Prior,
    rng: np.random.Generator,
    coarse_share: float = 0.0,
    snr_db: tuple[float, float] = SNR_DB,
    analog: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """One latent after a random reduction and link: [c, h, w] as it is unmerged, and its degradation [4, h, w].

    Quantisers are of any depth, and `coarse_share` of them no finer than `COARSE` quarter bits; an analog link's SNR lies in `snr_db`.
    `analog`: as symbols or as bits; None: by chance.
    """
    codec, (height, width) = FeatureCodec(learned, FINGERPRINT), latent.shape[-2:]
    ratio = float(rng.choice(RATIOS))
    if analog is None:
        analog = rng.random() < 0.5
    if analog:
        link = RadioLink(fading="awgn" if rng.random() < 0.5 else "rayleigh", snr_db=float(rng.uniform(*snr_db)))
        received = _analog(codec, tokens_of(latent), (height, width), ratio, link, rng)
    else:
        depth = int(rng.integers(features.MIN_DEPTH, (COARSE if rng.random() < coarse_share else features.MAX_DEPTH) + 1))
        received = _digital(codec, tokens_of(latent), (height, width), ratio, depth, rng)
    decoded = codec.decode(received)
    tokens = merging.unmerge(decoded.rows, decoded.merge_map)
    return _as_grid(tokens, height, width), _as_grid(decoded.degradation, height, width)


def _analog(
    codec: FeatureCodec, tokens: FloatArray, grid: tuple[int, int], ratio: float, link: RadioLink, rng: np.random.Generator
) -> Received:
    """Coefficients or tokens as symbols; a header arrives at any SNR."""
    variance = codec.prior.variance if codec.prior else None
    if rng.random() < 0.6 and variance is not None and variance.shape[1:] == grid:
        sent = codec.encode_coefficients(tokens, grid, ratio)
    else:
        sent = codec.encode(merging.merged(tokens, grid, ratio), analog=True)
    assert sent.symbols is not None
    return Received(sent.payload, *link.send_symbols(sent.symbols, link.gain(rng), 0.0, rng))


def _digital(
    codec: FeatureCodec, tokens: FloatArray, grid: tuple[int, int], ratio: float, depth: int, rng: np.random.Generator
) -> Received:
    """Bits in any order of parts, some of which are lost."""
    order = str(rng.choice([o for o in ORDERS if o != "layer" or depth >= features.MIN_DEPTH + refinement.LAYER]))
    payload = codec.encode(merging.merged(tokens, grid, ratio), quantiser_bits=depth / 4, order=order).payload
    if rng.random() < LOST_SHARE and len(payload.features) > 1:
        lost = int(rng.integers(1, len(payload.features)))
        gone = range(lost, len(payload.features)) if order == "stage" else (lost,)  # by stage nothing may follow a lost part
        payload = replace(payload, features=tuple(b"" if i in gone else p for i, p in enumerate(payload.features)))
    return Received(payload)


def _as_grid(columns: np.ndarray, height: int, width: int) -> Tensor:
    return torch.from_numpy(columns.T.reshape(-1, height, width).copy())


def train(
    latents: Float[Tensor, "n c h w"],
    prior: Prior,
    config: RestorerConfig,
    folder: Path,
    device: torch.device,
    *,
    steps: int = 1200,
    batch: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
) -> Restorer:
    """Train (or resume from `folder`) on normalised latents, each degraded once."""
    channels = latents.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = place(Restorer(config, channels), device)
    weight, bf16 = channel_weight(prior).to(device), bf16_pays(device)
    optimisers = optimisers_of(model, lr, bf16)
    path, done = folder / "restorer.checkpoint.safetensors", 0
    made_from = weights.digest(f"prior {prior.digest}, {config}, {steps} steps of {batch} at {lr}, seed {seed}", {"latents": latents})
    if path.is_file() and weights.about(path).get("made_from") == made_from:  # else its latents are not these
        about = loop.load_checkpoint(path, {"model": model}, optimisers)
        done, bf16 = int(about["step"]), bool(about["bf16"])
        optimisers[0].param_groups[0]["bf16"] = bf16
    pool = _pool(latents, prior, seed)
    for step, shown in loop.progress(done, steps, "restorer"):
        loop.set_lr(optimisers, loop.lr_factor(step, steps, warmup=50, decay_share=0.5))
        index = torch.randint(len(pool[0]), (batch,), generator=loop.step_generator(seed, step))
        z, degradation, target = (part[index].to(device, memory_format=torch.channels_last) for part in pool)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            restored = model(z, degradation).float()
        error = ((restored - target) * weight).square().mean((1, 2, 3))
        before = ((z - target) * weight).square().mean((1, 2, 3))
        value = (error + 1e-6).sqrt().mean()
        loop.descend(value, model, optimisers)
        gain_db = float(10 * torch.log10(before / error.detach()).mean())
        shown["gain_db"] = 0.97 * shown.get("gain_db", gain_db) + 0.03 * gain_db
        if (step + 1) % 200 == 0 or step == steps - 1:
            about = {"step": step + 1, "bf16": bf16, "made_from": made_from, **provenance()}
            loop.save_checkpoint(path, {"model": model}, optimisers, about)
    return model.eval()


def channel_weight(learned: Prior) -> Float[Tensor, "c 1 1"]:
    """By how much an error in a channel counts, as it shows in the picture: one over its quantiser step, whose mean is 1."""
    return torch.from_numpy(learned.step / learned.step.mean()).float()[:, None, None] ** -1


def optimisers_of(model: torch.nn.Module, lr: float, bf16: bool) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels, AdamW for vectors."""
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    return [
        Muon([{"params": matrices, "base_lr": lr}], lr=lr, weight_decay=0.01, bf16=bf16),
        torch.optim.AdamW([{"params": vectors, "base_lr": lr}], lr=lr, weight_decay=0.0),
    ]


def _pool(latents: Float[Tensor, "n c h w"], prior: Prior, seed: int) -> Sequence[Tensor]:
    parts = []
    for i, shown in loop.progress(0, len(latents), "degraded latents"):
        parts.append(degraded(latents[i : i + 1], prior, np.random.default_rng([seed, i])))
        shown["of"] = float(len(latents))
    z, degradation = (torch.stack(p) for p in zip(*parts, strict=True))
    return z, degradation, latents
