"""The whole way of one image: prompt, denoise, merge, code, link, decode bits, unmerge, decode image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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

Receiver = Callable[[FloatArray, IntArray], np.ndarray]  # received rows, merge map -> bytes [H, W, 3]


@dataclass(frozen=True)
class Link:
    """The link of one transmission; without noise where `kind` is "none"."""

    kind: str = "none"
    snr_db: float = 10.0
    bandwidth_hz: float = 1e6
    fading: str = "awgn"
    block_symbols: int = 1024


@dataclass
class Clock:
    """Seconds by stage of one request, filled as it goes."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class Result:
    """The received image [H, W, 3] in bytes, and what crossed the link."""

    image: np.ndarray
    payload: Payload
    symbols: int
    transmit_s: float
    rate_bps: float | None
    rows: FloatArray
    mapping: IntArray


def noise_of(backbone: Backbone, seed: int) -> Float[Tensor, "1 c h w"]:
    """The starting noise of a seed, the same whatever batch it runs in."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, *backbone.latent_shape), generator=generator).to(backbone.latent_mean.device)


@torch.inference_mode()
def denoise(
    backbone: Backbone, prompt: str, seed: int, steps: int, clock: Clock, on_step: Callable[[int], None] = lambda k: None
) -> Float[Tensor, "1 c h w"]:
    """ES: a prompt to its latent in `steps` steps."""
    guidance = backbone.config.guidance
    with clock.stage("text"):
        context = backbone.encode_prompts([prompt] if guidance == 1.0 else [prompt, ""])
    with clock.stage("denoise"):
        noise = noise_of(backbone, seed).contiguous(memory_format=torch.channels_last)
        z = noise
        grid = path.times(steps, backbone.config.time_shift)
        walk = path.walk(lambda z, s, t: backbone.velocity(z, s, t, context, guidance), noise, grid)
        for k, z in enumerate(walk):  # noqa: B007
            on_step(k + 1)
    return z


def as_tokens(latent: Float[Tensor, "1 c h w"]) -> FloatArray:
    """The tokens [h*w, c] of one latent, raster order."""
    flat: FloatArray = latent[0].flatten(1).T.float().cpu().numpy()
    return flat


def send(
    latent: Float[Tensor, "1 c h w"],
    backbone: Backbone,
    ratio: float,
    link: Link,
    rng: np.random.Generator,
    receiver: Receiver,
    clock: Clock,
) -> Result:
    """Merge and code at the ES, cross the link, decode bits and image at the UE."""
    _, channels, height, width = latent.shape
    tokens = as_tokens(latent)
    with clock.stage("merge"):
        choice = merging.match(tokens, height, width, ratio)
        mapping = merging.merge_map(choice, height, width)
        rows, _ = merging.merge(tokens, mapping)
    with clock.stage("code"):
        symbols, amplitude = analog.modulate(rows) if link.kind == "analog" else (np.zeros(0, np.complex128), 0.0)
        header = codec.Header(height, width, channels, len(rows), identity(backbone), amplitude, link.kind == "analog")
        payload = codec.encode(rows, choice, header)
    received, transmit_s, rate_bps = None, 0.0, None
    if link.kind == "analog":
        no = analog.noise_variance(link.snr_db)
        gains = analog.fade(len(symbols), link.fading, link.block_symbols, rng)
        estimate = analog.mmse(analog.transmit(symbols, gains, no, rng), gains, no)
        received = analog.demodulate(estimate, amplitude, rows.shape)
        rate_bps = rate.achievable_bps(link.snr_db, link.bandwidth_hz)
        transmit_s = payload.bits()["total"] / rate_bps + len(symbols) / link.bandwidth_hz
    with clock.stage("code"):
        arrived, choice, _ = codec.decode(payload, identity(backbone), received)
        mapping = merging.merge_map(choice, height, width)
    with clock.stage("decode"):
        image = receiver(arrived, mapping)
    return Result(image, payload, len(symbols), transmit_s, rate_bps, arrived, mapping)


def torch_receiver(backbone: Backbone) -> Receiver:
    """The UE half in torch: the reference that the exported graph must equal."""

    @torch.inference_mode()
    def receive(rows: FloatArray, mapping: IntArray) -> np.ndarray:
        tokens = torch.from_numpy(merging.unmerge(rows, mapping)).to(backbone.latent_mean.device)
        channels, height, width = backbone.latent_shape
        image = backbone.decode_latents(tokens.T.reshape(1, channels, height, width))
        return (image[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()

    return receive


def reference(
    backbone: Backbone, prompt: str, seed: int, receiver: Receiver, on_step: Callable[[int], None] = lambda k: None
) -> np.ndarray:
    """The image of the same seed with the most steps, no merging, no quantiser and no link."""
    latent = denoise(backbone, prompt, seed, max(backbone.config.steps), Clock(), on_step)
    tokens = as_tokens(latent)
    return receiver(tokens, np.arange(len(tokens), dtype=np.int64))


def check_link(link: Link) -> None:
    """Refuse a link that cannot be. Errors: ValueError."""
    if link.kind not in ("none", "analog"):
        raise ValueError(f"the link must be none or analog, got {link.kind!r}")
    if link.kind == "analog":
        analog.noise_variance(link.snr_db)
        rate.achievable_bps(link.snr_db, link.bandwidth_hz)


def decide(backbone: Backbone, steps: int, merge_ratio: float) -> Decision:
    """A checked decision. Errors: ValueError naming what the backbone offers."""
    offered = backbone.config
    if steps not in offered.steps:
        raise ValueError(f"steps must be one of {', '.join(map(str, offered.steps))}, got {steps}")
    merging.merged_count(*offered.grid, merge_ratio)
    return Decision(steps, merge_ratio)
