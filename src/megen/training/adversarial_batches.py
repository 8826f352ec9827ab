"""What a step of the adversarial fine-tuning draws, prepared a few steps ahead, and what its discriminator remembers."""

from __future__ import annotations

import copy
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from megen.models.embedded import EmbeddedBackbone
from megen.models.text import TextEncoder
from megen.scenes.captions import Scene
from megen.scenes.completion import training_caption
from megen.scenes.latent_judge import targets
from megen.training import loop
from megen.training.batches import normalised
from megen.training.discriminator import named
from megen.training.latents import LatentSet, start_worker

NIGHT_WEIGHT = 2.0  # nights without stars are drawn twice as often as they occur
WRITERS = 4  # processes that write captions where a GPU trains: one alone would be slower than the GPU
AHEAD = 3  # batches that each of them is asked for before they are needed


@dataclass
class Batch:
    """True latents, what was asked of them, the noise of the step, and where the rest of its randomness comes from."""

    true: Tensor
    tokens: Tensor
    named: Tensor  # the attributes that each prompt names, as ones in a row
    targets: dict[str, Tensor]  # what it asks of every head of a judge
    noise: Tensor
    generator: torch.Generator
    made: Tensor = field(default_factory=lambda: torch.empty(0))


Written = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]  # tokens, named, targets
_TEXT: list[TextEncoder] = []  # a caption writer's own, set as it starts


def _start_thread(text: TextEncoder) -> None:
    _TEXT[:] = [text]


def _start_process(text: TextEncoder) -> None:
    start_worker()
    _start_thread(text)


def _write(sources: list[Scene | str], rng: np.random.Generator, length: int = 1) -> Written:
    """Captions of scenes, as all that is read of them; tokens are padded at least to `length`."""
    prompts = [source if isinstance(source, str) else training_caption(source, rng) for source in sources]
    return _TEXT[0].tokenise(prompts, length).numpy(), named(prompts).numpy(), {k: v.numpy() for k, v in targets(prompts).items()}


@contextmanager
def _writers(text: TextEncoder, *, processes: bool) -> Iterator[tuple[Executor, int]]:
    """Who writes captions, and how many batches ahead: one thread, or processes."""
    encoder = copy.deepcopy(text).cpu()
    if not processes:
        pool: Executor = ThreadPoolExecutor(1, initializer=_start_thread, initargs=(encoder,))
    else:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(WRITERS, mp_context=spawn, initializer=_start_process, initargs=(encoder,))
    try:
        yield pool, WRITERS * AHEAD if processes else 1
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches(
    start: EmbeddedBackbone, data: Callable[[int], LatentSet], size: int, steps: range, device: torch.device, *, alone: int, seed: int
) -> Iterator[Batch]:
    """A batch for each of `steps`, decided by seed and step alone; `data(step)` is the set that it is drawn from.

    Steps before 0, `alone` of them, are the discriminator's own. On a GPU all captions are padded to one length.
    """
    length = 1 if device.type == "cpu" else start.config.text.max_words
    latents, chance = LatentSet(torch.empty(0, 1, 1, 1), ()), np.empty(0)

    def asked(step: int) -> tuple[LatentSet, np.ndarray, Future[Written]]:
        nonlocal latents, chance
        if (newer := data(max(step, 0))) is not latents:
            dark = [isinstance(s, Scene) and s.time == "night" and s.stars != "stars" for s in newer.sources]
            latents, weight = newer, np.where(dark, NIGHT_WEIGHT, 1.0)
            chance = weight / weight.sum()
        rng = np.random.default_rng([seed, 17, step + alone])
        index = rng.choice(len(latents), size, p=chance)
        return latents, index, pool.submit(_write, [latents.sources[i] for i in index], rng, length)

    with _writers(start.text, processes=device.type != "cpu") as (pool, ahead):
        coming = deque(asked(step) for step in steps[:ahead])
        for step in steps:
            of, index, writing = coming.popleft()
            if step + ahead in steps:
                coming.append(asked(step + ahead))
            tokens, names, wanted = writing.result()
            generator = loop.step_generator(seed, step + alone, device)
            rows = of.latents[torch.from_numpy(index).to(of.latents.device)]
            true = normalised(rows, start.latent_mean, start.latent_scale, device)
            noise = torch.randn(true.shape, generator=generator, device=device)
            yield Batch(
                true,
                torch.from_numpy(tokens).to(device),
                torch.from_numpy(names).to(device),
                {k: torch.from_numpy(v).to(device) for k, v in wanted.items()},
                noise.contiguous(memory_format=torch.channels_last),
                generator,
            )


class Memory:
    """True latents, made ones and what was asked, of the last batches; it is not kept in checkpoints."""

    def __init__(self, batches: int) -> None:
        self._most, self._batches, self._held = batches, 0, (torch.empty(0),) * 3

    def add(self, batch: Batch) -> None:
        """Remember a batch in the place of the oldest."""
        parts, n = (batch.true, batch.made, batch.named), len(batch.true)
        if not self._batches:
            self._held = tuple(part.new_empty(self._most * n, *part.shape[1:]) for part in parts)  # type: ignore[assignment]
        first = self._batches % self._most * n
        for room, part in zip(self._held, parts, strict=True):
            room[first : first + n] = part
        self._batches += 1

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of any of the remembered batches."""
        filled = min(self._batches, self._most) * (len(self._held[0]) // self._most)
        index = torch.randint(filled, (rows,), generator=generator, device=generator.device)
        true, made, named = (part[index] for part in self._held)
        return true, made, named
