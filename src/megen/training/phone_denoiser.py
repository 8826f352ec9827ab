"""Trains the phone's denoiser on latents of a backbone's own that crossed the very links it will serve, a set that renews as it learns."""

from __future__ import annotations

import math
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import run_folder
from megen.codec import Prior
from megen.models import phone_denoiser, weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.phone_denoiser import PhoneDenoiser, PhoneDenoiserConfig
from megen.models.placement import bf16_pays, place
from megen.models.restorer import STATES
from megen.provenance import provenance
from megen.scenes import splits
from megen.scenes.captions import caption
from megen.training import loop
from megen.training.backbone import sampled
from megen.training.latents import start_worker
from megen.training.restorer import channel_weight, degraded, optimisers_of
from megen.types import check_number

LATENTS, CHECKPOINT = "own-latents.safetensors", "phone-denoiser.checkpoint.safetensors"
HELD = 64  # latents that are not trained on
HELD_STREAM = 29  # of their links
COARSE_SHARE, SNR_DB = 0.75, (-8.0, 20.0)  # of the quantisers; of analog links: what is milder is the restorer's
LEAST_ERROR = 1e-4  # mean square below which a row's error counts no further
CHUNK = 32  # crossings that a process makes at once
BITS_EVERY = 8  # of so many crossings one is of bits, as it takes as long as 18 of symbols; of a batch's rows every fourth one is
AHEAD = 3  # chunks that each process is ahead


@dataclass(frozen=True)
class PhoneDenoiserRecipe:
    """How the phone's denoiser is trained: so many own latents, and so many crossings of them, the oldest renewed for each step.

    Crossings that are seen often are learned by heart: of 60 times each, the gain was 6.6 dB on them and 5.5 on others.
    """

    steps: int = 6000
    batch: int = 32
    lr: float = 2e-3
    latents: int = 2048
    crossings: int = 2048
    fresh_per_step: int = 16
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crossings", "save_every"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("latents", self.latents, 2 * HELD, whole=True)
        check_number("fresh_per_step", self.fresh_per_step, 0, whole=True)
        check_number("lr", self.lr, 1e-9, 1)
        check_number("seed", self.seed, 0, 2**31 - 1, whole=True)


def own_latents(backbone: EmbeddedBackbone, count: int, seed: int, path: Path, batch: int) -> Float[Tensor, "n c h w"]:
    """Latents of captions of scenes, in the offered numbers of steps by turns; kept in `path`. Errors: InputError on another's file."""
    made_from = f"{backbone.digest}, {count} latents of seed {seed}"
    if path.is_file():
        run_folder.check_same({"made_from": made_from}, {"made_from": weights.about(path).get("made_from")}, str(path))
        return weights.read(path)[0]["latents"]
    parts = []
    for turn, _ in loop.progress(0, -(-count // batch), f"latents of the backbone's own ({batch} each)"):
        numbers = range(turn * batch, min(count, (turn + 1) * batch))
        captions = [caption(splits.scene(seed, i), np.random.default_rng([seed, i])) for i in numbers]
        steps = backbone.config.steps[turn % len(backbone.config.steps)]
        parts.append(sampled(backbone, captions, [seed + i for i in numbers], steps).half().cpu())
    latents = torch.cat(parts).contiguous()
    weights.write_safely({"latents": latents}, path, {"made_from": made_from, **provenance()})
    return latents


@dataclass(frozen=True)
class Crossed:
    """Latents as they arrived [n, c, h, w], how each token was degraded [n, 4, h, w], and which latent each was [n]."""

    z: Tensor
    degradation: Tensor
    of: Tensor

    @staticmethod
    def room(count: int, latents: Tensor) -> Crossed:
        """Memory for so many of them, beside the latents."""
        shape, on = latents.shape[1:], latents.device
        z, state = (torch.empty(count, n, *shape[1:], dtype=torch.half, device=on) for n in (shape[0], STATES))
        return Crossed(z, state, torch.empty(count, dtype=torch.long, device=on))

    def fill(self, first: int, part: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        for column, values in zip((self.z, self.degradation, self.of), part, strict=True):
            column[first : first + len(values)] = torch.from_numpy(values).to(column.device)


_LINKS: list[tuple[Tensor, Prior, int]] = []  # a worker process's own latents, prior and seed, set as it starts


def _start(path: Path, learned: Prior, seed: int) -> None:
    start_worker()
    _LINKS[:] = [(weights.read(path)[0]["latents"], learned, seed)]


def _cross(first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    latents, learned, seed = _LINKS[0]
    rows = [crossing(latents, learned, seed, first + i) for i in range(CHUNK)]
    z, degradation, of = zip(*rows, strict=True)
    return torch.stack(z).half().numpy(), torch.stack(degradation).half().numpy(), np.array(of)


def crossing(latents: Float[Tensor, "n c h w"], learned: Prior, seed: int, number: int) -> tuple[Tensor, Tensor, int]:
    """The crossing of that number, of bits where `BITS_EVERY` divides it: [c, h, w] as it arrived, its degradation, which latent it was."""
    rng = np.random.default_rng([seed, number])
    chosen = int(rng.integers(HELD, len(latents)))
    one, symbols = latents[chosen : chosen + 1].float(), number % BITS_EVERY > 0
    return *degraded(one, learned, rng, COARSE_SHARE, SNR_DB, symbols), chosen


def drawn(room: int, count: int, generator: torch.Generator) -> Tensor:
    """Places of a batch's rows in a pool of so many crossings, a quarter of them of bits."""
    bits = BITS_EVERY * torch.randint(room // BITS_EVERY, (-(-count // 4),), generator=generator)
    symbols = torch.randint(room - room // BITS_EVERY, (count - len(bits),), generator=generator)
    return torch.cat([bits, symbols + symbols // (BITS_EVERY - 1) + 1])


@contextmanager
def crossings(path: Path, latents: Tensor, learned: Prior, recipe: PhoneDenoiserRecipe, workers: int) -> Iterator[Callable[[int], Crossed]]:
    """A pool of crossings whose oldest are renewed: yields the function from a step to the pool as it is then.

    It is that step's, whatever the processes' speed: a step waits for crossings that are late, and a resumed training sees what the
    first one saw.
    """
    spawn, jobs = multiprocessing.get_context("spawn"), deque[Future[tuple[np.ndarray, np.ndarray, np.ndarray]]]()
    room = -(-recipe.crossings // CHUNK)
    held = Crossed.room(room * CHUNK, latents)
    ready = asked = -1

    def chunks(step: int) -> int:
        return room + recipe.fresh_per_step * step // CHUNK

    def at(step: int) -> Crossed:
        nonlocal ready, asked
        wanted = chunks(step)
        if ready < 0:
            ready = asked = wanted - room
        due = range(asked, min(wanted + AHEAD * workers, chunks(recipe.steps)))
        jobs.extend(pool.submit(_cross, k * CHUNK) for k in due)
        asked += len(due)
        for k in range(ready, wanted):
            held.fill(k % room * CHUNK, jobs.popleft().result())
        ready = wanted
        return held

    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start, initargs=(path, learned, recipe.seed)) as pool:
        try:
            yield at
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def train(
    recipe: PhoneDenoiserRecipe,
    backbone: EmbeddedBackbone,
    learned: Prior,
    folder: Path,
    workers: int,
    start: PhoneDenoiser | None = None,
) -> Path:
    """Train (or resume from `folder`) the denoiser of a backbone's phones, or train `start` on; returns the file of its weights.

    The loss is the mean over rows of the logarithm of the squared error, where each channel's counts in units of its quantiser step, as
    it shows in the picture: decibels, so that mild noise counts as much as strong. Errors: InputError on a folder of another recipe.
    """
    device, bf16 = backbone.device, bf16_pays(backbone.device)
    latents = own_latents(backbone, recipe.latents, recipe.seed, folder / LATENTS, max(8, recipe.batch // 2)).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = PhoneDenoiser(start.config if start else PhoneDenoiserConfig(latents.shape[1]))
    begun = ""
    if start:
        model.load_state_dict(start.state_dict())
        begun = weights.digest("", start.state_dict())[:16]
    place(model, device)
    optimisers = optimisers_of(model, recipe.lr, bf16)
    about = {"recipe": asdict(recipe), "config": asdict(model.config), "start": begun, "prior": learned.digest, "backbone": backbone.digest}
    path, done = folder / CHECKPOINT, 0
    if path.is_file():
        done = int(loop.load_checkpoint(path, {"model": model}, optimisers, about)["step"])
    weight = channel_weight(learned).to(device)
    gain = loop.Smoothed()
    with crossings(folder / LATENTS, latents, learned, recipe, workers) as at:
        for step, shown in loop.progress(done, recipe.steps, "phone denoiser"):
            loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, decay_share=0.6))
            pool = at(step)
            rows = drawn(len(pool.of), recipe.batch, loop.step_generator(recipe.seed, step)).to(device)
            z, degradation = (part[rows].float().contiguous(memory_format=torch.channels_last) for part in (pool.z, pool.degradation))
            clean = latents[pool.of[rows]].float()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                cleaned = model(z, degradation)
            error = log_error(cleaned.float(), clean, weight)
            loop.descend(error.mean(), model, optimisers)
            gain.add((log_error(z, clean, weight) - error.detach()).mean())
            if (step + 1) % 50 == 0:
                shown["gain_db"] = gain.read() * 10 / np.log(10)
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                loop.save_checkpoint(path, {"model": model}, optimisers, {"step": step + 1, "recipe": about, **provenance()})
    model.cpu().eval()
    figures = {"held_out_gain_db": held_out_gain_db(model, latents[:HELD].cpu(), learned, recipe.seed)}
    return phone_denoiser.save(model, folder, {"recipe": about, **figures, **provenance()})


@torch.inference_mode()
def held_out_gain_db(model: PhoneDenoiser, latents: Float[Tensor, "n c h w"], learned: Prior, seed: int) -> float:
    """By how much the denoiser lowers the error of latents that it was not trained on, each after one link; mean of decibels."""
    gains, weight = [], channel_weight(learned)
    for i in range(len(latents)):
        clean = latents[i : i + 1].float()
        z, degradation = (
            part[None] for part in degraded(clean, learned, np.random.default_rng([seed, HELD_STREAM, i]), COARSE_SHARE, SNR_DB)
        )
        gains.append(log_error(z, clean, weight) - log_error(model(z, degradation), clean, weight))
    return float(torch.cat(gains).mean()) * 10 / math.log(10)


def log_error(z: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], weight: Float[Tensor, "c 1 1"]) -> Float[Tensor, "b"]:
    """The natural logarithm of each row's weighted mean squared error."""
    return (((z - clean) * weight).square().mean((1, 2, 3)) + LEAST_ERROR).log()
