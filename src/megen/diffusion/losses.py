"""Training losses of the flow map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from megen.diffusion.flow_map import Velocity, interpolate, step

MAX_NOISE = 0.998


def sample_times(n: int, shift: float, generator: torch.Generator) -> Float[Tensor, "n"]:
    """Times whose noise level is logit-normal, moved towards noise by `shift` (1: not moved)."""
    u = torch.sigmoid(torch.randn(n, generator=generator, device=generator.device))
    level = shift * u / (1 + (shift - 1) * u)
    return 1 - level.clamp(1e-3, MAX_NOISE)


def flow_matching(
    velocity: Velocity, x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Mean of |v(x_t, t, t) - (x - noise)|^2 per row, the instantaneous velocity."""
    predicted = velocity(interpolate(x, noise, t), t, t)
    return (predicted - (x - noise)).square().mean((1, 2, 3))


def sample_spans(s: Float[Tensor, "n"], diagonal: int, generator: torch.Generator) -> Float[Tensor, "n"]:
    """An end t in [s, 1] for each start: t = s in the first `diagonal` rows, t = 1 in a fifth of the others, else uniform."""
    u = torch.rand(len(s), generator=generator, device=s.device)
    share = (u / 0.8).clamp(max=1.0)
    share[:diagonal] = 0.0
    return s + (1 - s) * share


def progressive(
    velocity: Velocity, goal_velocity: Velocity, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"]
) -> Float[Tensor, "b c h w"]:
    """v(z, s, t) minus what two steps of half the span make: |X_{s,t} - X_{u,t}(X_{s,u})| / (t - s), u = (s + t) / 2."""
    u = (s + t) / 2
    with torch.no_grad():
        first = goal_velocity(z, s, u)
        half = z + (u - s)[:, None, None, None] * first
        goal = (first + goal_velocity(half, u, t)) / 2
    return velocity(z, s, t) - goal


def lagrangian(
    velocity: Velocity,
    field: Velocity,
    z: Float[Tensor, "b c h w"],
    s: Float[Tensor, "b"],
    t: Float[Tensor, "b"],
    half_span: float,
) -> Float[Tensor, "b c h w"]:
    """d/dt X_{s,t}(z), by a central difference of +-`half_span`, minus the field's velocity at X_{s,t}(z) (Boffi et al. 2025)."""
    early, late = torch.maximum(t - half_span, s), (t + half_span).clamp(max=1.0)
    before, after = step(velocity, torch.cat([z, z]), torch.cat([s, s]), torch.cat([early, late])).chunk(2)
    middle = (early + late) / 2
    with torch.no_grad():
        goal = field((before + after) / 2, middle, middle)
    return (after - before) / (late - early)[:, None, None, None] - goal


def consistency(
    velocity: Velocity,
    goal_velocity: Velocity,
    field: Velocity,
    z: Float[Tensor, "b c h w"],
    s: Float[Tensor, "b"],
    span: float,
    floor: float,
) -> Float[Tensor, "b c h w"]:
    """X_{s,1}(z) minus X_{s',1} of the field's step from s to s' = s + `span`, over max(1 - s, floor) (Song et al. 2023)."""
    one, later = torch.ones_like(s), (s + span).clamp(max=1.0)
    with torch.no_grad():
        goal = step(goal_velocity, step(lambda z, s, t: field(z, s, s), z, s, later), later, one)
    return (step(velocity, z, s, one) - goal) / (1 - s).clamp(min=floor)[:, None, None, None]
