"""What a receiver is trained on: latents of a backbone, and what its own decoder shows of them undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from megen.backbone import Backbone
from megen.diffusion import denoise
from megen.errors import InputError
from megen.models import weights
from megen.scenes import splits
from megen.scenes.captions import caption
from megen.scenes.render import render
from megen.training import loop
from megen.training.pictures import Captioned, load_picture

SHARD = 8  # examples a file


class Teacher(Backbone, Protocol):
    """A backbone with an encoder."""

    def encode_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]: ...


@dataclass(frozen=True)
class Examples:
    """Latents, and the pictures in bytes that the backbone's own decoder makes of them, or of those of most steps."""

    latents: Float[Tensor, "n c h w"]
    pictures: UInt8[Tensor, "n 3 H W"]


Source = Callable[[int], tuple[Tensor, Tensor]]  # the latent that is sent of an index, and that of the picture to be shown


def of_pictures(teacher: Teacher, entries: Sequence[Captioned]) -> Source:
    """The latents of a folder's pictures."""
    _check_encoder(teacher)

    def example(index: int) -> tuple[Tensor, Tensor]:
        side = teacher.spec.image_px[0]
        picture = load_picture(entries[index % len(entries)].path, side)[None].float() / 255
        latent = teacher.encode_images(picture.to(teacher.device))
        return latent, latent

    return example


def of_scenes(teacher: Teacher, seed: int) -> Source:
    """The latents of rendered scenes."""
    _check_encoder(teacher)

    def example(index: int) -> tuple[Tensor, Tensor]:
        picture = render([splits.scene(seed, index)], teacher.spec.image_px[0])
        latent = teacher.encode_images(picture.to(teacher.device))
        return latent, latent

    return example


def of_samples(backbone: Backbone, prompts: Sequence[str], seed: int) -> Source:
    """Latents that the backbone makes in a random number of steps; shown is the one of the same seed in most steps.

    Where steps draw noise of their own, that would be another picture: then the latent itself is shown.
    """
    offered = backbone.spec.steps

    def example(index: int) -> tuple[Tensor, Tensor]:
        drawn = torch.Generator().manual_seed(1_000_003 * seed + index)
        steps = offered[int(torch.randint(len(offered), (), generator=drawn))]
        condition = backbone.condition([prompts[index % len(prompts)]])
        sent = denoise.sample(backbone, condition, [seed + index], backbone.spec.times[steps])
        if backbone.spec.stochastic or backbone.spec.refines:
            return sent, sent
        return sent, denoise.sample(backbone, condition, [seed + index], backbone.spec.times[max(offered)])

    return example


def scene_prompts(seed: int, count: int) -> list[str]:
    """Captions of scenes: prompts where nobody gives others."""
    import numpy as np

    return [caption(splits.scene(seed, i), np.random.default_rng([seed, i])) for i in range(count)]


def _check_encoder(teacher: object) -> None:
    if not hasattr(teacher, "encode_images"):
        raise InputError("this backbone has no encoder for pictures: train on its samples")


def collect(backbone: Backbone, source: Source, count: int, folder: Path, made_from: str) -> Examples:
    """`count` examples, kept in `folder` by eights so that an interrupted run goes on. Errors: InputError on files of another source."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first, shown in loop.progress(0, -(-count // SHARD), "examples"):
        path = folder / f"examples-{first:05d}.safetensors"
        if path.is_file():
            tensors, about = weights.read(path)
            if about.get("made_from") != made_from:
                raise InputError(f"{path} holds examples of another source: train into another folder, or remove it")
        else:
            tensors = {}
        wanted = range(first * SHARD, min(count, (first + 1) * SHARD))
        if not tensors or len(tensors["latents"]) < len(wanted):  # the last shard of a smaller run is short
            tensors = _made(backbone, source, wanted)
            weights.write_safely(tensors, path, {"made_from": made_from})
        parts.append(tensors)
        shown["of"] = float(count)
    latents, pictures = (torch.cat([part[name] for part in parts])[:count] for name in ("latents", "pictures"))
    return Examples(latents.float(), pictures)


@torch.inference_mode()
def _made(backbone: Backbone, source: Source, indices: range) -> dict[str, Tensor]:
    rows: list[tuple[Tensor, Tensor]] = []
    for index in indices:
        sent, shown = source(index)
        rows.append((sent.float().cpu(), (backbone.decode(shown).clamp(0, 1) * 255).round().byte().cpu()))
    latents, pictures = (torch.cat(column) for column in zip(*rows, strict=True))
    return {"latents": latents.contiguous(), "pictures": pictures.contiguous()}
