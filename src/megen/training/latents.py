"""Cached latents with what is needed to caption them: from scenes, or from a folder of pictures."""

from __future__ import annotations

import json
import multiprocessing
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
from megen.training.scenes import Scene, caption, sample_scene

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


_ENCODER: list[Autoencoder] = []  # set before the worker processes fork, so that they share it


@torch.inference_mode()
def _encode_scenes(scenes: Sequence[Scene], device: torch.device) -> Tensor:
    return torch.cat([_ENCODER[0].encoder(render(scenes[i : i + 2], device=device)).half().cpu() for i in range(0, len(scenes), 2)])


def _worker(task: tuple[int, int, int]) -> np.ndarray:
    torch.set_num_threads(1)
    seed, first, count = task
    return np.asarray(_encode_scenes([scene(seed, first + i) for i in range(count)], torch.device("cpu")))


def cache_scenes(autoencoder: Autoencoder, seed: int, count: int, folder: Path, device: torch.device, workers: int) -> None:
    """Render and encode `count` scenes into shards of `folder`; shards that exist are kept."""
    shards = range((count + SHARD - 1) // SHARD)
    missing = [i for i in shards if not (folder / f"latents-{i:05d}.safetensors").is_file()]
    if not missing:
        return
    _ENCODER[:] = [autoencoder.to(device).eval()]
    step = 16
    tasks = [(seed, i * SHARD + k, step) for i in missing for k in range(0, SHARD, step)]
    if device.type == "cpu":
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            _write_shards(pool.map(_worker, tasks), missing, seed, step, folder)
    else:
        parts = (np.asarray(_encode_scenes([scene(s, first + i) for i in range(n)], device)) for s, first, n in tasks)
        _write_shards(parts, missing, seed, step, folder)


def _write_shards(parts: Iterator[np.ndarray], missing: Sequence[int], seed: int, step: int, folder: Path) -> None:
    for k, _ in loop.progress(0, len(missing), f"latents ({SHARD} a shard)"):
        latents = np.concatenate([next(parts) for _ in range(SHARD // step)])
        sources = [asdict(scene(seed, missing[k] * SHARD + i)) for i in range(SHARD)]
        about = {"scenes": sources, **weights.provenance()}
        weights.write_safely({"latents": torch.from_numpy(latents)}, folder / f"latents-{missing[k]:05d}.safetensors", about)


def cache_folder(autoencoder: Autoencoder, pictures: Path, size_px: int, folder: Path, device: torch.device) -> None:
    """Encode a folder of pictures with `metadata.jsonl` captions (Hugging Face imagefolder layout)."""
    entries = read_captions(pictures)
    autoencoder.to(device).eval()
    shards = range((len(entries) + SHARD - 1) // SHARD)
    for i, _ in loop.progress(0, len(shards), f"latents ({SHARD} a shard)"):
        path, part = folder / f"latents-{i:05d}.safetensors", entries[i * SHARD : (i + 1) * SHARD]
        if path.is_file():
            continue
        with torch.inference_mode():
            encoded = [autoencoder.encoder(load_picture(p, size_px)[None].to(device).float() / 255).half().cpu() for p, _ in part]
        weights.write_safely({"latents": torch.cat(encoded)}, path, {"captions": [c for _, c in part], **weights.provenance()})


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
    except OSError as error:
        raise ValueError(f"{path} is not a readable picture ({error})") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def load(folder: Path) -> LatentSet:
    """All shards of a folder, in order. Errors: weights.WeightsError, ValueError where there are none."""
    paths = sorted(folder.glob("latents-*.safetensors"))
    if not paths:
        raise ValueError(f"no latents in {folder}")
    parts: list[Tensor] = []
    sources: list[Scene | str] = []
    for path in paths:
        tensors, about = weights.read(path)
        parts.append(tensors["latents"])
        sources += [Scene(**s) for s in about["scenes"]] if "scenes" in about else about["captions"]
    return LatentSet(torch.cat(parts), tuple(sources))
