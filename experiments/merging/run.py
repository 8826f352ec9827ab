"""Merging without noise, by merge ratio: payload bits, and PSNR to the reference and to the same latent unmerged.

The reference is the image of the same seed with the most steps, no merging, no quantiser and no link.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from experiments import common
from megen.halves import halves, tokens_of
from megen.metrics import psnr_db
from megen.pipeline import reference
from megen.scenes.captions import caption
from megen.scenes.splits import TEST_SEED, scene
from megen.training.loop import progress
from megen.types import Features, Received


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    transmitter, receiver = halves()
    ratios = transmitter.backbone.spec.merge_ratios
    psnr: dict[float, list[float]] = {r: [] for r in ratios}
    to_reference: dict[float, list[float]] = {r: [] for r in ratios}
    bits: dict[float, list[int]] = {r: [] for r in ratios}
    monotone = 0
    for i, shown in progress(0, args.prompts, "merging"):
        prompt = caption(scene(TEST_SEED, i), np.random.default_rng([TEST_SEED, i]))
        latent = transmitter.denoise([prompt], [i], args.steps)
        unmerged = receiver.image_of(Features.clean(tokens_of(latent)))
        goal = reference(transmitter, receiver, prompt, i)
        for r in ratios:
            payload = transmitter.encode(latent, r).payload
            image = receiver.decode(Received(payload))
            psnr[r].append(psnr_db(image, unmerged))
            to_reference[r].append(psnr_db(image, goal))
            bits[r].append(payload.bits()["total"])
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
