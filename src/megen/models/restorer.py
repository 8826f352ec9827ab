"""The restorer: a small net at the receiver that knows how each token was degraded in transit, and undoes what it can.

It works on the latent grid, before the image decoder. What it adds is scaled by the degradation, so that a clean
latent passes as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STATES = 4  # noise deviation, quantiser deviation, copied by unmerging, predicted because lost


@dataclass(frozen=True)
class RestorerConfig:
    """Shape of the net; 0 blocks: none, and a receiver that does not know its noise."""

    width: int = 160
    blocks: int = 0


class Restorer(nn.Module):
    """Latents and the degradation of each token to better latents."""

    def __init__(self, config: RestorerConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        if config.blocks:
            self.inward = nn.Conv2d(channels + STATES, config.width, 3, padding=1)
            self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
            self.outward = nn.Conv2d(config.width, channels, 3, padding=1)
            nn.init.zeros_(self.outward.weight)
            nn.init.zeros_(self.outward.bias)  # type: ignore[arg-type]

    def forward(self, z: Float[Tensor, "b c h w"], degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b c h w"]:
        """z + d * net(z, degradation), d as `reach` says."""
        if not self.config.blocks:
            return z
        scale = reach(degradation)
        x = self.inward(beside(z, degradation))
        for block in self.blocks:
            x = block(x)
        out: Tensor = z + scale * self.outward(F.relu(x))
        return out


def reach(degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 1 h w"]:
    """The largest degradation of a token's neighbourhood, at most 1: how far a net may change the token."""
    return F.max_pool2d(degradation.amax(1, keepdim=True).clamp(max=1.0), 3, stride=1, padding=1)


def beside(z: Float[Tensor, "b c h w"], degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b d h w"]:
    """Latents and the logarithm of their degradation, as a net reads them."""
    return torch.cat([z, torch.log2(1 + 8 * degradation)], 1)


class Block(nn.Module):
    """x + conv(relu(conv(relu(x)))), the last layer starting small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.second.weight, std=0.3 / (9 * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(F.relu(x))))
        return out
