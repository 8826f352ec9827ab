"""How many evaluations does the refiner need, and what do they cost?

`python -m experiments.refiner.run --backbone FOLDER`: held-out nights whose captions name stars, at four steps, drawn on by the refiner
in 0 (none), 1, 2, 4 and 8 evaluations from the same noise. Stars are counted as in `experiments.stars.run`. `steps` is the time that a
picture's refinement takes, in steps of the flow map of the same run; `gflop` its operations.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from experiments import common
from experiments.stars.run import decoded, spots, starry, stars
from megen.diffusion.denoise import noise_of
from megen.errors import InputError
from megen.evaluation.device_profile import gflops, median_s, step_of
from megen.halves import halves
from megen.models.embedded import EmbeddedBackbone
from megen.models.refiner import Refiner
from megen.training.loop import progress

EVALUATIONS = (1, 2, 4, 8)
STEPS = 4
LEAST = 28  # stars of a night that has them: `experiments/stars`
REPEATS = 20


def drawn(refiner: Refiner, evaluations: int, end: torch.Tensor, source: float, pooled: torch.Tensor, seed: int) -> torch.Tensor:
    """An end, drawn on from the noise of a seed in so many evaluations."""
    refiner.config = replace(refiner.config, evaluations=evaluations)
    shape = (int(end.shape[1]), int(end.shape[2]), int(end.shape[3]))
    return refiner.draw(end, noise_of(shape, seed, 1).to(end.device), torch.tensor([source], device=end.device), pooled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--backbone", default="scenes")
    args = parser.parse_args()
    es, ue = halves(args.backbone)
    backbone = es.backbone
    assert isinstance(backbone, EmbeddedBackbone)
    refiner, backbone.refiner = backbone.refiner, None
    if refiner is None:
        raise InputError(f"{args.backbone} has no refiner: train one with megen train refiner, and put its file beside the weights")
    config = vars(refiner.config)
    source = backbone.spec.times[STEPS][-2]
    with torch.inference_mode():
        texts = [text for _, text in starry(args.prompts)]
        ends = [es.denoise([texts[i]], [i], STEPS) for i, _ in progress(0, len(texts), "pictures")]
        pooled = [backbone.condition([text]).pooled for text in texts]
        step_s = median_s(step_of(backbone, 1), REPEATS)
        rows: dict[str, Any] = {}
        for count in (0, *EVALUATIONS):

            def latent_of(i: int, count: int = count) -> torch.Tensor:
                return drawn(refiner, count, ends[i], source, pooled[i], i) if count else ends[i]

            shapes = [spots(image) for image in decoded(len(texts), f"{count} evaluations", latent_of, ue)]
            rows[str(count)] = {
                "has_stars": common.estimate(stars(shapes) >= LEAST),
                "stars": common.estimate(stars(shapes)),
                "spots": common.estimate(len(s) for s in shapes),
                "roundness": common.estimate(np.median(s) for s in shapes if len(s)),
                "steps": median_s(lambda: latent_of(0), REPEATS) / step_s if count else 0.0,
                "gflop": gflops(lambda: latent_of(0)) if count else 0.0,
            }
    result = {"prompts": args.prompts, "weights": backbone.digest, "config": config, "evaluations": rows}
    common.write(common.name_of(args.backbone, "refiner"), result)


if __name__ == "__main__":
    main()
