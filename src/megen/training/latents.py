"""Cached latents with what is needed to caption them: from scenes, or from a folder of pictures."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen.models import weights
from megen.models.autoencoder import Autoencoder
from megen.provenance import provenance
from megen.scenes.captions import HELD_OUT, Scene, caption
from megen.scenes.render import render
from megen.scenes.splits import scene
from megen.training import loop, pictures
from megen.training.pictures import Captioned
from megen.types import InputError

SHARD, PART = 256, 16
AHEAD = 2  # shards that each of the background's processes renders before they are asked for
GPU_WORKERS = 6  # processes that share a GPU: drawing a scene is many small kernels, and Python launches them


@dataclass(frozen=True)
class LatentSet:
    """Latents [n, c, h, w] (half precision) and the scene or the caption of each."""

    latents: Float[Tensor, "n c h w"]
    sources: tuple[Scene | str, ...]

    def caption(self, index: int, rng: np.random.Generator) -> str:
        source = self.sources[index]
        return source if isinstance(source, str) else caption(source, rng)

    def __len__(self) -> int:
        return len(self.sources)


_ENCODER: list[tuple[Autoencoder, torch.device]] = []  # a worker process's own, set as it starts


@torch.inference_mode()
def _encode_scenes(autoencoder: Autoencoder, scenes: Sequence[Scene], size_px: int, device: torch.device) -> Tensor:
    pairs = (scenes[i : i + 2] for i in range(0, len(scenes), 2))
    return torch.cat([autoencoder.encoder(render(pair, size_px, device)).half().cpu() for pair in pairs])


def start_worker() -> None:
    """What each process of a pool begins with: one thread, no interruption of its own, and an end with its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's to answer
    threading.Thread(target=_outlive_no_parent, daemon=True).start()
    torch.set_num_threads(1)


def _start_renderer(autoencoder: Autoencoder, device: torch.device) -> None:
    start_worker()
    _ENCODER[:] = [(autoencoder.to(device), device)]


def _outlive_no_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _worker(task: tuple[int, int, int, int]) -> np.ndarray:
    seed, first, count, size_px = task
    autoencoder, device = _ENCODER[0]
    return np.asarray(_encode_scenes(autoencoder, [scene(seed, first + i) for i in range(count)], size_px, device))


def _source(seed: int, size_px: int) -> str:
    return f"scenes of seed {seed} at {size_px} px, held out {sorted(HELD_OUT)}"


def cache_scenes(autoencoder: Autoencoder, seed: int, count: int, size_px: int, folder: Path, device: torch.device, workers: int) -> None:
    """Render and encode `count` scenes into shards of `folder`; shards of this encoder and world are kept."""
    made_from = _made_from(autoencoder, _source(seed, size_px))
    missing = _missing(folder, range((count + SHARD - 1) // SHARD), made_from)
    if not missing:
        return
    encoder = copy.deepcopy(autoencoder).cpu().eval()
    tasks = [(seed, i * SHARD + k, PART, size_px) for i in missing for k in range(0, SHARD, PART)]
    on_cpu = device.type == "cpu"
    start = multiprocessing.get_context("fork" if on_cpu else "spawn")  # forks share the encoder's memory, but cannot use a GPU
    n = min(workers, len(tasks)) if on_cpu else min(workers, GPU_WORKERS, len(missing))
    with ProcessPoolExecutor(n, mp_context=start, initializer=_start_renderer, initargs=(encoder, device)) as pool:
        try:
            _write_shards(pool.map(_worker, tasks), missing, seed, folder, made_from)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def growing_scenes(
    autoencoder: Autoencoder,
    seed: int,
    count: int,
    per_step: int,
    size_px: int,
    folder: Path,
    *,
    device: torch.device,
    workers: int,
) -> Iterator[Callable[[int], LatentSet]]:
    """A set of scenes that grows as it is trained on: yields the function from a step to its set.

    Step k has `count` scenes and `per_step` more for each step before it, in whole shards, whatever the
    renderers' speed: a resumed training sees what the first one saw. Background processes render a few
    shards ahead on the CPU, and a step waits for a shard that is late. The latents lie on `device`.
    """
    cache_scenes(autoencoder, seed, count, size_px, folder, device, workers)
    latents, ready = load(folder, count), (count + SHARD - 1) // SHARD
    data = LatentSet(latents.latents.to(device), latents.sources)
    if not per_step:
        yield lambda step: data
        return
    made_from = _made_from(autoencoder, _source(seed, size_px))
    encoder = copy.deepcopy(autoencoder).cpu().eval()
    jobs: deque[Future[None]] = deque()
    spawn = multiprocessing.get_context("spawn")  # no fork: this process has threads by now

    n = max(1, workers - 1)
    room = data.latents  # what the latents lie in: more than they need, so that adding a shard copies only that

    def at(step: int) -> LatentSet:
        nonlocal data, ready, room
        wanted = (count + per_step * step) // SHARD
        if wanted + AHEAD * n > ready + len(jobs):
            due = range(ready + len(jobs), wanted + AHEAD * n)
            jobs.extend(pool.submit(_write_one, seed, i, size_px, folder, made_from) for i in due)
        fresh = []
        while ready < wanted:
            jobs.popleft().result()
            fresh.append(_shard(folder, ready))
            ready += 1
        if fresh:
            held, size = len(data), len(data) + SHARD * len(fresh)
            if size > len(room):
                room = torch.empty(2 * size, *room.shape[1:], dtype=room.dtype, device=room.device)
                room[:held] = data.latents
            room[held:size] = torch.cat([part.latents for part in fresh]).to(room.device)
            data = LatentSet(room[:size], data.sources + tuple(s for part in fresh for s in part.sources))
        return data

    with ProcessPoolExecutor(n, mp_context=spawn, initializer=_start_renderer, initargs=(encoder, torch.device("cpu"))) as pool:
        try:
            yield at
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_one(seed: int, index: int, size_px: int, folder: Path, made_from: str) -> None:
    if _missing(folder, [index], made_from):
        parts = (_worker((seed, index * SHARD + k, PART, size_px)) for k in range(0, SHARD, PART))
        _write_shard(parts, index, seed, folder, made_from)


def _made_from(autoencoder: Autoencoder, source: str) -> str:
    """What latents depend on: the encoder's weights and the source of the pictures, as one hash."""
    return weights.digest(source, autoencoder.encoder.state_dict())


def _missing(folder: Path, shards: Iterable[int], made_from: str) -> list[int]:
    """Which of the shards are still to be written. Errors: InputError where one is of another encoder or world."""
    missing = []
    for i in shards:
        path = folder / f"latents-{i:05d}.safetensors"
        if not path.is_file():
            missing.append(i)
        elif weights.about(path).get("made_from") != made_from:
            raise InputError(f"{path} was made from another encoder or world: remove {folder}, or train into another folder")
    return missing


def _write_shards(parts: Iterator[np.ndarray], missing: Sequence[int], seed: int, folder: Path, made_from: str) -> None:
    for k, _ in loop.progress(0, len(missing), f"latents ({SHARD} a shard)"):
        _write_shard(parts, missing[k], seed, folder, made_from)


def _write_shard(parts: Iterator[np.ndarray], index: int, seed: int, folder: Path, made_from: str) -> None:
    latents = np.concatenate([next(parts) for _ in range(SHARD // PART)])
    sources = [asdict(scene(seed, index * SHARD + i)) for i in range(SHARD)]
    about = {"scenes": sources, "made_from": made_from, **provenance()}
    weights.write_safely({"latents": torch.from_numpy(latents)}, folder / f"latents-{index:05d}.safetensors", about)


def cache_pictures(autoencoder: Autoencoder, entries: Sequence[Captioned], size_px: int, folder: Path, device: torch.device) -> None:
    """Encode pictures into shards of `folder`; a shard is kept where encoder, captions and the files' contents are what made it."""
    autoencoder.to(device).eval()
    encoder = _made_from(autoencoder, f"pictures at {size_px} px")
    parts = [entries[i : i + SHARD] for i in range(0, len(entries), SHARD)]
    missing = []
    for k, part in enumerate(parts):
        path, made_from = folder / f"latents-{k:05d}.safetensors", f"{encoder} {pictures.digest(part)}"
        if not path.is_file() or weights.about(path).get("made_from") != made_from:
            missing.append((path, part, made_from))
    for k, _ in loop.progress(0, len(missing), f"latents ({SHARD} a shard)"):
        path, part, made_from = missing[k]
        with torch.inference_mode():
            images = (pictures.load_picture(entry.path, size_px)[None].to(device).float() / 255 for entry in part)
            encoded = torch.cat([autoencoder.encoder(image).half().cpu() for image in images])
        about = {"captions": [entry.caption for entry in part], "made_from": made_from, **provenance()}
        weights.write_safely({"latents": encoded}, path, about)


def load(folder: Path, count: int) -> LatentSet:
    """The first `count` latents of a folder. Errors: weights.WeightsError."""
    parts = [_shard(folder, i) for i in range((count + SHARD - 1) // SHARD)]
    sources = tuple(s for part in parts for s in part.sources)
    return LatentSet(torch.cat([part.latents for part in parts])[:count], sources[:count])


def _shard(folder: Path, index: int) -> LatentSet:
    tensors, about = weights.read(folder / f"latents-{index:05d}.safetensors")
    sources = [Scene(**s) for s in about["scenes"]] if "scenes" in about else about["captions"]
    return LatentSet(tensors["latents"], tuple(sources))
