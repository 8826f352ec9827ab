"""Cached latents with what is needed to caption them: from scenes, or from a folder of pictures."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from megen.models import weights
from megen.models.autoencoder import PATCH, Autoencoder
from megen.training import loop
from megen.training.render import render
from megen.training.scenes import HELD_OUT, Scene, caption, sample_scene

SHARD = 256


def scene(seed: int, index: int, *, unseen: bool = False) -> Scene:
    """The scene of an index: train, validation and test sets are told apart by their seed."""
    return sample_scene(np.random.default_rng([seed, index]), unseen=unseen)


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


_ENCODER: list[Autoencoder] = []  # a worker process's own, set as it starts


@torch.inference_mode()
def _encode_scenes(autoencoder: Autoencoder, scenes: Sequence[Scene], device: torch.device) -> Tensor:
    return torch.cat([autoencoder.encoder(render(scenes[i : i + 2], device=device)).half().cpu() for i in range(0, len(scenes), 2)])


def _start_worker(autoencoder: Autoencoder) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's to answer
    torch.set_num_threads(1)
    _ENCODER[:] = [autoencoder]


def _worker(task: tuple[int, int, int]) -> np.ndarray:
    seed, first, count = task
    return np.asarray(_encode_scenes(_ENCODER[0], [scene(seed, first + i) for i in range(count)], torch.device("cpu")))


def cache_scenes(autoencoder: Autoencoder, seed: int, count: int, folder: Path, device: torch.device, workers: int) -> None:
    """Render and encode `count` scenes into shards of `folder`; shards of this encoder and world are kept."""
    made_from = _made_from(autoencoder, f"scenes of seed {seed}, held out {sorted(HELD_OUT)}")
    missing = _missing(folder, count, made_from)
    if not missing:
        return
    autoencoder = autoencoder.to(device).eval()
    step = 16
    tasks = [(seed, i * SHARD + k, step) for i in missing for k in range(0, SHARD, step)]
    if device.type == "cpu":
        fork = multiprocessing.get_context("fork")  # the workers share the encoder's memory
        with ProcessPoolExecutor(workers, mp_context=fork, initializer=_start_worker, initargs=(autoencoder,)) as pool:
            try:
                _write_shards(pool.map(_worker, tasks), missing, seed, step, folder, made_from)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    else:
        parts = (np.asarray(_encode_scenes(autoencoder, [scene(s, first + i) for i in range(n)], device)) for s, first, n in tasks)
        _write_shards(parts, missing, seed, step, folder, made_from)


def _made_from(autoencoder: Autoencoder, source: str) -> str:
    """What latents depend on: the encoder's weights and the source of the pictures, as one hash."""
    digest = hashlib.sha256(source.encode())
    for _, tensor in sorted(autoencoder.encoder.state_dict().items()):
        digest.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _missing(folder: Path, count: int, made_from: str) -> list[int]:
    """The shards still to be written. Errors: ValueError where one is of another encoder or other pictures."""
    missing = []
    for i in range((count + SHARD - 1) // SHARD):
        path = folder / f"latents-{i:05d}.safetensors"
        if not path.is_file():
            missing.append(i)
        elif weights.read(path)[1].get("made_from") != made_from:
            raise ValueError(f"{path} was made from another encoder or other pictures: remove {folder}, or train into another folder")
    return missing


def _write_shards(parts: Iterator[np.ndarray], missing: Sequence[int], seed: int, step: int, folder: Path, made_from: str) -> None:
    for k, _ in loop.progress(0, len(missing), f"latents ({SHARD} a shard)"):
        latents = np.concatenate([next(parts) for _ in range(SHARD // step)])
        sources = [asdict(scene(seed, missing[k] * SHARD + i)) for i in range(SHARD)]
        about = {"scenes": sources, "made_from": made_from, **weights.provenance()}
        weights.write_safely({"latents": torch.from_numpy(latents)}, folder / f"latents-{missing[k]:05d}.safetensors", about)


def cache_folder(autoencoder: Autoencoder, pictures: Path, size_px: int, folder: Path, device: torch.device) -> None:
    """Encode a folder of pictures with `metadata.jsonl` captions (Hugging Face imagefolder layout)."""
    entries = read_captions(pictures)
    autoencoder.to(device).eval()
    made_from = _made_from(autoencoder, f"{size_px} px, " + repr([(p.name, p.stat().st_size, c) for p, c in entries]))
    missing = _missing(folder, len(entries), made_from)
    for k, _ in loop.progress(0, len(missing), f"latents ({SHARD} a shard)"):
        path, part = folder / f"latents-{missing[k]:05d}.safetensors", entries[missing[k] * SHARD : (missing[k] + 1) * SHARD]
        with torch.inference_mode():
            encoded = [autoencoder.encoder(load_picture(p, size_px)[None].to(device).float() / 255).half().cpu() for p, _ in part]
        about = {"captions": [c for _, c in part], "made_from": made_from, **weights.provenance()}
        weights.write_safely({"latents": torch.cat(encoded)}, path, about)


def read_captions(pictures: Path) -> list[tuple[Path, str]]:
    """Picture paths and captions from `metadata.jsonl` (`file_name`, `text`).

    Errors: ValueError with the line that is wrong.
    """
    listing = pictures / "metadata.jsonl"
    if not listing.is_file():
        raise ValueError(f'{pictures} has no metadata.jsonl: write one line a picture, {{"file_name": ..., "text": ...}}')
    entries = []
    for number, line in enumerate(listing.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            path, text = pictures / entry["file_name"], str(entry["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{listing}:{number}: each line needs file_name and text ({error})") from error
        if not path.is_file():
            raise ValueError(f"{listing}:{number}: no picture at {path}")
        entries.append((path, text))
    if not entries:
        raise ValueError(f"{listing} names no pictures")
    return entries


def load_picture(path: Path, size_px: int) -> Tensor:
    """One picture as bytes [3, size_px, size_px]: centre square, resized. Errors: ValueError."""
    if size_px % PATCH:
        raise ValueError(f"the picture size must be a multiple of {PATCH} px, got {size_px}")
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except Exception as error:  # Pillow raises a class of its own for each kind of damage
        raise ValueError(f"{path} is not a readable picture ({error})") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def load(folder: Path, count: int) -> LatentSet:
    """The first `count` latents of a folder. Errors: weights.WeightsError."""
    paths = [folder / f"latents-{i:05d}.safetensors" for i in range((count + SHARD - 1) // SHARD)]
    parts: list[Tensor] = []
    sources: list[Scene | str] = []
    for path in paths:
        tensors, about = weights.read(path)
        parts.append(tensors["latents"])
        sources += [Scene(**s) for s in about["scenes"]] if "scenes" in about else about["captions"]
    return LatentSet(torch.cat(parts)[:count], tuple(sources[:count]))
