"""What a backbone is: three methods that keep no state, and a spec that says what it offers.

prompts ──condition──> Condition ─┐
noise ────────────────────────────┴─step, step, ...──> latents ──decode──> images
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from megen import merging
from megen.types import MAX_MERGE_RATIO, Decision, InputError, check_number, check_type

DEFAULT_STEPS = 4
CLOSE = 1e-6  # of a time grid's end


@dataclass(frozen=True)
class Condition:
    """Encoded prompts, a row each: a vector a word, one vector a prompt, which words there are, and how strongly they guide.

    `null` is the encoded empty prompt (one row), there where some row has a guidance other than 1.
    """

    text: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b e"]
    mask: Bool[Tensor, "b n"]
    guidance: Float[Tensor, "b"]
    null: Condition | None = None

    def __len__(self) -> int:
        return len(self.text)

    def rows(self, chosen: slice | Tensor | Sequence[int]) -> Condition:
        """Some of the rows."""
        index = chosen if isinstance(chosen, slice | Tensor) else torch.tensor(list(chosen), dtype=torch.long, device=self.text.device)
        return Condition(self.text[index], self.pooled[index], self.mask[index], self.guidance[index], self.null)

    def padded(self, words: int) -> Condition:
        """The same with room for `words` words."""
        missing = words - self.text.shape[1]
        return replace(self, text=F.pad(self.text, (0, 0, 0, missing)), mask=F.pad(self.mask, (0, missing)))

    def expand(self, rows: int) -> Condition:
        """A single row, repeated."""
        return Condition(
            self.text.expand(rows, -1, -1), self.pooled.expand(rows, -1), self.mask.expand(rows, -1), self.guidance.expand(rows), self.null
        )

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """All rows of all parts, padded to the longest."""
        words = max(part.text.shape[1] for part in parts)
        wide = [part.padded(words) for part in parts]
        null = next((part.null for part in parts if part.null is not None), None)
        text, pooled, mask, guidance = (
            torch.cat(column) for column in zip(*((c.text, c.pooled, c.mask, c.guidance) for c in wide), strict=True)
        )
        return Condition(text, pooled, mask, guidance, null)


def unscaled(start: float) -> float:
    """Rows that start as noise of unit variance."""
    return 1.0


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone offers: `times[steps]` is its time grid for an offered number of steps, from 0 (noise) or a little later to 1 (data).

    A row starts at `start_scale(times[steps][0])` times noise of unit variance. `stochastic`: each step draws fresh noise; `refines`: the
    last one does.
    `memory`: how many channels a row carries from step to step besides its latent. Errors: InputError on what no backbone can offer.
    """

    name: str
    latent_shape: tuple[int, int, int]  # channels, height, width
    image_px: tuple[int, int]  # width, height
    times: dict[int, tuple[float, ...]]
    merge_ratios: tuple[float, ...]
    max_words: int
    start_scale: Callable[[float], float] = unscaled
    stochastic: bool = False
    refines: bool = False
    memory: int = 0

    def __post_init__(self) -> None:
        check_type("name", self.name, str)
        for name, sizes, count in (("latent_shape", self.latent_shape, 3), ("image_px", self.image_px, 2)):
            if not isinstance(sizes, tuple) or len(sizes) != count:
                raise InputError(f"{name} must be {count} whole numbers, got {sizes!r}")
            for size in sizes:
                check_number(f"each of {name}", size, 1, whole=True)
        merging.merged_count(*self.latent_shape[1:], 0.0)  # refuses a grid that is not made of cells
        if not isinstance(self.times, dict) or not self.times or not self.merge_ratios:
            raise InputError(
                f"a backbone offers at least one number of steps and one merge ratio, got {self.times} and {self.merge_ratios}"
            )
        for steps, grid in self.times.items():
            check_number("steps", steps, 1, whole=True)
            rises = len(grid) == steps + 1 and all(s < t for s, t in itertools.pairwise(grid))
            if not (rises and grid[0] >= 0 and math.isclose(grid[-1], 1, abs_tol=CLOSE)):
                raise InputError(f"times[{steps}] must be {steps + 1} times that rise from 0 or later to 1, got {grid}")
        for ratio in self.merge_ratios:
            check_number("each of merge_ratios", ratio, 0, MAX_MERGE_RATIO)
        check_number("max_words", self.max_words, 1, whole=True)
        check_number("memory", self.memory, 0, whole=True)

    @property
    def steps(self) -> tuple[int, ...]:
        """The offered numbers of denoising steps."""
        return tuple(self.times)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every decision, steps outermost."""
        return tuple(Decision(n, r) for n in self.times for r in self.merge_ratios)

    @property
    def default(self) -> Decision:
        """Where nobody decides: `DEFAULT_STEPS`, or the most where these are not offered; no merging, the default quantiser."""
        return Decision(DEFAULT_STEPS if DEFAULT_STEPS in self.times else max(self.times))

    def check(self, decision: Decision) -> Decision:
        """The decision, if its steps are offered and its grid can be merged so, at any ratio. Errors: InputError naming what is offered."""
        if decision.steps not in self.times:
            raise InputError(f"steps must be one of {', '.join(map(str, self.times))}, got {decision.steps}")
        merging.merged_count(*self.latent_shape[1:], decision.merge_ratio)
        return decision


@runtime_checkable
class Backbone(Protocol):
    """Prompts to latents to images. Latents are normalised: about zero mean and unit variance."""

    @property
    def spec(self) -> BackboneSpec: ...

    @property
    def device(self) -> torch.device: ...

    def condition(self, prompts: Sequence[str], guidance: float | None = None) -> Condition:
        """Encode prompts, a row each; guidance None: the backbone's own. Errors: InputError on too many words."""
        ...

    def step(self, z: Tensor, s: Tensor, t: Tensor, condition: Condition, noise: Tensor | None = None) -> Tensor:
        """From time s to t, a time and a condition for each row; `noise` where the spec says `stochastic`, or `refines` and t is 1.

        Where it says `memory`, z has that many more channels, zero before the first step, and so has the result.
        """
        ...

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Latents to images in [0, 1]."""
        ...
