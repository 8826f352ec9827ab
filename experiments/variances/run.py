"""How large each transform coefficient of the bundled backbone's latents is, written into its codec file.

`python -m experiments.variances.run` (three minutes): mean squares over latents of training prompts, in one, four and eight steps.
`megen train` and `megen train-receiver` do the same for a backbone of their own. The receiver's graphs are written again, as they refer
to the codec file. `result.json` has the share of the weighted energy that the first coefficients hold.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from safetensors import safe_open

from experiments import common
from megen.codec import prior, transform
from megen.export import placed_receiver
from megen.halves import transmitter_of
from megen.models import embedded
from megen.provenance import provenance
from megen.scenes.captions import caption
from megen.scenes.splits import scene
from megen.training.prior import variances

STEPS, BATCH, SEED = (1, 4, 4, 8), 8, 77
SHARES = (0.1, 0.25, 0.5, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=1600)
    args = parser.parse_args()
    es, folder = transmitter_of(), embedded.folder_of("scenes")
    made = []
    for first in range(0, args.latents, BATCH):
        numbers = range(first, first + BATCH)
        prompts = [caption(scene(SEED, i), np.random.default_rng([SEED, i])) for i in numbers]
        made.append(es.denoise(prompts, [900_000 + i for i in numbers], STEPS[first // BATCH % len(STEPS)]))
    latents = torch.cat(made)
    learned = replace(prior.load(folder, latents.shape[1]), variance=variances(latents))
    with safe_open(folder / prior.FILE, framework="np") as file:
        about = {k: v for k, v in file.metadata().items() if k != "format"}
    of = {k: v for k, v in provenance().items() if k in ("commit", "device")}
    about["variances"] = f"{len(latents)} of the flow map's own latents, python -m experiments.variances.run, {of}"
    prior.save(learned, folder, about)
    backbone = es.backbone
    assert isinstance(backbone, embedded.EmbeddedBackbone)
    placed_receiver(backbone, folder)
    common.write("variances", {"latents": len(latents), "energy": energy(learned)})


def energy(learned: prior.Prior) -> dict[str, float]:
    """The share of the mean energy, weighted as the picture weighs it, in the first coefficients, by their share."""
    assert learned.variance is not None
    grid = learned.variance.shape[1:]
    chosen = transform.select(learned, (grid[0], grid[1]), learned.variance.size)
    step = np.broadcast_to(learned.step[:, None, None], learned.variance.shape).ravel()[chosen.numbers]
    weighted = chosen.variance / step**2
    ranked = np.argsort(np.argsort(-(chosen.variance / step), kind="stable"), kind="stable")
    return {f"{share:g}": float(weighted[ranked < share * len(ranked)].sum() / weighted.sum()) for share in SHARES}


if __name__ == "__main__":
    main()
