"""The autoencoder: 1024 x 1024 pictures to 32 x 32 latents and back (any multiple of 32 px).

A linear path over 32 x 32 patches, initialised by principal components, runs beside a small
residual convolution net on both ends. No convolution works at more than an eighth of the
picture's resolution, in a decoder with a finest stage a quarter: a sub-pixel tail writes the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 32


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the autoencoder; widths run from the fine to the coarse level."""

    channels: int = 24
    encoder_widths: tuple[int, int, int] = (64, 96, 160)
    decoder_widths: tuple[int, int, int] = (64, 128, 192)
    encoder_blocks: tuple[int, int, int] = (1, 1, 2)
    decoder_blocks: tuple[int, int, int] = (3, 3, 2)
    finest_width: int = 0  # of a decoder's stage at a quarter of the picture's resolution; 0: none
    finest_blocks: int = 2


class Block(nn.Module):
    """x + conv(relu(conv(x))), the last layer starting small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        scaled(self.first, 2**0.5)
        scaled(self.second, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


def scaled(layer: nn.Conv2d, gain: float) -> nn.Conv2d:
    """Normal weights of standard deviation gain / sqrt(fan in), no bias."""
    nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Encoder(nn.Module):
    """Pictures in [0, 1] to latents of about unit variance."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.encoder_widths
        n_fine, n_middle, n_coarse = config.encoder_blocks
        self.linear = nn.Conv2d(3, config.channels, PATCH, stride=PATCH)
        self.net = nn.Sequential(
            nn.PixelUnshuffle(8),
            scaled(nn.Conv2d(192, fine, 1), 1.0),
            *(Block(fine) for _ in range(n_fine)),
            nn.PixelUnshuffle(2),
            scaled(nn.Conv2d(4 * fine, middle, 1), 1.0),
            *(Block(middle) for _ in range(n_middle)),
            nn.PixelUnshuffle(2),
            scaled(nn.Conv2d(4 * middle, coarse, 1), 1.0),
            *(Block(coarse) for _ in range(n_coarse)),
            nn.ReLU(),
            scaled(nn.Conv2d(coarse, config.channels, 1), 0.3),
        )

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        centred = 2 * image - 1
        out: Tensor = self.linear(centred) + self.net(centred)
        return out


class Decoder(nn.Module):
    """Latents to pictures in [0, 1] (not clamped)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.decoder_widths
        n_fine, n_middle, n_coarse = config.decoder_blocks
        self.linear = nn.Conv2d(config.channels, 3 * PATCH * PATCH, 1)
        self.net = nn.Sequential(
            scaled(nn.Conv2d(config.channels, coarse, 3, padding=1), 1.0),
            *(Block(coarse) for _ in range(n_coarse)),
            scaled(nn.Conv2d(coarse, 4 * middle, 1), 1.0),
            nn.PixelShuffle(2),
            *(Block(middle) for _ in range(n_middle)),
            scaled(nn.Conv2d(middle, 4 * fine, 1), 1.0),
            nn.PixelShuffle(2),
            *(Block(fine) for _ in range(n_fine)),
            *(self._finest(fine, config) if config.finest_width else _tail(fine, 8)),
        )

    @staticmethod
    def _finest(fine: int, config: AutoencoderConfig) -> list[nn.Module]:
        """Twice the resolution at once more."""
        width = config.finest_width
        grown = [scaled(nn.Conv2d(fine, 4 * width, 1), 1.0), nn.PixelShuffle(2)]
        return [*grown, *(Block(width) for _ in range(config.finest_blocks)), *_tail(width, 4)]

    def forward(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        smooth = F.pixel_shuffle(self.linear(latent), PATCH)
        out: Tensor = (smooth + self.net(latent)) * 0.5 + 0.5
        return out

    def linear_path(self, latent: Float[Tensor, "b c h w"], px: int = PATCH) -> Float[Tensor, "b 3 H W"]:
        """What the linear path alone draws, `px` a token, which divides 32: means of the full picture's pixels."""
        cells = PATCH // px
        weight = self.linear.weight.reshape(3, px, cells, px, cells, -1).mean((2, 4)).reshape(3 * px * px, -1, 1, 1)
        bias = None if self.linear.bias is None else self.linear.bias.reshape(3, px, cells, px, cells).mean((2, 4)).flatten()
        return F.pixel_shuffle(F.conv2d(latent, weight, bias), px) * 0.5 + 0.5


def _tail(width: int, px: int) -> list[nn.Module]:
    """What writes `px` x `px` pixels a place at once."""
    return [nn.ReLU(), scaled(nn.Conv2d(width, 3 * px * px, 3, padding=1), 0.02), nn.PixelShuffle(px)]


class Autoencoder(nn.Module):
    """Encoder and decoder; `config` travels with the weights."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def start_from_principal_components(self, patches: Float[Tensor, "n d"]) -> float:
        """Set both linear paths from the principal components of `patches` (rows in [-1, 1], d = 3*32*32).

        Latents are scaled so that channel k has a standard deviation proportional to the square
        root of its component's, the first at 1.6 or so and the last still above the noise.
        Returns the PSNR in dB of the linear reconstruction of the patches (peak 2).
        """
        channels = self.config.channels
        mean = patches.mean(0)
        _, singular, basis = torch.svd_lowrank(patches - mean, q=channels + 16, niter=4)
        basis, std = basis[:, :channels], singular[:channels] / len(patches) ** 0.5
        gain = std**-0.5
        gain = gain / ((std * gain) ** 2).mean().sqrt()
        self.encoder.linear.weight.copy_((basis * gain).T.reshape(channels, 3, PATCH, PATCH))
        self.encoder.linear.bias.copy_(-(mean @ basis) * gain)  # type: ignore[union-attr]
        self.decoder.linear.weight.copy_((basis / gain)[:, :, None, None])
        self.decoder.linear.bias.copy_(mean)  # type: ignore[union-attr]
        error = (patches - mean) - (patches - mean) @ basis @ basis.T
        return float(10 * torch.log10(4 / error.square().mean()))
