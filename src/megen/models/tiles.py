"""A receiver in two graphs, whose memory is bounded: a decoder of the TAESD kind, whole up to its last upsampling and in tiles from there.

The second half works at the picture's resolution, where a whole picture would take gigabytes; a tile's margin covers what its
convolutions reach, so that the tiles give the whole's bytes.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megen.errors import InputError
from megen.files import replacing
from megen.models.published import PublishedBackbone

SIDE = 64  # of a tile, in places before the last upsampling


def splits(decoder: nn.Module) -> bool:
    """Whether a decoder is a sequence with an upsampling in it."""
    layers = getattr(getattr(decoder, "decoder", None), "layers", None)
    return isinstance(layers, nn.Sequential) and any(isinstance(layer, nn.Upsample) for layer in layers)


class Front(nn.Module):
    """Rows and merge map to the state before the last upsampling, [1, d, H/2, W/2]."""

    def __init__(self, backbone: PublishedBackbone, layers: nn.Sequential) -> None:
        super().__init__()
        self.backbone, self.layers = backbone, layers

    def forward(self, rows: Tensor, merge_map: Tensor) -> Tensor:
        channels, height, width = self.backbone.spec.latent_shape
        latent = self.backbone.unfold(torch.index_select(rows, 0, merge_map).T.reshape(1, channels, height, width))
        out: Tensor = self.layers(torch.tanh(latent / 3) * 3)
        return out


class Tail(nn.Module):
    """A part of that state to its bytes, and whether all is finite."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        image = (2 * self.layers(state) - 1) / 2 + 0.5  # as the whole rounds
        return to_bytes(image.clamp(0, 1)), torch.isfinite(image.float().sum())


def to_bytes(image: Tensor) -> Tensor:
    """A picture [1, 3, H, W] in [0, 1] as bytes [H, W, 3]; they change places as bytes, as a copy in floats is four times as large."""
    return (image * 255).round().to(torch.uint8).squeeze(0).permute(1, 2, 0)


def halves_of(backbone: PublishedBackbone) -> tuple[Front, Tail, dict[str, int]]:
    """Both halves, and how the second is cut: side and margin of a tile, and by how much it grows.

    Errors: InputError on a decoder that is no such sequence.
    """
    if not splits(backbone.decoder):
        raise InputError(f"{type(backbone.decoder).__name__} cannot be cut into tiles: its layers are no sequence")
    layers = list(backbone.decoder.decoder.layers)  # type: ignore[union-attr, arg-type]
    last = max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Upsample))
    tail = nn.Sequential(*layers[last:])
    reach = sum((module.kernel_size[0] - 1) // 2 for module in tail.modules() if isinstance(module, nn.Conv2d))
    grows = int(layers[last].scale_factor)
    about = {"side": SIDE, "margin": math.ceil(reach / grows) + 1, "grows": grows}
    return Front(backbone, nn.Sequential(*layers[:last])), Tail(tail), about


def write(backbone: PublishedBackbone, front: Path, tail: Path) -> dict[str, Any]:
    """Write both graphs; returns how the second is cut."""
    first, second, about = halves_of(backbone)
    channels, height, width = backbone.spec.latent_shape
    inputs = (torch.zeros(height * width, channels), torch.arange(height * width))
    options: dict[str, Any] = {"opset_version": 18, "dynamo": False}
    sides = {"state": {2: "h", 3: "w"}}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        state = first(*inputs)
        torch.onnx.export(
            first,
            inputs,
            str(front),
            input_names=["rows", "merge_map"],
            output_names=["state"],
            dynamic_axes={"rows": {0: "n"}},
            **options,
        )
        with replacing(tail) as temporary:
            torch.onnx.export(
                second,
                (state[:, :, :8, :8],),
                str(temporary),
                input_names=["state"],
                output_names=["image", "finite"],
                dynamic_axes=sides,
                **options,
            )
    return about
