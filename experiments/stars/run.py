"""Are there stars where a prompt names them? By the examiner, and by a count of small round spots.

`python -m experiments.stars.run`: held-out nights whose captions name stars, made at each number of steps, beside true renders,
renders of the same scenes without stars, and renders through the autoencoder. A star is a small round spot in the upper part of the
sky, brighter than what is around it. A picture has stars where it has enough of them: how many is set on half of the renders, and
tested on the other half. Of another backbone (`--backbone FOLDER`) the result lies in a file of the folder's name.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from experiments import common
from experiments.typed.run import pixels
from megen.halves import Receives, halves, tokens_of
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import judge
from megen.scenes.captions import Scene, parse
from megen.scenes.render import render
from megen.training.loop import progress
from megen.types import Features

SKY = 0.4  # of the picture's height
CONTRAST = 14  # of 255, above the mean of the surroundings
AROUND_PX = 12
LARGEST_PX = 14  # of a spot: what is wider is a moon, a cloud or a roof
LEAST_PIXELS = 4  # of a spot: fewer have no shape
ROUND = 0.7  # of a star, at least
FIRST = 200_000  # of held-out prompts: other experiments use lower ones


def spots(image: np.ndarray) -> np.ndarray:
    """How round each small bright spot in the sky of a byte image [H, W, 3] is [n]: its light's narrow by its wide standard deviation.

    1 is a disc, and a scratch is near 0.
    """
    luma = image[: int(SKY * len(image))].astype(np.float32).mean(-1)
    above = luma - ndimage.gaussian_filter(luma, AROUND_PX)
    labels, count = ndimage.label(above > CONTRAST)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels, count), 1):
        light = np.where(labels[box] == number, above[box], 0)
        if max(light.shape) > LARGEST_PX or np.count_nonzero(light) < LEAST_PIXELS:
            continue
        y, x = np.indices(light.shape)
        narrow, wide = np.linalg.eigvalsh(np.cov(np.stack([y.ravel(), x.ravel()]), aweights=light.ravel(), ddof=0))
        found.append(np.sqrt(max(narrow, 0) / wide))
    return np.array(found)


def held_out(count: int, first: int, wanted: Callable[[Scene, dict[str, str]], bool]) -> list[tuple[Scene, str]]:
    """Held-out scenes with their captions from prompt `first` on, of which the scene and what the caption names are wanted."""
    drawn = (judge.held_out_prompt(number, unseen=False) for number in itertools.count(first))
    return list(itertools.islice(((scene, text) for scene, text in drawn if wanted(scene, parse(text))), count))


def starry(count: int) -> list[tuple[Scene, str]]:
    """Held-out scenes with captions that name stars."""
    return held_out(count, FIRST, lambda scene, named: named.get("stars") == "stars")


def threshold(with_stars: np.ndarray, without: np.ndarray) -> int:
    """How many stars separate the two best; of numbers that are as good the middle one."""
    tried = np.arange(1, int(with_stars.max()) + 2)
    right = [(with_stars >= n).mean() + (without < n).mean() for n in tried]
    best = np.flatnonzero(np.isclose(right, np.max(right)))
    return int(tried[best[len(best) // 2]])


def stars(shapes: list[np.ndarray]) -> np.ndarray:
    """How many of each picture's spots are stars [n]."""
    return np.array([int((s >= ROUND).sum()) for s in shapes])


def figures(pictures: list[np.ndarray], shapes: list[np.ndarray], least: int, model: judge.Classifier) -> dict[str, Any]:
    """Of pictures and their spots: shares with stars by their number and by the examiner; stars, and all spots with their roundness."""
    counts = stars(shapes)
    return {
        "has_stars": common.estimate(counts >= least),
        "by_the_examiner": common.estimate(judge.seen(model, image)["stars"] == "stars" for image in pictures),
        "stars": common.estimate(counts),
        "spots": common.estimate(len(s) for s in shapes),
        "roundness": common.estimate(np.median(s) for s in shapes if len(s)),
    }


def decoded(count: int, what: str, latent_of: Callable[[int], Tensor], ue: Receives) -> list[np.ndarray]:
    """Pictures of so many latents, without link."""
    with torch.inference_mode():
        return [ue.image_of(Features.clean(tokens_of(latent_of(i)))) for i, _ in progress(0, count, what)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--steps", type=int, nargs="+", default=(1, 4, 8, 12))
    parser.add_argument("--backbone", default="scenes")
    args = parser.parse_args()
    es, ue = halves(args.backbone)
    backbone = es.backbone
    assert isinstance(backbone, EmbeddedBackbone)
    model, drawn = judge.load(), starry(args.prompts)
    true, without = [], []
    for i, _ in progress(0, len(drawn), "renders"):
        true.append(pixels(render([drawn[i][0]])))
        without.append(pixels(render([replace(drawn[i][0], stars="no stars")])))
    shapes, other_shapes = ([spots(image) for image in images] for images in (true, without))
    counts, none = stars(shapes), stars(other_shapes)
    half = len(drawn) // 2
    least = threshold(counts[:half], none[:half])
    result: dict[str, Any] = {"prompts": len(drawn), "least_stars": least}
    result["renders_separated"] = {"with": float((counts[half:] >= least).mean()), "without": float((none[half:] < least).mean())}
    result["renders"] = figures(true, shapes, least, model)
    result["renders_without"] = figures(without, other_shapes, least, model)

    def of_latents(what: str, latent_of: Callable[[int], Tensor]) -> dict[str, Any]:
        pictures = decoded(len(drawn), what, latent_of, ue)
        return figures(pictures, [spots(image) for image in pictures], least, model)

    result["autoencoder"] = of_latents("renders through the autoencoder", lambda i: backbone.encode_images(render([drawn[i][0]])))
    result["steps"] = {
        str(n): of_latents(f"pictures of {n} steps", lambda i, n=n: es.denoise([drawn[i][1]], [i], n))  # type: ignore[misc]
        for n in args.steps
    }
    common.write(common.name_of(args.backbone, "stars"), result)


if __name__ == "__main__":
    main()
