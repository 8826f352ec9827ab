"""The whole way of one image: prompt, denoise, merge, code, link, decode bits, unmerge, decode image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import codec, merging
from megen.channel import analog, rate
from megen.diffusion import path
from megen.models.backbone import Backbone
from megen.models.identity import identity
from megen.types import Decision, FloatArray, IntArray, Payload
from megen.ue import Receiver, arrive


@dataclass(frozen=True)
class Link:
    """The link of one transmission; without noise where `kind` is "none". The receiver knows the channel's gains."""

    kind: str = "none"
    snr_db: float = 10.0
    bandwidth_hz: float = 1e6
    fading: str = "awgn"
    block_symbols: int = 1024

    def check(self) -> None:
        """Refuse a link that cannot be. Errors: ValueError."""
        if self.kind not in ("none", "analog"):
            raise ValueError(f"the link must be none or analog, got {self.kind!r}")
        if self.kind == "analog":
            analog.noise_variance(self.snr_db)
            rate.achievable_bps(self.snr_db, self.bandwidth_hz)


@dataclass
class Clock:
    """Seconds by stage of one request, filled as it goes."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # or the time would be that of the launch
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Result:
    """The received image [H, W, 3] in bytes, and what crossed the link."""

    image: np.ndarray
    payload: Payload
    symbols: int
    transmit_s: float
    rate_bps: float | None


def noise_of(backbone: Backbone, seed: int) -> Float[Tensor, "1 c h w"]:
    """The starting noise of a seed, the same whatever batch it runs in."""
    return torch.randn((1, *backbone.latent_shape), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def denoise(
    backbone: Backbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    clock: Clock,
    on_step: Callable[[int], None] = lambda done: None,
    guidance: float | None = None,
) -> Float[Tensor, "b c h w"]:
    """ES: prompts to their latents in `steps` steps, each row from its own seed; guidance None: the backbone's own.

    Errors: FloatingPointError where the denoiser gives a value that is no number.
    """
    strength = backbone.config.guidance if guidance is None else guidance
    with clock.stage("text"):
        context = backbone.encode_prompts([*prompts] if strength == 1.0 else [*prompts, *[""] * len(prompts)])
    with clock.stage("denoise"):
        noise = torch.cat([noise_of(backbone, seed) for seed in seeds]).to(backbone.latent_mean.device)
        z = noise = noise.contiguous(memory_format=torch.channels_last)
        walk = path.walk(
            lambda z, s, t: backbone.velocity(z, s, t, context, strength), noise, path.times(steps, backbone.config.time_shift)
        )
        for done, z in enumerate(walk, 1):  # noqa: B007
            on_step(done)
        if not torch.isfinite(z).all():
            raise FloatingPointError("the denoiser gave a value that is no number: its weights are broken")
    return z


def as_tokens(latent: Float[Tensor, "1 c h w"]) -> FloatArray:
    """The tokens [h*w, c] of one latent, raster order."""
    flat: FloatArray = latent[0].flatten(1).T.float().cpu().numpy()
    return flat


def send(
    latent: Float[Tensor, "1 c h w"],
    merge_ratio: float,
    link: Link,
    rng: np.random.Generator,
    receiver: Receiver,
    clock: Clock,
) -> Result:
    """Merge and code at the ES, cross the link, decode bits and image at the UE."""
    _, channels, height, width = latent.shape
    with clock.stage("merge"):
        tokens = as_tokens(latent)
        choice = merging.match(tokens, height, width, merge_ratio)
        rows, _ = merging.merge(tokens, merging.merge_map(choice, height, width))
    with clock.stage("code"):
        symbols, amplitude = analog.modulate(rows) if link.kind == "analog" else (None, 0.0)
        header = codec.Header(height, width, channels, len(rows), receiver.identity, amplitude, link.kind == "analog")
        payload = codec.encode(rows, choice, header)
    received, transmit_s, rate_bps = None, 0.0, None
    if symbols is not None:
        no = analog.noise_variance(link.snr_db)
        gains = analog.fade(len(symbols), link.fading, link.block_symbols, rng)
        received = analog.mmse(analog.transmit(symbols, gains, no, rng), gains, no)
        rate_bps = rate.achievable_bps(link.snr_db, link.bandwidth_hz)
        transmit_s = payload.bits()["total"] / rate_bps + len(symbols) / link.bandwidth_hz
    with clock.stage("decode"):
        image = receiver(*arrive(payload, receiver.identity, received))
    return Result(image, payload, 0 if symbols is None else len(symbols), transmit_s, rate_bps)


class TorchReceiver:
    """The UE half in torch: the reference that the exported graph must equal."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone, self.identity = backbone, identity(backbone)

    @torch.inference_mode()
    def __call__(self, rows: FloatArray, mapping: IntArray) -> np.ndarray:
        tokens = torch.from_numpy(merging.unmerge(rows, mapping)).to(self._backbone.latent_mean.device)
        channels, height, width = self._backbone.latent_shape
        image = self._backbone.decode_latents(tokens.T.reshape(1, channels, height, width))
        pixels: np.ndarray = (image[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
        return pixels


def reference(
    backbone: Backbone, prompt: str, seed: int, receiver: Receiver, on_step: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """The image of the same seed with the most steps, no merging, no quantiser and no link."""
    tokens = as_tokens(denoise(backbone, [prompt], [seed], max(backbone.config.steps), Clock(), on_step))
    return receiver(tokens, np.arange(len(tokens), dtype=np.int64))


def decide(backbone: Backbone, steps: int, merge_ratio: float) -> Decision:
    """A checked decision. Errors: ValueError naming what the backbone offers."""
    offered = backbone.config
    if steps not in offered.steps:
        raise ValueError(f"steps must be one of {', '.join(map(str, offered.steps))}, got {steps}")
    merging.merged_count(*offered.grid, merge_ratio)
    return Decision(steps, merge_ratio)
