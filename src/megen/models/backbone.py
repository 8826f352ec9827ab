"""The backbone: text encoder, denoiser and autoencoder joined, with all that decides how they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from megen.models import weights
from megen.models.autoencoder import PATCH, Autoencoder, AutoencoderConfig
from megen.models.denoiser import Denoiser, DenoiserConfig
from megen.models.placement import bf16_pays, place
from megen.models.restorer import Restorer, RestorerConfig
from megen.models.text import TextConfig, TextEncoder, unknown_words

ASSETS = Path(__file__).parent.parent / "assets"
STEM = "backbone"


@dataclass(frozen=True)
class BackboneConfig:
    """Everything about a backbone but its weights; travels in their metadata."""

    name: str
    text: TextConfig
    denoiser: DenoiserConfig
    autoencoder: AutoencoderConfig
    steps: tuple[int, ...] = (1, 2, 4, 8, 12)
    merge_ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    guidance: float = 2.0
    flow_map: bool = False  # whether the denoiser learned average velocities, or the instantaneous one alone
    time_shift: float = 2.0
    grid: tuple[int, int] = (32, 32)
    restorer: RestorerConfig = field(default_factory=RestorerConfig)

    @property
    def image_px(self) -> tuple[int, int]:
        """Width and height of the images, in px."""
        return self.grid[1] * PATCH, self.grid[0] * PATCH


@dataclass(frozen=True)
class Context:
    """Encoded prompts: a vector a word, one a prompt, and which words are there."""

    text: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b e"]
    there: Bool[Tensor, "b n"]


class Backbone(nn.Module):
    """Prompts to latents to images. Latents are normalised: about zero mean and unit variance."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.text = TextEncoder(config.text)
        self.denoiser = Denoiser(config.denoiser)
        self.autoencoder = Autoencoder(config.autoencoder)
        self.skipped = 0  # blocks of the denoiser that are left out
        self.restorer = Restorer(config.restorer, config.autoencoder.channels)
        self.register_buffer("latent_mean", torch.zeros(config.autoencoder.channels))
        self.register_buffer("latent_scale", torch.ones(config.autoencoder.channels))
        self.latent_mean: Tensor
        self.latent_scale: Tensor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent."""
        return self.config.autoencoder.channels, *self.config.grid

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that this backbone never learned."""
        return unknown_words(prompt, self.config.text.vocabulary)

    def encode_prompts(self, prompts: Sequence[str]) -> Context:
        """Encode prompts; "" is the unconditional one. Errors: ValueError on too many words."""
        tokens = self.text.tokenise(prompts).to(self.latent_mean.device)
        return Context(*self.text(tokens))

    def velocity(
        self,
        z: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        context: Context,
        guidance: float,
    ) -> Float[Tensor, "b c h w"]:
        """Guided velocity v_null + guidance * (v_text - v_null); `context` holds text rows, then null rows.

        With guidance 1 the context holds the text rows alone and the net runs once.
        A backbone that learned the instantaneous velocity alone is asked at t = s.
        """
        end = t if self.config.flow_map else s
        if guidance == 1.0:
            out: Tensor = self.denoiser(z, s, end, context.text, context.pooled, context.there, self.skipped)
            return out
        both, starts, ends = torch.cat([z, z]), torch.cat([s, s]), torch.cat([end, end])
        told, null = self.denoiser(both, starts, ends, context.text, context.pooled, context.there, self.skipped).chunk(2)
        guided: Tensor = null + guidance * (told - null)
        return guided

    def encode_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] to normalised latents."""
        latents: Tensor = self.autoencoder.encoder(images)
        return (latents - self.latent_mean[:, None, None]) / self.latent_scale[:, None, None]

    def decode_latents(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Normalised latents to images in [0, 1]."""
        latents = z * self.latent_scale[:, None, None] + self.latent_mean[:, None, None]
        images: Tensor = self.autoencoder.decoder(latents)
        return images.clamp(0, 1)


def save(backbone: Backbone, folder: Path, extra: dict[str, Any]) -> list[Path]:
    """Write a backbone in half precision, with its configuration and provenance."""
    halves = {k: v.half() for k, v in backbone.state_dict().items()}
    about = {"format": "megen-backbone-1", "config": asdict(backbone.config), **extra}
    return weights.save_sharded(halves, folder, STEM, about)


def folder_of(name_or_path: str) -> Path:
    """Where a shipped backbone's files lie, or those of one that was trained here. Errors: weights.WeightsError."""
    shipped = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
    folder = ASSETS / name_or_path if name_or_path in shipped else Path(name_or_path)
    if not folder.is_dir():
        raise weights.WeightsError(f"no backbone named {name_or_path!r}: give one of {', '.join(shipped)}, or a folder of weights")
    return folder


def load(name_or_path: str, device: str = "cpu", quick: bool = False) -> Backbone:
    """Load a shipped backbone by name, or one that was trained here by its folder; `quick`: the denoiser in bf16 where that pays.

    Errors: weights.WeightsError where it is unknown, truncated, foreign or misshapen.
    """
    folder = folder_of(name_or_path)
    tensors, about = weights.read_sharded(folder, STEM)
    if about.get("format") != "megen-backbone-1" or "config" not in about:
        raise weights.WeightsError(f"{folder} was not written by megen train")
    backbone = Backbone(_config(about["config"]))
    weights.load_into(backbone, tensors, str(folder))
    place(backbone, device).eval()
    if quick and bf16_pays(torch.device(device)):
        backbone.denoiser.bfloat16()
    return backbone


def _config(fields: dict[str, Any]) -> BackboneConfig:
    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

    nested = {"text": TextConfig, "denoiser": DenoiserConfig, "autoencoder": AutoencoderConfig, "restorer": RestorerConfig}
    fields.setdefault("restorer", asdict(RestorerConfig()))
    try:
        return BackboneConfig(**{**plain(fields), **{k: cls(**plain(fields[k])) for k, cls in nested.items()}})
    except (KeyError, TypeError, AttributeError) as error:
        raise weights.WeightsError(f"the backbone's configuration is not one that this version reads ({error})") from error
