"""Best of a few drafts: one step each in one batch, and the choosing judge says which noise goes on.

The judge is the second one of `training/judges.py`: it rewarded nothing, and the examiner of pictures is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen.models import weights
from megen.scenes.latent_judge import COUNT, FORMAT, LatentJudge, LatentJudgeConfig, log_likelihood, targets

WEIGHTS = Path(__file__).parents[1] / "assets" / "choosing-judge.safetensors"
LATENT_SHAPE = (32, 32, 32)  # that it reads
MOST = 16  # drafts of one request
DRAFT_STREAM = 8  # of a request's seed

Draw = Callable[[list[str], list[int]], Tensor]


def read(file: Path = WEIGHTS) -> LatentJudge:
    """A latent judge as its training left it. Errors: weights.WeightsError."""
    tensors, about = weights.read(file)
    try:
        config = about["config"]
        judge = LatentJudge(LatentJudgeConfig(config["channels"], tuple(config["widths"]), config["features"]))
    except (KeyError, TypeError) as error:
        raise weights.WeightsError(f"{file} is not a judge of this version ({FORMAT}; {error}): train it again") from error
    weights.load_into(judge, tensors, str(file))
    return judge.eval().requires_grad_(False)


@functools.lru_cache(maxsize=1)
def chooser() -> LatentJudge:
    """The bundled judge that chooses."""
    return read()


def seeds_of(seed: int, count: int) -> list[int]:
    """The noise of each draft: the request's own seed, then others drawn from it."""
    return [seed, *np.random.default_rng([seed, DRAFT_STREAM]).integers(2**31, size=count - 1).tolist()]


@torch.inference_mode()
def scores(judge: LatentJudge, prompt: str, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n"]:
    """Log-probability that each latent shows what the prompt asks: named attributes, clear weather unless it is named, one object."""
    wanted = {k: v.expand(len(latents)).to(latents.device) for k, v in targets([prompt]).items()}
    return log_likelihood(judge.to(latents.device)(latents.float()), wanted)


@torch.inference_mode()
def alone(judge: LatentJudge, latents: Float[Tensor, "n c h w"]) -> list[bool]:
    """Whether no object stands in a latent twice."""
    counts = judge.to(latents.device)(latents.float())["count"].argmax(1)
    return [COUNT[k] == COUNT[0] for k in counts.tolist()]


def best(draw: Draw, prompt: str, seed: int, count: int) -> int:
    """The seed whose one-step draft shows most surely what is asked; `draw` makes latents of prompts and seeds in one step."""
    seeds = seeds_of(seed, count)
    if count == 1:
        return seed
    return seeds[int(scores(chooser(), prompt, draw([prompt] * count, seeds)).argmax())]
