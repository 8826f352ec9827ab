"""Batches for the denoiser's trainings: latents, noise and tokens of a step, captions written a step ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from megen.models.text import PAD, TextEncoder
from megen.training import loop
from megen.training.latents import LatentSet


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    x: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    tokens: Int[Tensor, "b n"]
    generator: torch.Generator  # of the step, for what else it draws


def normalised(latents: Tensor, mean: Tensor, scale: Tensor, device: torch.device) -> Float[Tensor, "b c h w"]:
    """(latents - mean) / scale per channel, on the device, channels last."""
    x = (latents.to(device).float() - mean.to(device)[:, None, None]) / scale.to(device)[:, None, None]
    return x.contiguous(memory_format=torch.channels_last)


def batches(
    data: Callable[[int], LatentSet],
    text: TextEncoder,
    statistics: tuple[Tensor, Tensor],
    size: int,
    steps: range,
    device: torch.device,
    *,
    caption_dropout: float,
    seed: int,
) -> Iterator[Batch]:
    """A batch for each of `steps`, decided by seed and step alone; `data(step)` is the set that it is drawn from.

    On a GPU all captions are padded to one length, so that a compiled net sees one shape.
    """

    def drawn(step: int) -> tuple[LatentSet, Tensor, Tensor]:
        rng, latents = np.random.default_rng([seed, step]), data(step)
        index = torch.randint(len(latents), (size,), generator=loop.step_generator(seed, step))
        captions = ["" if rng.random() < caption_dropout else latents.caption(i, rng) for i in index.tolist()]
        tokens = text.tokenise(captions)
        if device.type != "cpu":
            tokens = F.pad(tokens, (0, text.config.max_words - tokens.shape[1]), value=PAD)
        return latents, index, tokens

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(drawn, steps.start) if len(steps) else None
        for step in steps:
            assert coming is not None
            latents, index, tokens = coming.result()
            coming = pool.submit(drawn, step + 1) if step + 1 < steps.stop else None
            x = normalised(latents.latents[index.to(latents.latents.device)], *statistics, device)
            generator = loop.step_generator(seed, step, device)
            noise = torch.randn(x.shape, generator=generator, device=device)
            yield Batch(x, noise.contiguous(memory_format=torch.channels_last), tokens.to(device), generator)
