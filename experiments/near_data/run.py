"""How well does the flow map denoise near data? Where it does not, many steps cannot draw small things.

`python -m experiments.near_data.run` (half a minute): latents of true renders of held-out starry nights get noise of the times at which a
sampler's last step begins, and one jump of the flow map takes it away again. `error` is the root mean square of what is left, `noise`
that of what was put on, in the same units; stars are counted as in `experiments.stars.run`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from experiments import common
from experiments.stars.run import decoded, spots, starry, stars
from megen.diffusion import flow_map
from megen.halves import halves
from megen.models.embedded import EmbeddedBackbone
from megen.scenes.render import render
from megen.training.guided import velocity_of
from megen.training.loop import progress

STEPS = (2, 4, 8, 12)  # whose last one is looked at
NOISE_SEED = 1


def denoised(backbone: EmbeddedBackbone, latent: torch.Tensor, text: str, start: float) -> torch.Tensor:
    """A clean latent after noise of the time `start` and one jump to data."""
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    time = torch.tensor([start])
    velocity = velocity_of(backbone.denoiser, backbone.condition([text]))
    return flow_map.step(velocity, flow_map.interpolate(latent, noise, time), time, torch.ones(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=32)
    args = parser.parse_args()
    es, ue = halves()
    backbone = es.backbone
    assert isinstance(backbone, EmbeddedBackbone)
    drawn = starry(args.prompts)
    with torch.inference_mode():
        latents = [backbone.encode_images(render([drawn[i][0]])) for i, _ in progress(0, len(drawn), "renders")]
        rows: dict[str, Any] = {}
        for count in STEPS:
            start = flow_map.times(count, backbone.config.time_shift)[-2]
            made = [denoised(backbone, latent, text, start) for latent, (_, text) in zip(latents, drawn, strict=True)]
            errors = [float((x - latent).square().mean()) for x, latent in zip(made, latents, strict=True)]
            shapes = [spots(image) for image in decoded(len(made), f"the last of {count} steps", made.__getitem__, ue)]
            rows[str(count)] = {
                "time": round(start, 3),
                "noise": (1 - start) / start,
                "error": float(np.sqrt(np.mean(errors))),
                "stars": common.estimate(stars(shapes)),
                "spots": common.estimate(len(s) for s in shapes),
            }
    common.write("near_data", {"prompts": args.prompts, "weights": backbone.digest, "last_of_steps": rows})


if __name__ == "__main__":
    main()
