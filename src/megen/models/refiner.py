"""The refiner: a small net on the latent grid that draws small things where the flow map leaves a mixture of them.

A flow map's last step ends at something like the mean of all latents that the noise still allows. Of a star that may stand in many
places that mean is a smudge. What is missing is a residual: latent = y + scale * r, y the flow map's end. The refiner is an ordinary
flow for r, given y: from noise (t = 0) to the residual (t = 1) on the straight path r_t = (1 - t) n + t r, in a few Euler steps.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from megen.backbone import CLOSE
from megen.errors import InputError
from megen.models import weights
from megen.models.denoiser import N_FREQUENCIES, N_PLACES, coordinates, each_row, frequencies
from megen.types import check_number

FILE = "refiner.safetensors"
FORMAT = "megen-refiner-1"
WIDTH, BLOCKS = 128, 4  # of a new one
MOST_WIDTH, MOST_EVALUATIONS = 4096, 64
SEEN = (1 / 3, 0.85)  # times of last steps that it is trained at, noise alone aside; another is taken as the nearest
NOISE = 1.05  # standard deviation that it draws from: few Euler steps lose some of it, and with it small things
EARLY = 1.5  # power of the times: the first steps are small, as they decide what stands where


@dataclass(frozen=True)
class RefinerConfig:
    """Shape of the net, and in how many Euler steps it draws."""

    channels: int = 32
    pooled_width: int = 384
    width: int = WIDTH
    blocks: int = BLOCKS
    condition_width: int = 256
    evaluations: int = 4
    single: bool = False  # trained on ends of single steps too; where it is not, `draw` leaves these as they are

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "single":
                check_number(name, value, 1, MOST_EVALUATIONS if name == "evaluations" else MOST_WIDTH, whole=True)
        if not isinstance(self.single, bool):
            raise InputError(f"single must be true or false, not {self.single!r}")


class Refiner(nn.Module):
    """The residual of a latent, estimated from a state on its path, the flow map's end and what that ended from."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        self.about: dict[str, Any] = {}  # where its weights come from, as its file says
        channels, width, cond = config.channels, config.width, config.condition_width
        self.register_buffer("scale", torch.ones(channels))  # of the residual, root mean square of each channel
        self.scale: Tensor
        self.time, self.pooled = nn.Linear(4 * N_FREQUENCIES, cond), nn.Linear(config.pooled_width, cond)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(cond, cond), nn.SiLU())
        self.inward = nn.Conv2d(2 * channels + N_PLACES, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, cond) for _ in range(config.blocks))
        self.norm = TokenNorm(width)
        self.outward = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)  # type: ignore[arg-type]

    @property
    def manner(self) -> str:
        """How it draws, beside its weights: what pictures come from."""
        single = "after single steps too" if self.config.single else "not after single steps"
        return f"{self.config.evaluations} evaluations from noise {NOISE} at times to the power {EARLY}, {single}"

    def suits(self, flow_map: str) -> bool:
        """Whether it was trained for the flow map of that digest, or for one that had none."""
        return bool(self.about.get("flow_map", flow_map) == flow_map)

    def forward(
        self,
        r: Float[Tensor, "b c h w"],
        y: Float[Tensor, "b c h w"],
        t: Float[Tensor, "b"],
        source: Float[Tensor, "b"],
        pooled: Float[Tensor, "b e"],
    ) -> Float[Tensor, "b c h w"]:
        """The residual r_1 that belongs to r_t; `source` is the time at which the flow map's last step began."""
        precision = self.inward.weight.dtype
        place = coordinates(int(y.shape[-2]), int(y.shape[-1]), y).expand(len(y), -1, -1, -1)
        times = torch.cat([frequencies(t), frequencies(source)], -1).to(precision)
        cond = each_row(lambda row: self.condition(self.time(row[0]) + self.pooled(row[1])), times, pooled.to(precision))
        x = self.inward(torch.cat([r, y, place], 1).to(precision, memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x, cond)
        out: Tensor = self.outward(F.silu(self.norm(x)))
        return out.to(y.dtype)

    def draw(
        self, y: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], source: Float[Tensor, "b"], pooled: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h w"]:
        """y with the residual that the noise leads to; y alone after a single step, where it is not trained on these."""
        single = source < CLOSE
        kept = single & (not self.config.single)
        if kept.all():
            return y
        r, count, source = NOISE * noise, self.config.evaluations, torch.where(single, source, source.clamp(*SEEN))
        for t, u in itertools.pairwise((k / count) ** EARLY for k in range(count + 1)):
            end = self(r, y, torch.full((len(y),), t, device=y.device), source, pooled)
            r = r + (u - t) / (1 - t) * (end - r)
        return torch.where(kept[:, None, None, None], y, y + self.scale[:, None, None] * r)


class TokenNorm(nn.Module):
    """Root mean square norm over the channels of each token: it does not depend on the rest of the grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        wide = x.float()
        normal: Tensor = wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + 1e-5)
        return normal.to(x.dtype) * self.gain[:, None, None]


class Block(nn.Module):
    """x + mix(silu(conv(norm(x)) * (1 + gain) + shift)), mix two layers on each token, gain and shift from the condition."""

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.norm, self.first = TokenNorm(width), nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(condition_width, 2 * width)
        self.widen, self.narrow = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        nn.init.normal_(self.narrow.weight, std=0.02)
        for layer in (self.modulation, self.narrow):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        gain, shift = each_row(lambda row: self.modulation(row[0]), cond)[:, :, None, None].chunk(2, 1)
        y = torch.addcmul(shift, self.first(self.norm(x)), 1 + gain)
        out: Tensor = x + self.narrow(F.silu(self.widen(F.silu(y))))
        return out


def save(refiner: Refiner, folder: Path, extra: dict[str, Any]) -> Path:
    """Write the weights in half precision, with their shape and provenance: its own, and `extra`."""
    tensors = {name: tensor.half() for name, tensor in refiner.state_dict().items()}
    weights.write_safely(tensors, folder / FILE, {**refiner.about, "format": FORMAT, "config": asdict(refiner.config), **extra})
    return folder / FILE


def load(folder: Path, flow_map: str) -> tuple[Refiner, dict[str, Tensor]] | None:
    """What `save` wrote into the folder of a backbone whose `flow_digest` is given, and its tensors; None where it has none.

    Errors: weights.WeightsError, also where it was trained for another flow map.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    refiner, tensors = read(path)
    if not refiner.suits(flow_map):
        raise weights.WeightsError(f"{path} is the refiner of another flow map: remove it, or train one with megen train refiner")
    return refiner, tensors


def read(path: Path) -> tuple[Refiner, dict[str, Tensor]]:
    """The refiner of any flow map that `save` wrote into that file or folder, and its tensors. Errors: weights.WeightsError."""
    path = path / FILE if path.is_dir() else path
    config, tensors, about = weights.read_shaped(path, FORMAT, RefinerConfig, "megen train refiner")
    refiner = Refiner(config)
    weights.load_into(refiner, tensors, str(path))
    refiner.about = about
    return refiner.eval(), tensors
