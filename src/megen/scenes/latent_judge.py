"""A judge of latents: which attributes they show, and whether the object stands in them once.

Two are trained (`training/judges.py`): one rewards the flow map's adversarial training, the other chooses among drafts
and watches that training. The examiner of pictures (`judge.py`) is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from megen.scenes.captions import ATTRIBUTES, parse

COUNT = ("none or one", "two")
HEADS: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "count": COUNT}
SLOPE = 0.2
FORMAT = "megen-latent-judge-1"
IGNORED = -1  # target of an attribute that a prompt leaves open


@dataclass(frozen=True)
class LatentJudgeConfig:
    """Width of each level, and of the layer that the heads read."""

    channels: int = 32
    widths: tuple[int, int, int] = (64, 128, 192)
    features: int = 160


class LatentJudge(nn.Module):
    """Normalised latents [b, c, 32, 32] to a row of logits an attribute; no norm, so that gradients stay smooth."""

    def __init__(self, config: LatentJudgeConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = trunk(config)
        self.last = nn.Linear(config.widths[-1] * 8 * 8, config.features)
        self.heads = nn.ModuleDict({k: nn.Linear(config.features, len(v)) for k, v in HEADS.items()})

    def forward(self, latents: Float[Tensor, "b c 32 32"]) -> dict[str, Tensor]:
        x = latents
        for level in self.levels:
            x = level(x)
        x = F.leaky_relu(self.last(x.flatten(1)), SLOPE)
        return {k: head(x) for k, head in self.heads.items()}


def leaky(*layers: nn.Conv2d) -> nn.Sequential:
    """Convolutions, a leaky rectifier after each."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, SLOPE)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.LeakyReLU(SLOPE))))


def trunk(config: LatentJudgeConfig) -> nn.ModuleList:
    """Three levels of two convolutions, at 32, 16 and 8 places a side."""
    inside = (config.channels, *config.widths[:-1])

    def level(number: int) -> nn.Sequential:
        out, stride = config.widths[number], 1 if number == 0 else 2
        return leaky(nn.Conv2d(inside[number], out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1))

    return nn.ModuleList(level(k) for k in range(3))


def targets(prompts: Sequence[str]) -> dict[str, Tensor]:
    """What each prompt asks of every head, as class numbers [b]; `IGNORED` where it leaves it open.

    Weather that is not named is clear, and a named object stands once.
    """
    rows = [asked(prompt) for prompt in prompts]
    return {k: torch.tensor([HEADS[k].index(row[k]) if k in row else IGNORED for row in rows]) for k in HEADS}


def asked(prompt: str) -> dict[str, str]:
    """The attributes that a prompt asks for, with clear weather and one object where it does not say otherwise."""
    named = {"weather": "clear", **parse(prompt)}
    if named.get("object") == "no object":
        named.pop("side", None)
    if named.get("stars") == "no stars" and (named["weather"] != "clear" or named.get("time", "night") != "night"):
        named.pop("stars")
    return {**named, "count": COUNT[0]}


def log_likelihood(logits: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Float[Tensor, "b"]:
    """Sum over the asked attributes of the log-probability that the judge gives them."""
    total = next(iter(logits.values())).new_zeros(len(next(iter(logits.values()))))
    for key, target in wanted.items():
        total = total - F.cross_entropy(logits[key].float(), target, ignore_index=IGNORED, reduction="none")
    return total
