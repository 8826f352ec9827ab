"""Merging without noise, by merge ratio: payload bits, and PSNR to the reference and to the same latent unmerged.

The reference is the image of the same seed with the most steps, no merging, no quantiser and no link.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

import common
from megen import pipeline
from megen.export import receiver_of
from megen.models import backbone as backbones
from megen.pipeline import Clock, Link
from megen.training.backbone import TEST_SEED
from megen.training.latents import scene
from megen.training.loop import progress
from megen.training.scenes import caption
from megen.ue import unharmed


def psnr_db(image: np.ndarray, target: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(image.astype(float) - target).mean() / 255**2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    backbone = backbones.load("scenes", quick=True)
    receiver = receiver_of(backbone, backbones.folder_of("scenes"))
    ratios = backbone.config.merge_ratios
    psnr: dict[float, list[float]] = {r: [] for r in ratios}
    to_reference: dict[float, list[float]] = {r: [] for r in ratios}
    bits: dict[float, list[int]] = {r: [] for r in ratios}
    monotone = 0
    for i, shown in progress(0, args.prompts, "merging"):
        prompt = caption(scene(TEST_SEED, i), np.random.default_rng([TEST_SEED, i]))
        latent = pipeline.denoise(backbone, [prompt], [i], args.steps, Clock())
        tokens = pipeline.as_tokens(latent)
        target = receiver(unharmed(tokens)).astype(float)
        reference = pipeline.reference(backbone, prompt, i, receiver)
        for r in ratios:
            result = pipeline.send(latent, r, Link(), np.random.default_rng(0), receiver, Clock())
            psnr[r].append(psnr_db(result.image, target))
            to_reference[r].append(psnr_db(result.image, reference))
            bits[r].append(result.payload.bits()["total"])
            shown[f"{r:g}"] = psnr[r][-1]
        falling = [to_reference[r][-1] for r in ratios]
        monotone += falling == sorted(falling, reverse=True)
    rows = [
        {
            "merge_ratio": r,
            "psnr_to_reference_mean_db": statistics.mean(to_reference[r]),
            "psnr_to_unmerged_mean_db": statistics.mean(psnr[r]),
            "psnr_to_unmerged_worst_db": min(psnr[r]),
            "payload_bits_mean": statistics.mean(bits[r]),
        }
        for r in ratios
    ]
    common.write("merging", {"prompts": args.prompts, "steps": args.steps, "monotone_prompts": monotone, "ratios": rows})


if __name__ == "__main__":
    main()
