"""Rows that are denoised together, each on its own schedule: they join, advance and leave between steps.

A row is what it would be alone: its state, its times and its condition are its own, and the backbone keeps none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from megen.backbone import Backbone, Condition


@dataclass(frozen=True)
class Rows:
    """States [b, c, h, w], the time grid of each row, how many of its steps are done, and what it is conditioned on."""

    z: Float[Tensor, "b c h w"]
    times: tuple[tuple[float, ...], ...]
    done: tuple[int, ...]
    condition: Condition

    def __len__(self) -> int:
        return len(self.times)

    @property
    def finished(self) -> tuple[bool, ...]:
        """Which rows have reached data."""
        return tuple(k == len(grid) - 1 for k, grid in zip(self.done, self.times, strict=True))


def noise_of(shape: tuple[int, int, int], seed: int) -> Float[Tensor, "1 c h w"]:
    """The starting noise of a seed, the same whatever batch it runs in."""
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def start(backbone: Backbone, condition: Condition, seeds: Sequence[int], times: Sequence[tuple[float, ...]]) -> Rows:
    """New rows at noise, one for each row of the condition, each with its own time grid."""
    shape = backbone.spec.latent_shape
    z = torch.cat([noise_of(shape, seed) for seed in seeds]).to(backbone.device)
    return Rows(z.contiguous(memory_format=torch.channels_last), tuple(times), (0,) * len(seeds), condition)


def join(first: Rows, second: Rows) -> Rows:
    """Both sets of rows as one."""
    z = torch.cat([first.z, second.z]).contiguous(memory_format=torch.channels_last)
    return Rows(z, first.times + second.times, first.done + second.done, Condition.cat([first.condition, second.condition]))


def keep(rows: Rows, chosen: Sequence[int]) -> Rows:
    """Some of the rows, in this order; the others leave."""
    z = rows.z[torch.tensor(list(chosen), dtype=torch.long, device=rows.z.device)].contiguous(memory_format=torch.channels_last)
    times, done = tuple(rows.times[i] for i in chosen), tuple(rows.done[i] for i in chosen)
    return Rows(z, times, done, rows.condition.rows(list(chosen)))


@torch.inference_mode()
def advance(backbone: Backbone, rows: Rows) -> Rows:
    """One step of every row; none may be finished."""
    s, t = (torch.tensor([grid[k + j] for k, grid in zip(rows.done, rows.times, strict=True)], device=rows.z.device) for j in (0, 1))
    return replace(rows, z=backbone.step(rows.z, s, t, rows.condition), done=tuple(k + 1 for k in rows.done))


def sample(backbone: Backbone, condition: Condition, seeds: Sequence[int], times: Sequence[float]) -> Float[Tensor, "b c h w"]:
    """The latents of all rows over one time grid, which need not be one that the backbone offers."""
    rows = start(backbone, condition, seeds, [tuple(times)] * len(seeds))
    while not all(rows.finished):
        rows = advance(backbone, rows)
    return rows.z
