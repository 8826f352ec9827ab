"""How small does a latent that nobody trained for become? `python -m experiments.own_scales.run` (five CPU minutes).

Stand-ins for published latents: the principal components of 8 x 8 patches (4 of them, as SDXL keeps, or 16, as Z-Image does) of rendered
scenes at 1024 px, of unit variance, folded 2 x 2; and the bundled backbone's own latents. Each is coded at 5 bits a value with one
scale for all (int8 is 8 bits a value), with scales of its own, and with half of its tokens merged; the bundled prior where there is one.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments import common
from megen import merging
from megen.codec import FeatureCodec, Prior, prior
from megen.models import embedded
from megen.scenes import splits
from megen.scenes.render import render

PATCH = 8
FITTED = 8  # pictures that the components are fitted on
BITS = 5.0


def pictures(count: int) -> Tensor:
    """Renders [n, 3, 1024, 1024] in [0, 1]."""
    return torch.cat([render([splits.scene(splits.TEST_SEED, i)]) for i in range(count)])


def component_latents(images: Tensor, channels: int) -> Tensor:
    """Folded latents [n, 4c, 64, 64] of all but the pictures that the components are fitted on."""
    patches = F.pixel_unshuffle(2 * images - 1, PATCH)
    rows = patches[:FITTED].permute(0, 2, 3, 1).flatten(0, 2)
    mean = rows.mean(0)
    _, _, basis = torch.svd_lowrank(rows[:: max(1, len(rows) // 40_000)] - mean, q=channels + 4, niter=4)
    latents = torch.einsum("nkhw,kc->nchw", patches - mean[:, None, None], basis[:, :channels])
    latents = latents / latents[:FITTED].std((0, 2, 3), keepdim=True)
    return F.pixel_unshuffle(latents[FITTED:], 2)


def coded_bits(latents: Tensor, own: Prior | None, ratio: float) -> list[float]:
    """Bits of each latent's payload."""
    codec, grid, bits = FeatureCodec(own, 0), (latents.shape[2], latents.shape[3]), []
    for latent in latents:
        merged = merging.merged(latent.flatten(1).T.numpy(), grid, ratio)
        bits.append(float(codec.encode(merged, quantiser_bits=BITS).payload.bits()["total"]))
    return bits


def figures_of(latents: Tensor, learned: Prior | None) -> dict[str, Any]:
    """One kind of latent."""
    int8 = 8.0 * latents[0].numel()
    out: dict[str, Any] = {"values": latents[0].numel(), "int8_bits": int8}
    out["own_scales_bits"] = common.estimate(coded_bits(latents, None, 0.0))
    out["own_scales_half_merged_bits"] = common.estimate(coded_bits(latents, None, 0.5))
    out["of_int8"] = out["own_scales_bits"]["mean"] / int8
    if learned is not None:
        out["learned_bits"] = common.estimate(coded_bits(latents, learned, 0.0))
    return out


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24)
    args = parser.parse_args()
    images, backbone = pictures(FITTED + args.pictures), embedded.load("scenes")
    rows = {"4 components, folded": figures_of(component_latents(images, 4), None)}
    rows["16 components, folded"] = figures_of(component_latents(images, 16), None)
    own = torch.cat([backbone.encode_images(image[None]) for image in images[FITTED:]])
    rows["bundled backbone"] = figures_of(own, prior.load(embedded.folder_of("scenes"), own.shape[1]))
    common.write("own_scales", {"latents": rows, "pictures": args.pictures, "bits_a_value": BITS})
    for name, row in rows.items():
        print(
            f"{name:24} int8 {row['int8_bits'] / 1e3:7.0f} kbit, "
            f"own scales {row['own_scales_bits']['mean'] / 1e3:6.0f} kbit ({row['of_int8']:.3f})"
        )


if __name__ == "__main__":
    main()
