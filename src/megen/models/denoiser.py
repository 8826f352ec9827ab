"""The denoiser: a U-Net on the latent grid that predicts an average velocity v(z, s, t, text).

Time 0 is noise and 1 is data. The net's output is a clean latent in all but the last stretch:
v = (F(z) - z) / max(1 - s, FLOOR), so that F -> x where 1 - s >= FLOOR, and the error in v stays
bounded as s -> 1. Residual convolution blocks with adaptive group norm; self- and cross-attention
at the two coarse levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

FLOOR = 0.2
N_FREQUENCIES = 32
N_PLACES = 16  # sines and cosines of the coordinates
N_SKIPPABLE = 3  # one block of each level may be left out, for a net of reduced depth


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the U-Net; level 0 is the latent grid, each next level halves its side."""

    channels: int = 32
    text_width: int = 192
    widths: tuple[int, int, int] = (96, 224, 416)
    down_blocks: tuple[int, int] = (1, 1)
    middle_blocks: int = 3
    up_blocks: tuple[int, int] = (2, 2)
    condition_width: int = 384
    head_width: int = 32
    placed: bool = False  # whether words may act on places: needs a text encoder with `direct`


class Denoiser(nn.Module):
    """Average velocity of the flow map between times s and t; s = t is the instantaneous one."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        w0, w1, w2 = config.widths
        cond, text = config.condition_width, config.text_width
        self.time = nn.Linear(4 * N_FREQUENCIES, cond)
        self.pooled = nn.Linear(text, cond)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(cond, cond), nn.SiLU())

        def convs(width: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, cond) for _ in range(n))

        def mixed(width: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(MixedBlock(width, cond, text, config.head_width) for _ in range(n))

        self.place1, self.place2 = (nn.Linear(text, w * N_PLACES, bias=False) if config.placed else None for w in (w1, w2))
        for layer in (self.place1, self.place2):
            if layer is not None:
                nn.init.zeros_(layer.weight)
        self.inward = nn.Conv2d(config.channels + N_PLACES, w0, 3, padding=1)
        self.down0, self.half0 = convs(w0, config.down_blocks[0]), Halve(w0, w1)
        self.down1, self.half1 = mixed(w1, config.down_blocks[1]), Halve(w1, w2)
        self.middle = mixed(w2, config.middle_blocks)
        self.double1, self.join1, self.up1 = Double(w2, w1), nn.Conv2d(2 * w1, w1, 1), mixed(w1, config.up_blocks[1])
        self.double0, self.join0, self.up0 = Double(w1, w0), nn.Conv2d(2 * w0, w0, 1), convs(w0, config.up_blocks[0])
        self.norm = RowNorm(8, w0)
        self.outward = nn.Conv2d(w0, config.channels, 3, padding=1)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)  # type: ignore[arg-type]

    def forward(
        self,
        z: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        text: Float[Tensor, "b n d"],
        pooled: Float[Tensor, "b e"],
        mask: Bool[Tensor, "b n"],
        skipped: int = 0,
    ) -> Float[Tensor, "b c h w"]:
        """v(z, s, t, text); every row has its own times. `skipped` leaves out that many blocks, `N_SKIPPABLE` at most.

        Weights may be of lower precision than z: what surrounds the net stays in z's.
        """
        last1, middle, last0 = (skipped > k for k in (0, 1, 2))
        precision = self.inward.weight.dtype
        text, pooled = text.to(precision), pooled.to(precision)
        times = torch.cat([frequencies(s), frequencies(t - s)], -1).to(precision)
        pooled, bag = pooled.chunk(2, -1) if self.config.placed else (pooled, pooled)
        cond = each_row(lambda row: self.condition(self.time(row[0]) + self.pooled(row[1])), times, pooled)
        place = coordinates(int(z.shape[-2]), int(z.shape[-1]), z).expand(len(z), -1, -1, -1)
        x = self.inward(torch.cat([z, place], 1).to(precision))
        for block in self.down0:
            x = block(x, cond)
        skip0, x = x, _act_on_places(self.half0(x), self.place1, bag)
        for block in self.down1:
            x = block(x, cond, text, mask)
        skip1, x = x, _act_on_places(self.half1(x), self.place2, bag)
        for block in self.middle[1:] if middle else self.middle:
            x = block(x, cond, text, mask)
        x = self.join1(torch.cat([self.double1(x), skip1], 1))
        for block in self.up1[:-1] if last1 else self.up1:
            x = block(x, cond, text, mask)
        x = self.join0(torch.cat([self.double0(x), skip0], 1))
        for block in self.up0[:-1] if last0 else self.up0:
            x = block(x, cond)
        predicted = self.outward(F.silu(self.norm(x)))
        span = (1 - s).clamp(min=FLOOR).to(z.dtype)[:, None, None, None]
        out: Tensor = (predicted - z) / span
        return out


def frequencies(t: Tensor) -> Tensor:
    rates = torch.exp(torch.linspace(0, math.log(200.0), N_FREQUENCIES, device=t.device))
    angle = t.float()[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """[1, 16, h, w]: sines and cosines of four octaves of x and y."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    rates = math.pi * 2.0 ** torch.arange(4, device=like.device, dtype=like.dtype)
    fy, fx = y[:, None] * rates, x[:, None] * rates
    rows = torch.cat([fy.cos(), fy.sin()], 1).T[:, :, None].expand(-1, -1, width)
    columns = torch.cat([fx.cos(), fx.sin()], 1).T[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None]


def _act_on_places(x: Tensor, layer: nn.Linear | None, bag: Tensor) -> Tensor:
    """x plus channels that the bag of words turns on at places.

    Attention alone begins at a saddle for words such as "left": as long as all places attend alike, what such a word
    adds at one place it takes at another, and neither keys nor values learn.
    """
    if layer is None:
        return x
    weights = each_row(lambda row: layer(row[0]), bag).view(len(x), x.shape[1], N_PLACES).float()
    return x + torch.einsum("bck,khw->bchw", weights, coordinates(int(x.shape[-2]), int(x.shape[-1]), weights)[0]).to(x.dtype)


def _alone(x: Tensor) -> bool:
    """Whether a batch may be computed as one: while training, on a GPU, and where it is a single row."""
    return torch.is_grad_enabled() or x.is_cuda or len(x) == 1


def each_row(layer: Callable[[tuple[Tensor, ...]], Tensor], *inputs: Tensor) -> Tensor:
    """A layer on each row alone: a matrix product picks its kernel by the number of rows, and with it a row's last bits."""
    if _alone(inputs[0]):
        return layer(inputs)
    return torch.cat([layer(tuple(x[i : i + 1] for x in inputs)) for i in range(len(inputs[0]))])


class RowNorm(nn.GroupNorm):
    """Group norm of each row alone: with several threads torch cuts a large batch so that a row's last bits depend on the others."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if _alone(x):
            return super().forward(x)
        out = torch.empty_like(x)
        for i in range(len(x)):
            out[i : i + 1] = F.group_norm(x[i : i + 1], self.num_groups, self.weight, self.bias, self.eps)
        return out


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))) * (1 + scale) + shift)), scale and shift from the condition."""

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RowNorm(8, width), RowNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(condition_width, 2 * width)
        for layer in (self.second, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        scale, shift = each_row(lambda row: self.modulation(row[0]), cond)[:, :, None, None].chunk(2, 1)
        y = self.norm2(self.first(F.silu(self.norm1(x))))
        out: Tensor = x + self.second(F.silu(torch.addcmul(shift, y, 1 + scale)))
        return out


class MixedBlock(nn.Module):
    """A residual block, then attention over the grid and over the words."""

    def __init__(self, width: int, condition_width: int, text_width: int, head_width: int) -> None:
        super().__init__()
        self.block = ResidualBlock(width, condition_width)
        self.heads = width // head_width
        self.norm_self, self.norm_cross = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out_self = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(text_width, 2 * width)
        self.out_cross = nn.Linear(width, width)
        for layer in (self.out_self, self.out_cross):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        x = self.block(x, cond)
        b, c, h, w = x.shape
        y = x.permute(0, 2, 3, 1).reshape(b, h * w, c)

        def split(projected: Tensor, parts: int) -> Tensor:
            return projected.view(b, -1, parts, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)

        q, k, v = split(self.qkv(self.norm_self(y)), 3)
        y = y + self.out_self(_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c))
        (q,) = split(self.query(self.norm_cross(y)), 1)
        k, v = split(self.key_value(text), 2)
        seen = _attention(q, k, v, mask[:, None, None, :])
        y = y + self.out_cross(seen.transpose(1, 2).reshape(b, h * w, c))
        out: Tensor = y.view(b, h, w, c).permute(0, 3, 1, 2)
        return out


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; PyTorch's own, but for its backward pass on a CPU, which is several times slower."""
    if q.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        score = score.masked_fill(~mask, -1e4)
    return torch.softmax(score, -1, dtype=score.dtype) @ v


class Halve(nn.Module):
    """2 x 2 positions become channels, then a 1 x 1 convolution."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4 * width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(F.pixel_unshuffle(x, 2))
        return out


class Double(nn.Module):
    """A 1 x 1 convolution, then channels become 2 x 2 positions."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, 4 * out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.pixel_shuffle(self.mix(x), 2)
        return out
