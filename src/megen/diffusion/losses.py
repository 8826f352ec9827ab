"""Training losses of the flow map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from megen.diffusion.path import Velocity, interpolate

MAX_NOISE = 0.998


def sample_times(n: int, shift: float, generator: torch.Generator) -> Float[Tensor, "n"]:
    """Times whose noise level is logit-normal, moved towards noise by `shift` (1: not moved)."""
    u = torch.sigmoid(torch.randn(n, generator=generator))
    level = shift * u / (1 + (shift - 1) * u)
    return 1 - level.clamp(1e-3, MAX_NOISE)


def flow_matching(
    velocity: Velocity, x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Mean of |v(x_t, t, t) - (x - noise)|^2 per row, the instantaneous velocity."""
    predicted = velocity(interpolate(x, noise, t), t, t)
    return (predicted - (x - noise)).square().mean((1, 2, 3))
