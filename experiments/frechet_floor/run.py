"""What scene Fréchet distance do true pictures have, and how much of a reported one is the number of prompts?

`python -m experiments.frechet_floor.run` (five CPU minutes) renders every held-out scene at the judge's 512 px, and again with another
geometry seed (hills, trees and waves elsewhere, every attribute the same), and once more with all that the caption leaves out drawn anew.
The distance between two such sets is what a perfect generator would have. With `--flow-map 1,4` also the flow map's, at the same prompts.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments import common
from megen.evaluation.backbone import Prompts, Sampler, frechet_distance
from megen.evaluation.pictures import same_caption
from megen.models import embedded
from megen.scenes import judge
from megen.scenes.captions import Scene
from megen.scenes.judge import Classifier
from megen.scenes.render import render

BATCH = 8
GEOMETRY = 21  # stream


def another_geometry(scene: Scene, number: int, repeat: int) -> Scene:
    """The same attributes from another geometry seed."""
    return replace(scene, seed=int(np.random.default_rng([GEOMETRY, repeat, number]).integers(2**31)))


@torch.inference_mode()
def features_of(model: Classifier, scenes: list[Scene]) -> Tensor:
    """The judge's features [n, 256] of renders."""
    found = []
    for i in range(0, len(scenes), BATCH):
        found.append(model.features(judge.prepared(render(scenes[i : i + BATCH], judge.SIZE_PX))))
        if i % 200 == 0:
            print(f"renders {i}/{len(scenes)}", file=sys.stderr)
    return torch.cat(found)


@torch.inference_mode()
def features_of_flow_map(model: Classifier, prompts: Prompts, order: list[int], steps: int) -> Tensor:
    """The judge's features of generated pictures, prompts in the given order."""
    backbone, found = embedded.load("scenes", quick=True), []
    sampler = Sampler(backbone)
    for i in range(0, len(order), BATCH):
        part = order[i : i + BATCH]
        latents = sampler([prompts.texts[k] for k in part], [prompts.seeds[k] for k in part], steps)
        found.append(model.features(judge.prepared(backbone.decode(latents).float())))
        if i % 80 == 0:
            print(f"flow map, {steps} steps: {i}/{len(order)}", file=sys.stderr)
    return torch.cat(found)


def distances(real: Tensor, other: Tensor, size: int) -> list[float]:
    """One for each disjoint set of `size` prompts."""
    return [frechet_distance(real[i : i + size], other[i : i + size]) for i in range(0, len(real) - size + 1, size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=250, help="of seen combinations, and as many of unseen ones")
    parser.add_argument("--few", type=int, default=80, help="size of the small sets")
    parser.add_argument("--repeats", type=int, default=2, help="further geometry seeds")
    parser.add_argument("--flow-map", default="", help="numbers of steps, as in 1,4")
    args = parser.parse_args()
    model, prompts = judge.load(), Prompts.of(args.prompts, seed=1)
    order = [i for pair in zip(range(args.prompts), range(args.prompts, 2 * args.prompts), strict=True) for i in pair]  # half of each kind
    scenes, texts = [prompts.scenes[i] for i in order], [prompts.texts[i] for i in order]
    real = features_of(model, scenes)
    others = {"another geometry": [[another_geometry(s, i, k) for i, s in enumerate(scenes)] for k in range(args.repeats)]}
    others["what the caption leaves out drawn anew"] = [[same_caption(t, i, 0) for i, t in enumerate(texts)]]
    many = len(scenes)
    result: dict = {"prompts": {"few": args.few, "many": many}, "size_px": judge.SIZE_PX, "floor": {}, "flow_map": {}}
    for name, sets in others.items():
        features = [features_of(model, drawn) for drawn in sets]
        few = [d for f in features for d in distances(real, f, args.few)]
        row = {"few": {**common.estimate(few), "each": few}}
        result["floor"][name] = {**row, "many": {"each": [frechet_distance(real, f) for f in features]}}
        print(name, result["floor"][name], file=sys.stderr)
    for steps in [int(n) for n in args.flow_map.split(",") if n]:
        features = features_of_flow_map(model, prompts, order, steps)
        few = distances(real, features, args.few)
        result["flow_map"][str(steps)] = {"few": {**common.estimate(few), "each": few}, "many": frechet_distance(real, features)}
        print(steps, result["flow_map"][str(steps)], file=sys.stderr)
    common.write("frechet_floor", result)


if __name__ == "__main__":
    main()
