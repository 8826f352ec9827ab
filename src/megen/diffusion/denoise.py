"""Rows that are denoised together, each on its own schedule: they join, advance and leave between steps.

A row is what it would be alone: its state, its times and its condition are its own, and the backbone keeps none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from megen.backbone import Backbone, BackboneSpec, Condition
from megen.errors import InputError


@dataclass(frozen=True)
class Rows:
    """States [b, c, h, w], the time grid of each row, how many of its steps are done, what it is conditioned on, its seed,
    and what its sampler remembers."""

    z: Float[Tensor, "b c h w"]
    times: tuple[tuple[float, ...], ...]
    done: tuple[int, ...]
    condition: Condition
    seeds: tuple[int, ...]
    memory: Float[Tensor, "b m h w"]

    def __len__(self) -> int:
        return len(self.times)

    @property
    def finished(self) -> tuple[bool, ...]:
        """Which rows have reached data."""
        return tuple(k == len(grid) - 1 for k, grid in zip(self.done, self.times, strict=True))


def noise_of(shape: tuple[int, int, int], seed: int, draw: int = 0) -> Float[Tensor, "1 c h w"]:
    """The noise of a seed, the same whatever batch it runs in: draw 0 is where its row starts, draw k is step k's."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draw):
        torch.randn((1, *shape), generator=generator)
    return torch.randn((1, *shape), generator=generator)


def start(backbone: Backbone, condition: Condition, seeds: Sequence[int], times: Sequence[tuple[float, ...]]) -> Rows:
    """New rows at noise, one for each row of the condition, each with its own time grid."""
    spec = backbone.spec
    rows = [spec.start_scale(grid[0]) * noise_of(spec.latent_shape, seed) for seed, grid in zip(seeds, times, strict=True)]
    z = torch.cat(rows).to(backbone.device).contiguous(memory_format=torch.channels_last)
    memory = torch.zeros((len(z), spec.memory, *z.shape[2:]), device=z.device)
    return Rows(z, tuple(times), (0,) * len(seeds), condition, tuple(seeds), memory)


def join(first: Rows, second: Rows) -> Rows:
    """Both sets of rows as one."""
    z = torch.cat([first.z, second.z]).contiguous(memory_format=torch.channels_last)
    return Rows(
        z,
        first.times + second.times,
        first.done + second.done,
        Condition.cat([first.condition, second.condition]),
        first.seeds + second.seeds,
        torch.cat([first.memory, second.memory]),
    )


def keep(rows: Rows, chosen: Sequence[int]) -> Rows:
    """Some of the rows, in this order; the others leave."""
    index = torch.tensor(list(chosen), dtype=torch.long, device=rows.z.device)
    times, done = tuple(rows.times[i] for i in chosen), tuple(rows.done[i] for i in chosen)
    z = rows.z[index].contiguous(memory_format=torch.channels_last)
    return Rows(z, times, done, rows.condition.rows(list(chosen)), tuple(rows.seeds[i] for i in chosen), rows.memory[index])


def _fresh(spec: BackboneSpec, rows: Rows) -> Float[Tensor, "b c h w"]:
    """The noise of each row's next step, 0 where that draws none; a refiner's is the same whatever the number of steps."""
    nothing, drawn = torch.zeros(1, *spec.latent_shape), []
    for k, seed, grid in zip(rows.done, rows.seeds, rows.times, strict=True):
        draw = k + 1 if spec.stochastic else int(k + 2 == len(grid))
        drawn.append(noise_of(spec.latent_shape, seed, draw) if draw else nothing)
    return torch.cat(drawn)


@torch.inference_mode()
def advance(backbone: Backbone, rows: Rows) -> Rows:
    """One step of every row; none may be finished. Errors: InputError where the backbone returns another shape."""
    spec, device = backbone.spec, rows.z.device
    s, t = (torch.tensor([grid[k + j] for k, grid in zip(rows.done, rows.times, strict=True)], device=device) for j in (0, 1))
    noise = _fresh(spec, rows).to(device) if spec.stochastic or spec.refines else None
    state = torch.cat([rows.z, rows.memory], 1) if spec.memory else rows.z
    after = backbone.step(state, s, t, rows.condition, noise)
    if after.shape != state.shape:
        raise InputError(f"a backbone's step must return the shape that it gets, {tuple(state.shape)}, got {tuple(after.shape)}")
    channels = rows.z.shape[1]
    z, memory = (after[:, :channels], after[:, channels:]) if spec.memory else (after, rows.memory)
    return replace(rows, z=z, memory=memory, done=tuple(k + 1 for k in rows.done))


def sample(backbone: Backbone, condition: Condition, seeds: Sequence[int], times: Sequence[float]) -> Float[Tensor, "b c h w"]:
    """The latents of all rows over one time grid, which need not be one that the backbone offers."""
    rows = start(backbone, condition, seeds, [tuple(times)] * len(seeds))
    while not all(rows.finished):
        rows = advance(backbone, rows)
    return rows.z
