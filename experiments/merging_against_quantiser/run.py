"""Is a smaller payload better reached by merging tokens or by a coarser quantiser?

`python -m experiments.merging_against_quantiser.run` (five CPU minutes): held-out prompts, digital payloads without a link, every
merge ratio with every quantiser depth. PSNR is to the same latent decoded without merging, quantiser and link; at equal bits it is
interpolated, prompt by prompt, over the logarithm of the bits.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from experiments import common
from megen.codec import features
from megen.evaluation.link import coded, samples
from megen.halves import halves
from megen.metrics import psnr_db

EQUAL_KBIT = (5, 7, 10, 15, 20, 30)


def depths() -> tuple[int, ...]:
    """Quarter bits from the least that the format allows: the small ones close together."""
    return tuple(d for d in (1, 2, 4, 6, 8, 12, 16, 20, 28) if features.MIN_DEPTH <= d <= features.MAX_DEPTH)


def at_equal_bits(curves: dict[float, np.ndarray], kbit: float) -> dict[float, float]:
    """PSNR in dB by merge ratio of one prompt, where its payloads [depths, (bits, dB)] reach so many bits."""
    found = {}
    for ratio, curve in curves.items():
        bits, level_db = np.log(curve[:, 0]), np.maximum.accumulate(curve[:, 1])
        if bits[0] <= np.log(1e3 * kbit) <= bits[-1]:
            found[ratio] = float(np.interp(np.log(1e3 * kbit), bits, level_db))
    return found


def compared(prompts: list[dict[float, np.ndarray]]) -> dict[str, dict]:
    """By bits and ratio: PSNR less that of ratio 0 on the same prompt, and how many prompts gain."""
    rows: dict[str, dict] = {}
    for kbit in EQUAL_KBIT:
        levels = [at_equal_bits(curves, kbit) for curves in prompts]
        rows[f"{kbit} kbit"] = {}
        for ratio in list(prompts[0])[1:]:
            gains = [found[ratio] - found[0.0] for found in levels if {0.0, ratio} <= found.keys()]
            if gains:
                rows[f"{kbit} kbit"][f"{ratio:g}"] = {**common.estimate(gains), "prompts_that_gain": sum(g > 0 for g in gains)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    transmitter, receiver = halves()
    ratios = transmitter.backbone.spec.merge_ratios
    prompts: list[dict[float, np.ndarray]] = []
    for i, sample in enumerate(samples(transmitter, receiver, args.prompts, args.seed, args.steps), 1):
        curves = {}
        for ratio in ratios:
            pairs = [coded(sample, ratio, depth / 4, transmitter, receiver) for depth in depths()]
            curves[ratio] = np.array([(bits, psnr_db(image, sample.image)) for bits, image in pairs])
        prompts.append(curves)
        print(f"prompt {i}/{args.prompts}", file=sys.stderr)
    payloads = {
        f"{ratio:g}": [
            {
                "depth_quarter_bits": depth,
                "bits": common.estimate(curves[ratio][k, 0] for curves in prompts),
                "psnr_db": common.estimate(curves[ratio][k, 1] for curves in prompts),
            }
            for k, depth in enumerate(depths())
        ]
        for ratio in ratios
    }
    result = {
        "prompts": args.prompts,
        "steps": args.steps,
        "seed": args.seed,
        "reference": "the same latent decoded without merging, quantiser and link",
        "psnr_gain_over_ratio_0_db_at_equal_bits": compared(prompts),
        "payloads": payloads,
    }
    common.write("merging_against_quantiser", result)


if __name__ == "__main__":
    main()
