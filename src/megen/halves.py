"""Both halves of the way: the edge server's, prompts to what crosses the link, and the user equipment's, what is received to pixels.

A backbone is named: a bundled one, a folder of `megen train`, or a published checkpoint (`models.published`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import export, merging
from megen.backbone import Backbone
from megen.clock import Clock
from megen.codec import QUANTISER_BITS, REDUCTIONS, FeatureCodec, Prior, check_order, check_quantiser, prior
from megen.diffusion import denoise
from megen.models import checkpoints, embedded, published
from megen.models.fingerprint import fingerprint
from megen.models.phone_denoiser import PhoneDenoiser
from megen.models.placement import device_of
from megen.types import Decision, Features, FloatArray, InputError, OnPart, Received, RunError, Transmission, check_number
from megen.ue import Receiver
from megen.ue.receiver import GRAPH, NOISE, NOISE_CLEANED, flow_share, is_degraded
from megen.words import check_words

LARGEST_SEED = 2**63 - 1

OnStep = Callable[[int], object]


@runtime_checkable
class Receives(Protocol):
    """The user equipment: what is received to bytes [H, W, 3]. Errors of both: CodecError."""

    def decode(self, received: Received) -> np.ndarray: ...

    def image_of(self, features: Features) -> np.ndarray: ...


@dataclass(frozen=True)
class Transmitter:
    """The edge server's half: prompts to latents, a latent to what crosses the link."""

    backbone: Backbone
    codec: FeatureCodec

    def clock(self) -> Clock:
        """A clock that waits for the backbone's device."""
        return Clock(synchronise=torch.cuda.synchronize) if self.backbone.device.type == "cuda" else Clock()

    def denoise(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, clock: Clock | None = None, on_step: OnStep = lambda done: None
    ) -> Float[Tensor, "b c h w"]:
        """Prompts to their latents in `steps` steps, each row from its own seed.

        Errors: InputError on steps that the backbone does not offer, on prompts and seeds that are not as many, on prompts without
        words or of too many, and on seeds that are none; RunError on broken weights.
        """
        clock = clock or self.clock()
        spec = self.backbone.spec
        steps = spec.check(Decision(steps)).steps
        lists = isinstance(prompts, Sequence) and not isinstance(prompts, str) and isinstance(seeds, Sequence | np.ndarray)
        if not lists or len(prompts) != len(seeds) or not len(prompts):
            raise InputError(f"prompts and seeds must be two lists of one length, got {prompts!r} and {seeds!r}")
        for prompt, seed in zip(prompts, seeds, strict=True):
            check_words(prompt)
            check_number("seed", seed, 0, LARGEST_SEED, whole=True)
        with clock.stage("text"), torch.inference_mode():
            condition = self.backbone.condition(prompts)
        with clock.stage("denoise"):
            rows = denoise.start(self.backbone, condition, list(map(int, seeds)), [spec.times[steps]] * len(seeds))
            for done in range(1, steps + 1):
                rows = denoise.advance(self.backbone, rows)
                on_step(done)
        return rows.z

    def encode(
        self,
        latent: Float[Tensor, "1 c h w"],
        merge_ratio: float = 0.0,
        *,
        quantiser_bits: float = QUANTISER_BITS,
        bits_budget: int | None = None,
        analog: bool = False,
        order: str = "band",
        copies: int = 1,
        reduction: str | None = None,
        clock: Clock | None = None,
        on_part: OnPart = lambda part: None,
    ) -> Transmission:
        """Merge and code one latent; with `analog` its features travel as I/Q symbols. `order` and `on_part` as in `FeatureCodec.encode`.

        The `reduction` is "merging", or for analog features "transform": the share `merge_ratio` of transform coefficients stays behind.
        None: coefficients where all are sent and the codec knows their variances, else tokens. Errors: InputError, also on another latent.
        """
        clock = clock or self.clock()
        expected = (1, *self.backbone.spec.latent_shape)
        if not isinstance(latent, Tensor) or tuple(latent.shape) != expected:
            shape = list(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
            raise InputError(f"the latent must be one of {list(expected)}, got {shape}")
        check_quantiser(quantiser_bits, bits_budget, analog)
        check_order(order, analog)
        if self.transforms(reduction, analog, merge_ratio):
            with clock.stage("code"):
                sent = self.codec.encode_coefficients(tokens_of(latent), self.backbone.spec.latent_shape[1:], merge_ratio, copies=copies)
            for part in sent.payload.parts:
                on_part(part)
            return sent
        with clock.stage("merge"):
            merged = merging.merged(tokens_of(latent), (latent.shape[-2], latent.shape[-1]), merge_ratio)
        with clock.stage("code"):
            return self.codec.encode(
                merged,
                quantiser_bits=quantiser_bits,
                bits_budget=bits_budget,
                analog=analog,
                order=order,
                copies=copies,
                on_part=on_part,
            )

    def transforms(self, reduction: str | None, analog: bool, merge_ratio: float = 0.0) -> bool:
        """Whether transform coefficients cross, and not tokens.

        Errors: InputError on an unknown reduction, and on coefficients as bits or without variances of the backbone's grid.
        """
        prior, grid = self.codec.prior, self.backbone.spec.latent_shape[1:]
        known = prior is not None and prior.variance is not None and prior.variance.shape[1:] == grid
        if reduction not in (None, *REDUCTIONS):
            raise InputError(f"the reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if reduction == "transform" and not analog:
            raise InputError("transform coefficients travel as I/Q symbols: send them analog, or merge tokens")
        if reduction == "transform" and not known:
            raise InputError("the backbone's codec file has no variances of transform coefficients: merge tokens, or train the prior again")
        if reduction is None:
            return analog and not merge_ratio and known
        return reduction == "transform"


def tokens_of(latent: Float[Tensor, "1 c h w"]) -> FloatArray:
    """The tokens [h*w, c] of one latent, raster order."""
    flat: FloatArray = latent[0].flatten(1).T.float().cpu().numpy()
    return flat


def transmitter_of(backbone: str = "scenes", device: str = "auto") -> Transmitter:
    """The edge server's half of a backbone by name. Errors: InputError."""
    on = str(device_of(device))
    model = published.load(backbone, on) if checkpoints.is_published(backbone) else embedded.load(backbone, on, quick=True)
    learned = prior_of(model, backbone)
    return Transmitter(model, FeatureCodec(learned, fingerprint(model, learned.digest), model.spec.latent_shape[1:]))


def prior_of(model: Backbone, backbone: str) -> Prior:
    """The entropy coder's prior, beside the weights or a published checkpoint's receiver; else payloads bring their scales."""
    channels = model.spec.latent_shape[0]
    if not isinstance(model, published.PublishedBackbone):
        return prior.load(embedded.folder_of(backbone), channels)
    folder = model.checkpoint.receiver
    return prior.plain(channels) if folder is None else prior.load(Path(folder), channels)


def placed_receiver(transmitter: Transmitter, backbone: str = "scenes") -> tuple[Path | None, Receives]:
    """The user equipment's half of that backbone, and where its graph lies for others to take: written at first use, or a published
    checkpoint's where its file names one, else its own decoder in this process.

    None: no phone can decode. Errors: InputError on a receiver that was exported from another backbone.
    """
    model = transmitter.backbone
    if isinstance(model, embedded.EmbeddedBackbone):
        return export.placed_receiver(model, embedded.folder_of(backbone))
    assert isinstance(model, published.PublishedBackbone)
    if model.checkpoint.receiver is None:
        return None, LocalReceiver(transmitter)
    folder = Path(model.checkpoint.receiver)
    receiver = Receiver.load(folder)
    if receiver.codec.fingerprint != transmitter.codec.fingerprint:
        raise InputError(f"the receiver in {folder} is of another backbone: write it again with megen export")
    return folder / GRAPH, receiver


def halves(backbone: str = "scenes", device: str = "auto") -> tuple[Transmitter, Receives]:
    """Both halves of a backbone by name. Errors: InputError."""
    transmitter = transmitter_of(backbone, device)
    return transmitter, placed_receiver(transmitter, backbone)[1]


@dataclass(frozen=True)
class LocalReceiver:
    """A receiver in this process for any backbone: unmerging and its own decoder, without a restorer."""

    transmitter: Transmitter

    def decode(self, received: Received) -> np.ndarray:
        """The image [H, W, 3] in bytes of what was received. Errors: CodecError."""
        return self.image_of(self.transmitter.codec.decode(received))

    @torch.inference_mode()
    def image_of(self, features: Features) -> np.ndarray:
        """The image [H, W, 3] in bytes of decoded features. Errors: InputError; RunError where the decoder gives NaN or infinity."""
        backbone = self.transmitter.backbone
        return _bytes_of(backbone, backbone.decode(_grid(backbone, features, merging.unmerge(features.rows, features.merge_map))))


@dataclass(frozen=True)
class FlowReceiver:
    """A receiver in this process to which the analog link's noise is diffusion noise: one step of the flow map takes it away.

    `prompt` is the picture's, "" where it is not known. What the flow map leaves to others is the `denoiser`'s, else the restorer's.
    Errors: InputError on a published backbone.
    """

    transmitter: Transmitter
    prompt: str = ""
    denoiser: PhoneDenoiser | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transmitter.backbone, embedded.EmbeddedBackbone):
            raise InputError("a FlowReceiver needs an embedded backbone: a published one's path from noise to data may not be straight")

    def decode(self, received: Received) -> np.ndarray:
        """The image [H, W, 3] in bytes of what was received. Errors: CodecError."""
        return self.image_of(self.transmitter.codec.decode(received))

    @torch.inference_mode()
    def image_of(self, features: Features) -> np.ndarray:
        """The image [H, W, 3] in bytes of decoded features. Errors: InputError; RunError where a net gives NaN or infinity."""
        backbone = self.transmitter.backbone
        assert isinstance(backbone, embedded.EmbeddedBackbone)
        z = _grid(backbone, features, merging.unmerge(features.rows, features.merge_map))
        degradation, noisy = _grid(backbone, features, features.degradation), features.equalised
        share = flow_share(features, NOISE if self.denoiser is None else NOISE_CLEANED)
        if self.denoiser is not None and is_degraded(features):
            z = self.denoiser(z, degradation)
            degradation = torch.zeros_like(degradation)
        if noisy is None or not share:
            return _bytes_of(backbone, backbone.receive(z, degradation))
        equalised, deviation = _grid(backbone, features, noisy.values), _grid(backbone, features, noisy.deviation[:, None])
        of_prompt = backbone.condition([self.prompt], 1.0)
        shown = backbone.receive_noisy(z, degradation, equalised, deviation, z.new_tensor([share]), of_prompt)
        return _bytes_of(backbone, shown)


def _grid(backbone: Backbone, features: Features, columns: np.ndarray) -> torch.Tensor:
    """Columns of tokens [h*w, k] as [1, k, h, w]. Errors: InputError on features of another backbone."""
    channels, height, width = backbone.spec.latent_shape
    features.check(channels, (height, width))
    return torch.from_numpy(columns.T.reshape(1, -1, height, width).copy()).to(backbone.device)


def _bytes_of(backbone: Backbone, images: torch.Tensor) -> np.ndarray:
    """The first image [H, W, 3] in bytes. Errors: InputError on another shape; RunError where the decoder gave NaN or infinity."""
    width, height = backbone.spec.image_px
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[1:] != (3, height, width):
        got = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise InputError(f"a backbone's decode must return a tensor [b, 3, {height}, {width}], got {got}")
    image = images[0]
    if not torch.isfinite(image).all():
        raise RunError("the decoder gave NaN or infinity: its weights are broken, or the features are")
    pixels: np.ndarray = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    return pixels
