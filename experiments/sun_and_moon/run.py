"""Do sun and moon stand in the sky once, and how round are they? By their colour and shape, beside true renders.

`python -m experiments.sun_and_moon.run` (six minutes on a core): held-out prompts that name the sun, a full or a crescent moon, in clear
weather, made at each number of steps. A body is a patch of its colour in the upper part of the picture. Its roundness is what it shares
with the disc of its area around its centre, by what either covers: 1 is a disc. Below `FULL` it is taken for a crescent.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from experiments import common
from experiments.stars.run import decoded, held_out
from experiments.typed.run import pixels
from megen.halves import halves
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import judge
from megen.scenes.render import BODY, render
from megen.training.loop import progress

NEAR = 0.13  # of a channel, 1 being the most
SKY = 0.42  # of the picture's height
LEAST = 0.0015  # of the picture's pixels: a fifth of the smallest disc
FULL = 0.75  # roundness
FIRST = 300_000  # of held-out prompts: other experiments use lower ones


def bodies(image: np.ndarray, body: str) -> list[float]:
    """How round each body in the sky of a byte image [H, W, 3] is, the largest one first."""
    sky = image[: int(SKY * len(image))] / 255
    labels, count = ndimage.label((np.abs(sky - BODY[body]) < NEAR).all(-1))
    patches = [ndimage.binary_fill_holes(labels == number) for number in range(1, count + 1)]
    large = sorted((p for p in patches if p.sum() >= LEAST * image[..., 0].size), key=np.sum, reverse=True)
    return [roundness(patch) for patch in large]


def roundness(patch: np.ndarray) -> float:
    """Intersection over union of a patch and the disc of its area around its centre."""
    y, x = np.nonzero(patch)
    rows, columns = np.indices(patch.shape)
    disc = np.hypot(rows - y.mean(), columns - x.mean()) <= np.sqrt(len(y) / np.pi)
    return float((patch & disc).sum() / (patch | disc).sum())


def figures(pictures: list[np.ndarray], body: str, model: judge.Classifier) -> dict[str, Any]:
    """Shares of pictures with such a body, with two, and of the right kind by shape and by the examiner; the roundness of the largest."""
    found = [bodies(image, body) for image in pictures]
    largest = [each[0] for each in found if each]
    full = [(shape >= FULL) == (body != "crescent moon") for shape in largest]
    return {
        "found": common.estimate(bool(each) for each in found),
        "twice": common.estimate(len(each) > 1 for each in found),
        "kind_right": common.estimate(full),
        "by_the_examiner": common.estimate(judge.seen(model, image)["body"] == body for image in pictures),
        "roundness": common.estimate(largest) | {"p5": float(np.percentile(largest, 5))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=60, help="of each body")
    parser.add_argument("--steps", type=int, nargs="+", default=(1, 4, 8, 12))
    args = parser.parse_args()
    es, ue = halves()
    backbone = es.backbone
    assert isinstance(backbone, EmbeddedBackbone)
    model, rows = judge.load(), {body: dict[str, dict[str, Any]]() for body in BODY}
    for body in BODY:
        asked = held_out(args.prompts, FIRST, lambda scene, named: scene.weather == "clear" and named.get("body") == body)  # noqa: B023
        true = [pixels(render([asked[i][0]])) for i, _ in progress(0, len(asked), f"{body}, renders")]
        rows[body]["renders"] = figures(true, body, model)
        with torch.inference_mode():
            latents = [backbone.encode_images(render([scene])) for scene, _ in asked]
        rows[body]["autoencoder"] = figures(decoded(len(asked), f"{body}, autoencoder", lambda i: latents[i], ue), body, model)  # noqa: B023
        for n in args.steps:
            made = decoded(len(asked), f"{body}, {n} steps", lambda i: es.denoise([asked[i][1]], [i], n), ue)  # noqa: B023
            rows[body][str(n)] = figures(made, body, model)
    common.write("sun_and_moon", {"prompts": args.prompts, "bodies": rows})


if __name__ == "__main__":
    main()
