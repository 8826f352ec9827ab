"""What is kept of a set of pictures: made part by part, each part a file that outlives an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from megen.errors import InputError
from megen.files import read_npz, write_npz
from megen.scenes import judge
from megen.scenes.judge import Classifier

FORMAT = "megen-pictures/2"
SHOWN = 6  # first pictures that a contact sheet shows


@dataclass(frozen=True)
class Pictures:
    """The judge's features, what it sees, and small copies; of made pictures their latents, and more figures of each by name."""

    features: Float[Tensor, "n 256"]
    seen: tuple[dict[str, str], ...]
    small: Float[Tensor, "k 3 256 256"]
    latents: Float[Tensor, "n c h w"] | None = None
    octaves: Float[Tensor, "m 4"] | None = None  # of the first ones
    strong_edges: Float[Tensor, " m"] | None = None  # of these, the share of pixels
    teacher_db: Float[Tensor, " n"] | None = None  # PSNR to the teacher's picture of the same noise


@torch.inference_mode()
def judged(model: Classifier, images: Float[Tensor, "b 3 h w"], first: int) -> Pictures:
    """Pictures in [0, 1], of which the first is the set's number `first`, to what is kept of them."""
    shown = images[: max(0, SHOWN - first)]
    small = F.interpolate(shown, size=(256, 256), mode="area") if len(shown) else images.new_zeros(0, 3, 256, 256)
    return Pictures(model.features(judge.prepared(images)).float().cpu(), tuple(judge.predict(model, images)), small.half().cpu())


def joined(parts: Sequence[Pictures]) -> Pictures:
    """One set of several, in order."""

    def cat(name: str) -> Tensor | None:
        of = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        return torch.cat(of) if of else None

    features, small = cat("features"), cat("small")
    assert features is not None
    assert small is not None
    seen = tuple(row for part in parts for row in part.seen)
    return Pictures(features, seen, small, cat("latents"), cat("octaves"), cat("strong_edges"), cat("teacher_db"))


def kept(folder: Path | None, name: str, make: Callable[[], Pictures]) -> Pictures:
    """The part that `folder` holds by this name, else what `make` gives, put there. None: made, and kept nowhere.

    Errors: InputError where the file is damaged.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npz"
    if not path.is_file():
        part = make()
        tensors = {key: value.numpy() for key, value in vars(part).items() if isinstance(value, Tensor)}
        write_npz(path, {"format": FORMAT, "seen": part.seen}, tensors)
        return part
    try:
        header, arrays = read_npz(path, FORMAT)
    except InputError as error:
        raise InputError(f"{path} is damaged or of another version ({error}): remove it") from error
    return Pictures(seen=tuple(header["seen"]), **{key: torch.from_numpy(value) for key, value in arrays.items() if key != "header"})


def sheet(rows: dict[str, Pictures], columns: int = SHOWN) -> Image.Image:
    """The first prompts' pictures, a row for each set."""
    small = [p.small[:columns].float() for p in rows.values()]
    grid = torch.cat([torch.cat(list(row), -1) for row in small], -2)
    return Image.fromarray((grid.permute(1, 2, 0).clamp(0, 1) * 255).round().numpy().astype(np.uint8))
