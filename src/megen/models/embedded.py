"""The embedded backbone: text encoder, denoiser and autoencoder joined, with all that decides how they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from megen.backbone import BackboneSpec, Condition
from megen.diffusion import flow_map
from megen.errors import RunError
from megen.models import refiner, weights
from megen.models.autoencoder import PATCH, Autoencoder, AutoencoderConfig
from megen.models.denoiser import Denoiser, DenoiserConfig
from megen.models.placement import bf16_pays, place
from megen.models.refiner import Refiner
from megen.models.restorer import Restorer, RestorerConfig
from megen.models.text import TextConfig, TextEncoder
from megen.words import left_out

ASSETS = Path(__file__).parent.parent / "assets"
STEM = "backbone"
FLOW = ("text.", "denoiser.", "latent_")  # names of the tensors that decide where steps end
PREVIEW_PX = 8  # of a token's side


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


class EmbeddedBackbone(nn.Module):
    """The `Backbone` that megen trains and ships, and its receiver's nets."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.digest = ""  # of the weights, where they were loaded
        self.flow_digest = ""  # of those that decide where the flow map's steps end
        self.text = TextEncoder(config.text)
        self.denoiser = Denoiser(config.denoiser)
        self.autoencoder = Autoencoder(config.autoencoder)
        self.restorer = Restorer(config.restorer, config.autoencoder.channels)
        self.refiner: Refiner | None = None  # it lies in a file of its own
        self.register_buffer("latent_mean", torch.zeros(config.autoencoder.channels))
        self.register_buffer("latent_scale", torch.ones(config.autoencoder.channels))
        self.latent_mean: Tensor
        self.latent_scale: Tensor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent."""
        return self.config.autoencoder.channels, *self.config.grid

    @property
    def refined_widths(self) -> tuple[int, int]:
        """Channels of a latent and width of a prompt's vector, as its refiner must have them."""
        text = self.config.text
        return self.config.autoencoder.channels, text.width * (2 if text.direct else 1)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.latent_mean.device

    @property
    def precision(self) -> torch.dtype:
        """Of the denoiser's weights."""
        return self.denoiser.inward.weight.dtype

    @property
    def spec(self) -> BackboneSpec:
        """What is offered."""
        config = self.config
        times = {n: tuple(flow_map.times(n, config.time_shift)) for n in config.steps}
        shapes = (config.name, self.latent_shape, config.image_px)
        return BackboneSpec(*shapes, times, config.merge_ratios, config.text.max_words, refines=self.refiner is not None)

    def left_out(self, prompt: str) -> list[str]:
        """What of the prompt this backbone never learned and does not read: unknown words, digits, symbols."""
        return left_out(prompt, self.config.text.vocabulary)

    def condition(self, prompts: Sequence[str], guidance: float | None = None) -> Condition:
        """Encode prompts, each alone and padded to the most words, so that a row does not depend on its batch; "" is the null prompt.

        Errors: InputError on too many words.
        """
        strength = self.config.guidance if guidance is None else guidance
        tokens = [self.text.tokenise([prompt], self.config.text.max_words) for prompt in prompts]  # refuses before any work
        rows = [self.text(row.to(self.device)) for row in tokens]
        text, pooled, mask = (torch.cat(column) for column in zip(*rows, strict=True))
        null = None if strength == 1.0 else self.condition([""], 1.0)
        return Condition(text, pooled, mask, torch.full((len(prompts),), strength, device=self.device), null)

    def velocity(
        self, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"], condition: Condition, skipped: int = 0
    ) -> Float[Tensor, "b c h w"]:
        """Guided velocity v_null + guidance * (v_text - v_null), a guidance for each row; the net runs once where all are 1.

        A backbone that learned the instantaneous velocity alone is asked at t = s. `skipped`: blocks of the denoiser left out.
        """
        end = t if self.config.flow_map else s
        if condition.null is None:
            out: Tensor = self.denoiser(z, s, end, condition.text, condition.pooled, condition.mask, skipped)
            return out
        twice = Condition.cat([condition, condition.null.expand(len(z))])
        both, starts, ends = torch.cat([z, z]), torch.cat([s, s]), torch.cat([end, end])
        conditioned, null = self.denoiser(both, starts, ends, twice.text, twice.pooled, twice.mask, skipped).chunk(2)
        strength = condition.guidance[:, None, None, None]
        return torch.where(strength == 1, conditioned, null + strength * (conditioned - null))

    def step(
        self,
        z: Float[Tensor, "b c h w"],
        s: Float[Tensor, "b"],
        t: Float[Tensor, "b"],
        condition: Condition,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """X_{s,t}(z) = z + (t - s) v(z, s, t), and at t = 1 what the refiner draws from `noise`, where there is one.

        Errors: RunError where a net gives NaN or infinity.
        """
        out = flow_map.step(lambda z, s, t: self.velocity(z, s, t, condition), z, s, t)
        if self.refiner is not None and (last := t >= 1).any():
            assert noise is not None, "a refiner draws from noise"
            out[last] = self.refined(out[last], noise[last], s[last], condition.rows(last))
        if not torch.isfinite(out).all():
            raise RunError("the denoiser gave NaN or infinity: its weights are broken")
        return out

    def refined(
        self, end: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """Ends of last steps that began at s, with what the refiner draws from the noise; as they are where there is none."""
        return end if self.refiner is None else self.refiner.draw(end, noise, s, condition.pooled)

    def encode_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] to normalised latents."""
        latents: Tensor = self.autoencoder.encoder(images)
        return (latents - self.latent_mean[:, None, None]) / self.latent_scale[:, None, None]

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Normalised latents to images in [0, 1]."""
        latents = z * self.latent_scale[:, None, None] + self.latent_mean[:, None, None]
        images: Tensor = self.autoencoder.decoder(latents)
        return images.clamp(0, 1)

    def receive(self, z: Float[Tensor, "b c h w"], degradation: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 3 H W"]:
        """The picture in [0, 1] of latents that were degraded in transit, as the user equipment decodes them."""
        return self.decode(self.restorer(z, degradation))

    def denoised(
        self, equalised: Float[Tensor, "b c h w"], deviation: Float[Tensor, "b 1 h w"], condition: Condition
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b"]]:
        """Where one step of the flow map leads from latents with noise, and the time at which it begins.

        An equalised value is the clean one and noise of deviation d: over 1 + d it lies on the path from noise to data at the time
        1 / (1 + d). One time for all tokens, by the geometric mean.
        """
        time = torch.exp(-torch.log1p(deviation).mean((1, 2, 3)))
        begin = time[:, None, None, None] * equalised
        return flow_map.step(lambda z, s, t: self.velocity(z, s, t, condition), begin, time, torch.ones_like(time)), time

    def receive_noisy(
        self,
        z: Float[Tensor, "b c h w"],
        degradation: Float[Tensor, "b 4 h w"],
        equalised: Float[Tensor, "b c h w"],
        deviation: Float[Tensor, "b 1 h w"],
        share: Float[Tensor, "b"],
        condition: Condition,
    ) -> Float[Tensor, "b 3 H W"]:
        """As `receive`, of latents with noise: `share` of what `denoised` gives (`ue.receiver.flow_share`), the rest the restorer's."""
        cleaned, _ = self.denoised(equalised, deviation, condition)
        share = share[:, None, None, None]
        return self.decode(share * cleaned + (1 - share) * self.restorer(z, degradation))

    def preview(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Small pictures of normalised latents, 8 px a token, by the decoder's linear path alone: blurred, and a hundred times faster."""
        latents = z * self.latent_scale[:, None, None] + self.latent_mean[:, None, None]
        images: Tensor = self.autoencoder.decoder.linear_path(latents, PREVIEW_PX)
        return images.clamp(0, 1)


def save(backbone: EmbeddedBackbone, folder: Path, extra: dict[str, Any]) -> list[Path]:
    """Write a backbone in half precision, with its configuration and provenance; its refiner, where it has one, in a file of its own."""
    halves = {k: v.half() for k, v in backbone.state_dict().items() if not k.startswith("refiner.")}
    if backbone.refiner is not None:
        refiner.save(backbone.refiner, folder, {})
    else:
        (folder / refiner.FILE).unlink(missing_ok=True)  # one of the weights that lay there
    about = {"format": "megen-backbone-1", "config": asdict(backbone.config), **extra}
    return weights.save_sharded(halves, folder, STEM, about)


def folder_of(name_or_path: str) -> Path:
    """Where a bundled backbone's files lie, or those of one that was trained here. Errors: weights.WeightsError."""
    bundled = sorted({p.parent.name for p in ASSETS.glob(f"*/{STEM}-*.safetensors")})  # assets hold other folders too
    folder = ASSETS / name_or_path if name_or_path in bundled else Path(name_or_path)
    if not folder.is_dir():
        raise weights.WeightsError(
            f"no backbone named {name_or_path!r}: give one of {', '.join(bundled)}, a folder of weights, or a hub name as owner/model"
        )
    return folder


def load(name_or_path: str, device: str = "cpu", quick: bool = False) -> EmbeddedBackbone:
    """Load a bundled backbone by name, or one that was trained here by its folder; `quick`: the denoiser in bf16 where that pays.

    Errors: weights.WeightsError where it is unknown, truncated, foreign or misshapen.
    """
    folder = folder_of(name_or_path)
    tensors, about = weights.read_sharded(folder, STEM)
    if about.get("format") != "megen-backbone-1" or "config" not in about:
        raise weights.WeightsError(f"{folder} was not written by megen train")
    backbone = EmbeddedBackbone(_config(about["config"]))
    weights.load_into(backbone, tensors, str(folder))
    backbone.flow_digest = weights.digest("", {k: v for k, v in tensors.items() if k.startswith(FLOW)})[:16]
    if found := refiner.load(folder, backbone.flow_digest):
        backbone.refiner, drawing = found
        has = backbone.refiner.config.channels, backbone.refiner.config.pooled_width
        if has != backbone.refined_widths:
            raise weights.WeightsError(
                f"{folder / refiner.FILE} is for channels and pooled width {has}, the backbone has {backbone.refined_widths}"
            )
        tensors |= {f"refiner.{name}": tensor for name, tensor in drawing.items()}
    backbone.digest = weights.digest(backbone.refiner.manner if backbone.refiner else "", tensors)[:16]
    place(backbone, device).eval()
    if quick and bf16_pays(torch.device(device)):
        backbone.denoiser.bfloat16()
        if backbone.refiner is not None:
            backbone.refiner.bfloat16()
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
