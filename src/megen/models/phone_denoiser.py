"""The phone's denoiser: a small U-Net on the latent grid that takes away what a link did to a latent, in one pass and without a prompt.

It is for features that arrive with much noise, coarsely quantised or in part: there the restorer, whose net sees 15 x 15 tokens at
most, leaves much behind. It lies in a file of its own beside a backbone's weights (`training.phone_denoiser`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from megen.models import weights
from megen.models.restorer import STATES, Block, beside, reach

FILE = "phone-denoiser.safetensors"
FORMAT = "megen-phone-denoiser-1"
HEAD_WIDTH = 64


@dataclass(frozen=True)
class PhoneDenoiserConfig:
    """Shape of the net; level 0 is the latent grid, each next one halves its side. Blocks of each level on the way down and up."""

    channels: int = 32
    widths: tuple[int, int, int] = (64, 160, 320)
    down_blocks: tuple[int, int] = (1, 1)
    middle_blocks: int = 2
    up_blocks: tuple[int, int] = (2, 1)


class PhoneDenoiser(nn.Module):
    """Latents and the degradation of each token to better latents, as `Restorer`."""

    def __init__(self, config: PhoneDenoiserConfig) -> None:
        super().__init__()
        self.config = config
        w0, w1, w2 = config.widths
        self.inward = nn.Conv2d(config.channels + STATES, w0, 3, padding=1)
        self.down0, self.half0 = _blocks(w0, config.down_blocks[0]), nn.Conv2d(4 * w0, w1, 1)
        self.down1, self.half1 = _blocks(w1, config.down_blocks[1]), nn.Conv2d(4 * w1, w2, 1)
        self.before, self.look, self.after = _blocks(w2, config.middle_blocks - 1), Look(w2), _blocks(w2, 1)
        self.double1, self.up1 = nn.Conv2d(w2, 4 * w1, 1), _blocks(w1, config.up_blocks[1])
        self.double0, self.up0 = nn.Conv2d(w1, 4 * w0, 1), _blocks(w0, config.up_blocks[0])
        self.outward = nn.Conv2d(w0, config.channels, 3, padding=1)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)  # type: ignore[arg-type]

    def forward(self, z: Float[Tensor, "b c h w"], degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b c h w"]:
        """z + d * net(z, degradation), d as `restorer.reach` says."""
        fine: Tensor = self.down0(self.inward(beside(z, degradation)))
        middle: Tensor = self.down1(self.half0(F.pixel_unshuffle(fine, 2)))
        x = self.after(self.look(self.before(self.half1(F.pixel_unshuffle(middle, 2)))))
        x = self.up1(middle + F.pixel_shuffle(self.double1(x), 2))
        x = self.up0(fine + F.pixel_shuffle(self.double0(x), 2))
        out: Tensor = z + reach(degradation) * self.outward(F.relu(x))
        return out


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(count)))


class Look(nn.Module):
    """Self-attention over the coarsest grid: what stands at one side says what the picture is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        rows = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(rows).view(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        out: Tensor = x + self.out(seen).transpose(1, 2).reshape(b, c, h, w)
        return out


def save(denoiser: PhoneDenoiser, folder: Path, extra: dict[str, Any]) -> Path:
    """Write the weights in half precision, with their shape and provenance."""
    tensors = {name: tensor.half() for name, tensor in denoiser.state_dict().items()}
    weights.write_safely(tensors, folder / FILE, {"format": FORMAT, "config": asdict(denoiser.config), **extra})
    return folder / FILE


def load(folder: Path) -> PhoneDenoiser | None:
    """What `save` wrote into a backbone's folder; None where it has none. Errors: weights.WeightsError."""
    path = folder / FILE
    if not path.is_file():
        return None
    config, tensors, _ = weights.read_shaped(path, FORMAT, PhoneDenoiserConfig, "megen train denoiser")
    denoiser = PhoneDenoiser(config)
    weights.load_into(denoiser, tensors, str(path))
    return denoiser.eval()
