"""How many of AVIF's bits does our payload take at equal PSNR, and where does AVIF's quality end?

`python -m experiments.avif_at_equal_psnr.run` (three CPU minutes): held-out prompts, no merging, no link. Both curves of PSNR over bits
(ours over the quantiser's depth, AVIF's over its quality) are interpolated, prompt by prompt, over the logarithm of the bits.
AVIF's speed is 6 to save time; slower settings make smaller files, so these ratios flatter us.
"""

from __future__ import annotations

import argparse
import io
import sys

import numpy as np
from PIL import Image

from experiments import common
from megen.codec import QUANTISER_BITS, features
from megen.evaluation.link import Sample, coded, file_kinds, samples
from megen.halves import Receives, Transmitter, halves
from megen.metrics import psnr_db

TARGETS_DB = (38, 40, 43, 45, 47)
QUALITIES = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 66, 72, 78, 84, 90, 94, 98)
DEPTHS = tuple(d for d in (4, 6, 8, 10, 12, 14, 16, 20) if features.MIN_DEPTH <= d <= features.MAX_DEPTH)


def ours(sample: Sample, transmitter: Transmitter, receiver: Receives) -> np.ndarray:
    """(bits, PSNR in dB) by depth."""
    pairs = [coded(sample, 0.0, depth / 4, transmitter, receiver) for depth in DEPTHS]
    return np.array([(bits, psnr_db(image, sample.image)) for bits, image in pairs])


def avif(image: np.ndarray, speed: int) -> np.ndarray:
    """(bits, PSNR in dB) by quality."""
    encode, picture, rows = file_kinds(speed)["avif"].encode, Image.fromarray(image), []
    for quality in QUALITIES:
        data = encode(picture, quality)
        rows.append((8 * len(data), psnr_db(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), image)))
    return np.array(rows)


def bits_at(curve: np.ndarray, level_db: float) -> float:
    """Bits where a curve reaches a PSNR; NaN where it does not."""
    rising = np.maximum.accumulate(curve[:, 1])
    if not rising[0] <= level_db <= rising[-1]:
        return float("nan")
    return float(np.exp(np.interp(level_db, rising, np.log(curve[:, 0]))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=int, default=6)
    args = parser.parse_args()
    transmitter, receiver = halves()
    pairs, usual = [], []
    for i, sample in enumerate(samples(transmitter, receiver, args.prompts, args.seed, args.steps), 1):
        pairs.append((ours(sample, transmitter, receiver), avif(sample.image, args.speed)))
        bits, image = coded(sample, 0.0, QUANTISER_BITS, transmitter, receiver)
        usual.append((bits, psnr_db(image, sample.image)))
        print(f"prompt {i}/{args.prompts}", file=sys.stderr)
    rows = {}
    for target in TARGETS_DB:
        both = [(bits_at(a, target), bits_at(b, target)) for a, b in pairs]
        reached = [(a, b) for a, b in both if np.isfinite(a) and np.isfinite(b)]
        if reached:
            means = {"megen_bits": float(np.mean([a for a, _ in reached])), "avif_bits": float(np.mean([b for _, b in reached]))}
            rows[f"{target} dB"] = {"ratio": common.estimate(a / b for a, b in reached), **means}
    cap = [b[-1] for _, b in pairs]
    result = {
        "prompts": args.prompts,
        "steps": args.steps,
        "avif_speed": args.speed,
        "reference": "the same latent decoded without merging, quantiser and link",
        "at_equal_psnr": rows,
        "avif_at_its_best_quality": {
            "quality": QUALITIES[-1],
            "psnr_db": common.estimate(c[1] for c in cap),
            "bits": common.estimate(c[0] for c in cap),
            "megen_over_avif_there": common.estimate(bits_at(a, c[1]) / c[0] for (a, _), c in zip(pairs, cap, strict=True)),
        },
        "megen_at_its_usual_depth": {
            "quantiser_bits": QUANTISER_BITS,
            "psnr_db": common.estimate(d for _, d in usual),
            "over_avif_at_its_best_quality": common.estimate(u[0] / c[0] for u, c in zip(usual, cap, strict=True)),
        },
    }
    common.write("avif_at_equal_psnr", result)


if __name__ == "__main__":
    main()
