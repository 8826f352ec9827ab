"""Best of a few drafts: one step each in one batch, and the choosing judge says which noise goes on.

The judge is the second one of `training/judges.py`: it rewarded nothing, and the examiner of pictures is another.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.scenes.latent_judge import COUNT, FORMAT, LatentJudge, LatentJudgeConfig, log_likelihood, targets
from megen.types import InputError, check_number

WEIGHTS = Path(__file__).parents[1] / "assets" / "choosing-judge.safetensors"
MOST = 16  # drafts of one request
DRAFT_STREAM = 8  # of a request's seed


def read(file: Path = WEIGHTS) -> LatentJudge:
    """A latent judge as its training left it. Errors: weights.WeightsError."""
    tensors, about = weights.read(file)
    try:
        if about["format"] != FORMAT:
            raise KeyError(about["format"])
        config = about["config"]
        judge = LatentJudge(LatentJudgeConfig(config["channels"], tuple(config["widths"]), config["features"]))
    except (KeyError, TypeError) as error:
        raise weights.WeightsError(f"{file} is not a judge of this version ({error}): train it again") from error
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


def best(prompt: str, latents: Float[Tensor, "n c h w"]) -> int:
    """The draft that shows most surely what is asked."""
    return int(scores(chooser(), prompt, latents).argmax())


def known(backbone: object) -> bool:
    """Whether the bundled judge reads this backbone's latents: those of the encoder that it learned from."""
    return isinstance(backbone, EmbeddedBackbone) and encoder_of(backbone) == weights.about(WEIGHTS).get("encoder")


def encoder_of(backbone: EmbeddedBackbone) -> str:
    """A digest of what makes a backbone's normalised latents of pictures."""
    scale = {"mean": backbone.latent_mean, "scale": backbone.latent_scale}
    return weights.digest("encoder", {**backbone.autoencoder.encoder.state_dict(), **scale})[:16]


def check(backbone: object, drafts: int) -> None:
    """Refuse a number of drafts that cannot be made and judged. Errors: InputError."""
    check_number("drafts", drafts, 1, MOST, whole=True)
    if drafts > 1 and not known(backbone):
        raise InputError("drafts are chosen by a judge of the bundled world's latents, and this backbone has others: ask for one draft")
    if drafts > 1 and 1 not in backbone.config.steps:  # type: ignore[attr-defined]
        raise InputError("a draft is made in one step, and this backbone does not offer that: ask for one draft")
