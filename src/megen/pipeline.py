"""The whole way of one image: prompt, denoise, merge, code, link, decode bits, unmerge, decode image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import codec, merging
from megen.channel import analog, digital, fading
from megen.diffusion import path
from megen.models.backbone import Backbone
from megen.models.identity import identity
from megen.types import Decision, FloatArray, Payload
from megen.ue import Arrival, Receiver, Symbols, arrive, unharmed

DEPTH = 20  # quarter bits of the quantiser: 5 bits over eight standard deviations


Walk = Callable[[path.Velocity, Tensor, Sequence[float]], Iterator[Tensor]]


class NotDeliveredError(RuntimeError):
    """The link lost what no receiver can do without, after `latency_s` on the air."""

    def __init__(self, message: str, latency_s: float) -> None:
        super().__init__(message)
        self.latency_s = latency_s


@dataclass(frozen=True)
class Link:
    """The link of one transmission; without noise and time where `kind` is "none".

    The receiver knows the channel's gains, the sender those of `csi_delay_s` before.
    """

    kind: str = "none"
    snr_db: float = 10.0
    bandwidth_hz: float = 1e6
    fading: str = "awgn"
    speed_m_s: float = 1.0
    carrier_hz: float = 3.5e9
    csi_delay_s: float = 4e-3
    trace: tuple[fading.Array, fading.Array] | None = None  # times in s and SNRs in dB that stand for all of the above

    def gain(self, rng: np.random.Generator) -> fading.Gain:
        """The channel's gain over time relative to `snr_db`."""
        if self.trace is not None:
            recorded = self.trace
            return lambda time_s: (10 ** ((fading.snr_at(recorded, time_s) - self.snr_db) / 20)).astype(np.complex128)
        return fading.gain_of(self.fading, fading.doppler_hz(self.speed_m_s, self.carrier_hz), rng)

    def check(self) -> None:
        """Refuse a link that cannot be. Errors: ValueError."""
        if self.kind not in ("none", "analog", "digital"):
            raise ValueError(f"the link must be none, analog or digital, got {self.kind!r}")
        analog.noise_variance(self.snr_db)
        self.gain(np.random.default_rng(0))
        if not (self.bandwidth_hz > 0 and np.isfinite(self.bandwidth_hz)):
            raise ValueError(f"bandwidth_hz must be positive, got {self.bandwidth_hz}")


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
    """The received image [H, W, 3] in bytes, what crossed the link, and how."""

    image: np.ndarray
    payload: Payload
    symbols: int = 0
    transmit_s: float = 0.0
    attempts: float = 1.0  # mean over the transport blocks
    parts_lost: int = 0
    parts: int = 0
    olla_db: float = 0.0


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
    on_step: Callable[[int], object] = lambda done: None,
    guidance: float | None = None,
    walk: Walk = path.walk,
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
        grid = path.times(steps, backbone.config.time_shift)
        for done, z in enumerate(walk(lambda z, s, t: backbone.velocity(z, s, t, context, strength), noise, grid), 1):  # noqa: B007
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
    depth: int = DEPTH,
    bits_budget: int | None = None,
    olla_db: float = 0.0,
) -> Result:
    """Merge and code at the ES, cross the link, decode bits and image at the UE.

    `depth` is the quantiser's in quarter bits, or the greatest that fits `bits_budget`; `olla_db` is the outer loop's
    offset that the last transmission left. Errors: NotDeliveredError where header, map or base were lost;
    ValueError where the budget is too small.
    """
    _, channels, height, width = latent.shape
    with clock.stage("merge"):
        tokens = as_tokens(latent)
        choice = merging.match(tokens, height, width, merge_ratio)
        mapping = merging.merge_map(choice, height, width)
        rows, counts = merging.merge(tokens, mapping)
    with clock.stage("code"):
        header = codec.Header(height, width, channels, len(rows), receiver.identity)
        if link.kind == "analog":
            gains = analog.row_gains(counts)
            symbols, amplitude = analog.modulate(rows, gains)
            payload = codec.encode(rows, choice, mapping, replace(header, amplitude=amplitude), receiver.prior)
        elif bits_budget is not None:
            payload = codec.encode_within(bits_budget, rows, choice, mapping, header, receiver.prior)
        else:
            payload = codec.encode(rows, choice, mapping, replace(header, depth=depth), receiver.prior)
    crossed, equalised, told = payload, None, Result(np.empty(0), payload)
    if link.kind != "none":
        gain = link.gain(rng)
        crossed, told = cross(payload, link, gain, rng, olla_db)
    if link.kind == "analog":
        start = told.transmit_s
        equalised = _cross_analog(symbols, link, gain, start, rng)
        airtime = len(symbols) / link.bandwidth_hz / (1 - digital.OVERHEAD)
        told = replace(told, symbols=len(symbols), transmit_s=start + airtime)
    with clock.stage("decode"):
        image = receiver(arrive(crossed, receiver, equalised))
    return replace(told, image=image, payload=payload)


def cross(payload: Payload, link: Link, gain: fading.Gain, rng: np.random.Generator, olla_db: float = 0.0) -> tuple[Payload, Result]:
    """A payload's bits over the digital link: what arrives (a lost feature part is empty), and a result without an image.

    Errors: NotDeliveredError where header, map or base were lost.
    """

    def snr_db(time_s: np.ndarray) -> np.ndarray:
        power = np.maximum(np.abs(gain(time_s)) ** 2, 1e-12)
        return np.asarray(link.snr_db + 10 * np.log10(power))

    protected = 8 * (len(payload.header) + len(payload.merge_map))
    bits = [protected, *(8 * len(part) for part in payload.features)]
    present = [i for i, n in enumerate(bits) if n]  # a part without tokens has no block
    targets = codec.protection(payload.features)
    got = digital.transmit(
        [bits[i] for i in present],
        [targets[i] for i in present],
        snr_db,
        lambda time_s: float(snr_db(np.array([time_s - link.csi_delay_s]))[0]),
        link.bandwidth_hz,
        rng,
        olla_db,
    )
    lost = {i for i, arrived in zip(present, got.delivered, strict=True) if not arrived}
    told = Result(np.empty(0), payload, 0, got.latency_s, float(np.mean(got.attempts)), len(lost), len(present), got.olla_db)
    if lost & {0, 1}:
        what = "the header" if 0 in lost else "the base of the features"
        raise NotDeliveredError(
            f"the link lost {what} {digital.MAX_ATTEMPTS} times at {link.snr_db:g} dB: send it again, or nearer", got.latency_s
        )
    return replace(payload, features=tuple(b"" if i in lost else part for i, part in enumerate(payload.features, 1))), told


def _cross_analog(symbols: analog.ComplexArray, link: Link, gain: fading.Gain, start_s: float, rng: np.random.Generator) -> Symbols:
    a_slot = max(1, int(link.bandwidth_hz * digital.SLOT_S * (1 - digital.OVERHEAD)))
    slot = np.arange(-(-len(symbols) // a_slot), dtype=np.float64)
    gains = np.repeat(gain(start_s + slot * digital.SLOT_S), a_slot)[: len(symbols)]
    no = analog.noise_variance(link.snr_db)
    return Symbols(*analog.equalise(analog.transmit(symbols, gains, no, rng), gains, no))


class TorchReceiver:
    """The UE half in torch: the reference that the exported graph must equal."""

    def __init__(self, backbone: Backbone, prior: codec.Prior) -> None:
        self._backbone, self.prior, self.identity = backbone, prior, identity(backbone, prior.digest)

    @torch.inference_mode()
    def __call__(self, arrival: Arrival) -> np.ndarray:
        channels, height, width = self._backbone.latent_shape
        device = self._backbone.latent_mean.device
        tokens = torch.from_numpy(merging.unmerge(arrival.rows, arrival.mapping)).to(device).T.reshape(1, channels, height, width)
        state = torch.from_numpy(arrival.state).to(device).T.reshape(1, -1, height, width)
        image = self._backbone.decode_latents(self._backbone.restorer(tokens, state))
        pixels: np.ndarray = (image[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
        return pixels


def reference(
    backbone: Backbone, prompt: str, seed: int, receiver: Receiver, on_step: Callable[[int], object] = lambda done: None
) -> np.ndarray:
    """The image of the same seed with the most steps, no merging, no quantiser and no link."""
    tokens = as_tokens(denoise(backbone, [prompt], [seed], max(backbone.config.steps), Clock(), on_step))
    return receiver(unharmed(tokens))


def decide(backbone: Backbone, steps: int, merge_ratio: float) -> Decision:
    """A checked decision. Errors: ValueError naming what the backbone offers."""
    offered = backbone.config
    if steps not in offered.steps:
        raise ValueError(f"steps must be one of {', '.join(map(str, offered.steps))}, got {steps}")
    merging.merged_count(*offered.grid, merge_ratio)
    return Decision(steps, merge_ratio)
