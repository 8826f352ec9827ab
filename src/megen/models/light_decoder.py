"""A light decoder for any latent: a linear path over a token's patch beside a small residual net, and a sub-pixel tail.

It stands in for a published autoencoder's decoder at the user equipment, with a restorer before it; `training.decoder` distils it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from megen.errors import InputError
from megen.models import weights
from megen.models.autoencoder import Block, scaled
from megen.models.restorer import Restorer, RestorerConfig

FILE = "decoder.safetensors"
FORMAT = "megen-light-decoder-1"
TAIL_PX = 8  # of the finest level: what the tail writes at once
WIDTHS, BLOCKS = (192, 128, 64), (2, 3, 3)  # from the tokens' level to the finest


@dataclass(frozen=True)
class LightDecoderConfig:
    """Shape of the decoder: `patch` px a token, and a level for each doubling from a token to `TAIL_PX`; widths from coarse to fine."""

    channels: int
    patch: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    restorer: RestorerConfig = field(default_factory=lambda: RestorerConfig(128, 3))


def config_for(latent_shape: tuple[int, int, int], image_px: tuple[int, int], width: float = 1.0) -> LightDecoderConfig:
    """The shape that suits a backbone's latents, all widths times `width`. Errors: InputError on tokens that are no power of two wide."""
    channels, height, _ = latent_shape
    patch = image_px[1] // height
    if patch & (patch - 1) or not 2 <= patch <= 64:
        raise InputError(f"a light decoder is for tokens of 2, 4, ... 64 px, and these are of {patch}")
    levels = max(1, (patch // TAIL_PX).bit_length())
    widths = tuple(max(8, round(width * w)) for w in (WIDTHS + WIDTHS[-1:] * levels)[:levels])
    return LightDecoderConfig(channels, patch, widths, (BLOCKS + BLOCKS[-1:] * levels)[:levels])


class LightDecoder(nn.Module):
    """Latents to pictures in [0, 1] (not clamped)."""

    def __init__(self, config: LightDecoderConfig) -> None:
        super().__init__()
        self.config = config
        tail = min(TAIL_PX, config.patch)
        self.linear = nn.Conv2d(config.channels, 3 * config.patch**2, 1)
        layers: list[nn.Module] = [scaled(nn.Conv2d(config.channels, config.widths[0], 3, padding=1), 1.0)]
        for level, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            layers += [Block(width) for _ in range(blocks)]
            if level + 1 < len(config.widths):
                layers += [scaled(nn.Conv2d(width, 4 * config.widths[level + 1], 1), 1.0), nn.PixelShuffle(2)]
        layers += [nn.ReLU(), scaled(nn.Conv2d(config.widths[-1], 3 * tail**2, 3, padding=1), 0.02), nn.PixelShuffle(tail)]
        self.net = nn.Sequential(*layers)

    def forward(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        linear = F.pixel_shuffle(self.linear(latent), self.config.patch)
        out: Tensor = (linear.float() + self.net(latent).float()) * 0.5 + 0.5  # in half precision skies would band
        return out

    @torch.no_grad()
    def start_from_least_squares(self, latents: Float[Tensor, "n c h w"], pictures: Float[Tensor, "n 3 H W"]) -> None:
        """Set the linear path to the best linear map from a token to its patch of pictures in [0, 1]."""
        tokens = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
        patches = F.pixel_unshuffle(2 * pictures - 1, self.config.patch).permute(0, 2, 3, 1).flatten(0, 2).double()
        inputs = torch.cat([tokens, torch.ones(len(tokens), 1, dtype=torch.double)], 1)
        gram = inputs.T @ inputs + 1e-3 * len(tokens) * torch.eye(inputs.shape[1], dtype=torch.double) / 100
        solution = torch.linalg.solve(gram, inputs.T @ patches).float()
        self.linear.weight.copy_(solution[:-1].T[:, :, None, None])
        self.linear.bias.copy_(solution[-1])  # type: ignore[union-attr]


class LightReceiver(nn.Module):
    """Restorer and light decoder: what a user equipment runs after unmerging."""

    def __init__(self, config: LightDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.restorer = Restorer(config.restorer, config.channels)
        self.decoder = LightDecoder(config)

    def forward(self, z: Float[Tensor, "b c h w"], degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 H W"]:
        out: Tensor = self.decoder(self.restorer(z, degradation))
        return out

    def receive(self, z: Float[Tensor, "b c h w"], degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 H W"]:
        """The picture in [0, 1] of latents that were degraded in transit."""
        return self(z, degradation).clamp(0, 1)  # type: ignore[no-any-return]


def save(receiver: LightReceiver, folder: Path, extra: dict[str, Any]) -> Path:
    """Write the weights in half precision, with their shape and provenance."""
    tensors = {name: tensor.half() for name, tensor in receiver.state_dict().items()}
    weights.write_safely(tensors, folder / FILE, {"format": FORMAT, "config": asdict(receiver.config), **extra})
    return folder / FILE


def load(folder: Path) -> LightReceiver:
    """Read what `save` wrote. Errors: weights.WeightsError."""

    def shape_of(restorer: dict[str, Any], **others: Any) -> LightDecoderConfig:
        return LightDecoderConfig(**others, restorer=RestorerConfig(**restorer))

    config, tensors, _ = weights.read_shaped(folder / FILE, FORMAT, shape_of, "megen train decoder")
    receiver = LightReceiver(config)
    weights.load_into(receiver, tensors, str(folder / FILE))
    return receiver.eval()
