"""Tells made latents from true ones of the same caption: relativistic losses, a logit a place at four levels and one for the whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from megen.scenes.captions import ATTRIBUTES
from megen.scenes.latent_judge import COUNT, SLOPE, LatentJudge, asked, leaky

SLOTS = {(k, v): i for i, (k, v) in enumerate((k, v) for k, values in ATTRIBUTES.items() for v in values)}
Logits = list[Tensor]  # [b, places] of each level, then [b, 1]
DETAIL = 128  # width of the layers that look at a token and its neighbours only: a star is a code of where it stands in its token


def named(prompts: Sequence[str]) -> Float[Tensor, "b n"]:
    """The attributes that each prompt asks for, as ones in a row of all values of all attributes."""
    rows = torch.zeros(len(prompts), len(SLOTS))
    for row, prompt in zip(rows, prompts, strict=True):
        for key, value in asked(prompt).items():
            if value not in COUNT:
                row[SLOTS[key, value]] = 1.0
    return rows


class Discriminator(nn.Module):
    """Begins as the reward judge's trunk, beside layers for detail that begin at random.

    What was asked meets the features as an inner product at every level (Miyato and Koyama 2018).
    """

    def __init__(self, judge: LatentJudge) -> None:
        super().__init__()
        widths, features = (DETAIL, *judge.config.widths), judge.config.features
        own = nn.Conv2d(judge.config.channels, DETAIL, 1), nn.Conv2d(DETAIL, DETAIL, 3, padding=1), nn.Conv2d(DETAIL, DETAIL, 1)
        self.detail = leaky(*own)
        self.levels, self.last = copy.deepcopy(judge.levels), copy.deepcopy(judge.last)
        self.place = nn.ModuleList(nn.Conv2d(w, 1, 1) for w in widths)
        self.whole = nn.Linear(features, 1)
        self.asked = nn.ModuleList(nn.Linear(len(SLOTS), w, bias=False) for w in (*widths, features))
        self.requires_grad_(True)

    def forward(self, latents: Float[Tensor, "b c 32 32"], wanted: Float[Tensor, "b n"]) -> Logits:
        features, x = [self.detail(latents)], latents
        for level in self.levels:
            x = level(x)
            features.append(x)
        out = []
        for seen, place, asked_here in zip(features, self.place, self.asked[:-1], strict=True):
            meets = (seen * asked_here(wanted)[:, :, None, None]).sum(1) / seen.shape[1] ** 0.5
            out.append((place(seen)[:, 0] + meets).flatten(1))
        x = F.leaky_relu(self.last(x.flatten(1)), SLOPE)
        meets = (x * self.asked[-1](wanted)).sum(1, keepdim=True) / x.shape[1] ** 0.5
        return [*out, self.whole(x) + meets]


def beaten(lower: Logits, higher: Logits) -> Float[Tensor, ""]:
    """Mean over levels of softplus(lower - higher), place by place (Jolicoeur-Martineau 2019)."""
    return torch.stack([F.softplus(a - b).mean() for a, b in zip(lower, higher, strict=True)]).mean()


def discriminator_loss(
    net: Discriminator, true: Tensor, made: Tensor, wanted: Tensor, penalty: float, generator: torch.Generator
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """True beats made, the right caption beats another one, and a little noise changes little; also the share of true ones that win."""
    few = max(1, len(true) // 2)
    near = torch.cat([true[:few], made[:few]])
    near = near + 0.05 * torch.randn(near.shape, generator=generator, device=generator.device).to(near)
    other = wanted.roll(1, 0)
    n = len(true)
    both = net(torch.cat([true, made, true, near]), torch.cat([wanted, wanted, other, wanted[:few], wanted[:few]]))
    of_true, of_made, mismatched, of_near = (list(part) for part in zip(*(x.split([n, n, n, 2 * few]) for x in both), strict=True))
    still = [torch.cat([a[:few], b[:few]]) for a, b in zip(of_true, of_made, strict=True)]
    moved = torch.stack([(a - b).square().mean() for a, b in zip(still, of_near, strict=True)]).mean()
    value = beaten(of_made, of_true) + 0.5 * beaten(mismatched, of_true) + penalty * moved
    wins = torch.stack([(a > b).float().mean() for a, b in zip(of_true, of_made, strict=True)]).mean()
    return value, wins.detach()
