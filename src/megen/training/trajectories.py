"""A teacher's guided paths from noise to latent, computed once: every pair of times on a path is an example of the flow map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from megen.diffusion.flow_map import adams_bashforth, times
from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.text import PAD
from megen.provenance import provenance
from megen.training import loop
from megen.training.guided import encoded, field_of
from megen.training.latents import LatentSet
from megen.types import InputError

SHARD = 32
STEPS = 12  # of a path, second order; between them it is a cubic
LAST = 0.999  # the teacher never saw less noise than this leaves


@dataclass(frozen=True)
class Trajectories:
    """Paths known by state and velocity at the same times."""

    states: Float[Tensor, "n k c h w"]
    velocities: Float[Tensor, "n k c h w"]
    times: Float[Tensor, "k"]
    tokens: Int[Tensor, "n words"]

    def __len__(self) -> int:
        return len(self.states)

    def at(self, index: Int[Tensor, "b"], t: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """State and velocity of path `index` at time `t` in [0, 1], a row each: cubic Hermite between the known times."""
        k = (torch.searchsorted(self.times, t.contiguous(), right=True) - 1).clamp(0, len(self.times) - 2)
        span = self.times[k + 1] - self.times[k]
        u, span = (x[:, None, None, None] for x in ((t - self.times[k]) / span, span))
        a, b = (self.states[index, j].float() for j in (k, k + 1))
        va, vb = (self.velocities[index, j].float() for j in (k, k + 1))
        state = a + (b - a) * u**2 * (3 - 2 * u) + span * u * (1 - u) * ((1 - u) * va - u * vb)
        velocity = (b - a) / span * 6 * u * (1 - u) + va * (1 - u) * (1 - 3 * u) + vb * u * (3 * u - 2)
        return state.contiguous(memory_format=torch.channels_last), velocity.contiguous(memory_format=torch.channels_last)

    def mean_velocity(
        self, index: Int[Tensor, "b"], s: Float[Tensor, "b"], t: Float[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The state at s, and (z_t - z_s) / (t - s), which is the velocity itself where t = s."""
        z, velocity = self.at(index, s)
        span = (t - s)[:, None, None, None]
        return z, torch.where(span > 1e-3, (self.at(index, t)[0] - z) / span.clamp(min=1e-3), velocity)


def compute(
    teacher: EmbeddedBackbone,
    guidance: float,
    data: LatentSet,
    count: int,
    folder: Path,
    device: torch.device,
    *,
    caption_dropout: float,
    seed: int,
    bf16: bool,
) -> Trajectories:
    """`count` paths of captions of `data`, rounded up to whole shards; shards that `folder` holds already are read.

    Errors: weights.WeightsError on a damaged shard, InputError where the folder's are another teacher's.
    """
    grid = [*times(STEPS, teacher.config.time_shift)[:-1], LAST]
    made_from = _made_from(teacher, guidance, caption_dropout, seed, data)
    field, shards = field_of(teacher, teacher.denoiser, guidance, device), range(-(-count // SHARD))
    missing = [k for k in shards if not _path(folder, k).is_file()]
    for path in (_path(folder, k) for k in shards if k not in missing):
        if weights.about(path).get("made_from") != made_from:
            raise InputError(f"{path} holds another teacher's paths: name another folder with --out, or remove it")
    for k, _ in loop.progress(0, len(missing), f"paths of the teacher ({SHARD} a shard)"):
        rng = np.random.default_rng([seed, missing[k]])
        captions = ["" if rng.random() < caption_dropout else data.caption(int(i), rng) for i in rng.integers(len(data), size=SHARD)]
        shape = (SHARD, *teacher.latent_shape)
        noise = torch.randn(shape, generator=loop.step_generator(seed + 7, missing[k])).to(device)
        tokens = teacher.text.tokenise(captions)
        tokens = F.pad(tokens, (0, teacher.config.text.max_words - tokens.shape[1]), value=PAD)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            context = encoded(teacher.text, tokens.to(device))
            sampled = list(adams_bashforth(field(context), noise.contiguous(memory_format=torch.channels_last), grid))
        states, velocities = (torch.stack(x, 1).half().cpu() for x in zip(*sampled, strict=True))
        about = {"captions": captions, "made_from": made_from, **provenance()}
        weights.write_safely({"states": states, "velocities": velocities, "tokens": tokens}, _path(folder, missing[k]), about)
    parts = [weights.read(_path(folder, k))[0] for k in shards]
    states, velocities, tokens = (torch.cat([p[name] for p in parts]).to(device) for name in ("states", "velocities", "tokens"))
    return Trajectories(states, velocities, torch.tensor(grid, device=device), tokens)


def _made_from(teacher: EmbeddedBackbone, guidance: float, caption_dropout: float, seed: int, data: LatentSet) -> str:
    """What paths depend on: text encoder and denoiser, how they are asked, and where the captions come from."""
    asked = f"guidance {guidance}, shift {teacher.config.time_shift}, {STEPS} steps to {LAST}, dropout {caption_dropout}, seed {seed}"
    captions = repr([data.caption(i, np.random.default_rng(0)) for i in range(min(len(data), 16))])  # how scenes are put into words
    nets = {k: v for k, v in teacher.state_dict().items() if k.startswith(("text.", "denoiser."))}
    return weights.digest(f"{asked}, {data.sources}: {captions}", nets)


def _path(folder: Path, index: int) -> Path:
    return folder / f"paths-{index:05d}.safetensors"
