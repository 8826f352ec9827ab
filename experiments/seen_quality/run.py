"""From which distortion on nobody sees a difference: SSIMULACRA 2 of coded and of blurred pictures against what was made.

`python -m experiments.seen_quality.run` (extra `bench`). Pictures of held-out prompts in the most steps are
coded at every quantiser and merge ratio, and blurred. The metric's scale is one of opinions: at 80 an observer who sees both side by side
notices no distortion, 10 is "bad" (cloudinary/ssimulacra2). The result holds the decibels and the sharpness of these.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from experiments import common
from experiments.perceptual import ssimulacra2
from megen import pipeline
from megen.metrics import psnr_db, sharpness
from megen.scenes import judge
from megen.training.loop import progress
from megen.types import Received

BITS = (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
RATIOS = (0.25, 0.5, 0.75)
BLURS_PX = (0.5, 0.8, 1.2, 1.8, 2.6)
FIRST_PROMPT = 90_000
UNSEEN, BAD = 80.0, 10.0


def crossing(x: np.ndarray, scores: np.ndarray, at: float) -> float:
    """The x at which the score is `at`, by a straight line through what lies around it."""
    near = np.abs(scores - at) <= 25
    slope, intercept = np.polyfit(scores[near], x[near], 1)
    return float(slope * at + intercept)


def measure(prompts: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Scores of coded and of blurred pictures."""
    transmitter, receiver = pipeline.halves("scenes", "cpu")
    rows: dict[str, list[dict[str, Any]]] = {"coded": [], "blurred": []}
    for i, _ in progress(0, prompts, "prompts"):
        _, text = judge.held_out_prompt(FIRST_PROMPT + i, unseen=False)
        made = pipeline.reference(transmitter, receiver, text, i, steps=steps)
        latent = transmitter.denoise([text], [i], steps)
        for ratio, bits in [(0.0, b) for b in BITS] + [(r, 5.0) for r in RATIOS]:
            image = receiver.decode(Received(transmitter.encode(latent, ratio, quantiser_bits=bits).payload))
            row = {"prompt": i, "merge_ratio": ratio, "quantiser_bits": bits, "psnr_db": psnr_db(image, made)}
            rows["coded"].append(row | {"score": ssimulacra2(image, made), "sharpness": sharpness(image) / sharpness(made)})
        for blur_px in BLURS_PX:
            image = np.asarray(Image.fromarray(made).filter(ImageFilter.GaussianBlur(blur_px)))
            row = {"prompt": i, "blur_px": blur_px, "sharpness": sharpness(image) / sharpness(made)}
            rows["blurred"].append(row | {"score": ssimulacra2(image, made), "psnr_db": psnr_db(image, made)})
    return rows


def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Where the scores lie, and means by coding and by blur."""
    coded, blurred = (
        {k: np.array([row[k] for row in rows[name]]) for k in ("psnr_db", "score", "sharpness")} for name in ("coded", "blurred")
    )
    floors = {
        f"{name}_at_{at:g}": crossing(x[name], x["score"], at)
        for x, name in ((coded, "psnr_db"), (blurred, "sharpness"))
        for at in (BAD, UNSEEN)
    }
    means = [
        {
            "merge_ratio": ratio,
            "quantiser_bits": bits,
            **{
                k: common.estimate(r[k] for r in rows["coded"] if (r["merge_ratio"], r["quantiser_bits"]) == (ratio, bits))
                for k in ("psnr_db", "score")
            },
        }
        for ratio, bits in sorted({(r["merge_ratio"], r["quantiser_bits"]) for r in rows["coded"]})
    ]
    soft = [
        {"blur_px": px, **{k: common.estimate(r[k] for r in rows["blurred"] if r["blur_px"] == px) for k in ("sharpness", "score")}}
        for px in BLURS_PX
    ]
    return {**floors, "coded": means, "blurred": soft, "rows": rows}


def main() -> None:
    """Measure and write."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--prompts", type=int, default=12)
    p.add_argument("--steps", type=int, default=12)
    args = p.parse_args()
    common.check_bench()
    common.write("seen_quality", {"prompts": args.prompts, "steps": args.steps, **summary(measure(args.prompts, args.steps))})


if __name__ == "__main__":
    main()
