"""The straight path from noise (t = 0) to data (t = 1), and the flow-map step along it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from megen.errors import InputError

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def interpolate(x: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
    """x_t = (1 - t) * noise + t * x, a time per row."""
    t = t[:, None, None, None]
    return (1 - t) * noise + t * x


def step(velocity: Velocity, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
    """X_{s,t}(z) = z + (t - s) * v(z, s, t): stateless, every row has its own s <= t."""
    return z + (t - s)[:, None, None, None] * velocity(z, s, t)


def jump(
    data: Float[Tensor, "b c h w"],
    residual: Float[Tensor, "b c h w"],
    t: Float[Tensor, "b"],
    kappa: Float[Tensor, "b"] | None = None,
    fresh: Float[Tensor, "b c h w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """X = t * data + (1 - t) (sqrt(1 - kappa^2) * residual + kappa * fresh): every sampler's step, from its estimates of data and noise.

    kappa is the share of the noise that is drawn afresh, a number per row; None: none is.
    """
    if kappa is None or fresh is None:
        return interpolate(data, residual, t)
    share = kappa[:, None, None, None]
    return interpolate(data, (1 - share.square()).clamp(min=0).sqrt() * residual + share * fresh, t)


def times(steps: int, shift: float) -> list[float]:
    """The steps + 1 times from 0 to 1; noise levels 1 - t = shift*u / (1 + (shift-1)*u), u uniform."""
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}")
    levels = [shift * u / (1 + (shift - 1) * u) for u in (1 - k / steps for k in range(steps + 1))]
    return [1 - level for level in levels]


def sample(velocity: Velocity, noise: Float[Tensor, "b c h w"], grid: Sequence[float]) -> Iterator[Float[Tensor, "b c h w"]]:
    """Follow the flow map over the times of `grid`; yields the state after each step."""
    z = noise
    for s, t in itertools.pairwise(grid):
        rows = torch.ones(len(z), device=z.device)
        z = step(velocity, z, s * rows, t * rows)
        yield z


def sample_midpoint(velocity: Velocity, noise: Float[Tensor, "b c h w"], grid: Sequence[float]) -> Iterator[Float[Tensor, "b c h w"]]:
    """As `sample`, by the midpoint rule: second order for an instantaneous velocity, two evaluations a step."""
    z = noise
    for s, t in itertools.pairwise(grid):
        start, middle = (torch.full((len(z),), time, device=z.device) for time in (s, (s + t) / 2))
        half = step(velocity, z, start, middle)
        z = z + (t - s) * velocity(half, middle, middle)
        yield z


def adams_bashforth(
    field: Velocity, noise: Float[Tensor, "b c h w"], grid: Sequence[float]
) -> Iterator[tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]]:
    """State and instantaneous velocity at each time of `grid`: Adams-Bashforth of second order, its first step Heun's."""

    def slope(z: Tensor, time: float) -> Tensor:
        at = torch.full((len(z),), time, device=z.device)
        return field(z, at, at)

    z, now, before, last = noise, slope(noise, grid[0]), None, 0.0
    yield z, now
    for s, t in itertools.pairwise(grid):
        span = t - s
        bent = now + span / (2 * last) * (now - before) if before is not None else (now + slope(z + span * now, t)) / 2
        z, before, last = z + span * bent, now, span
        now = slope(z, t)
        yield z, now


def sample_consistency(
    velocity: Velocity, noise: Float[Tensor, "b c h w"], grid: Sequence[float], generator: torch.Generator
) -> Iterator[Float[Tensor, "b c h w"]]:
    """A consistency model's sampler: jump to the end, put fresh noise of the next time on it, and jump again."""
    z = noise
    for s, t in itertools.pairwise(grid):
        rows = torch.ones(len(z), device=z.device)
        data = step(velocity, z, s * rows, rows)
        fresh = torch.randn(z.shape, generator=generator).to(z.device)
        z = interpolate(data, fresh, t * rows)
        yield z
