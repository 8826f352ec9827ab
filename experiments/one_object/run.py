"""Whether an object that a short prompt asks for stands there once: by the choosing judge, and by eye where that says twice.

`python -m experiments.one_object.run` (five minutes on a core): the short prompts of `megen bench backbone --prompts 500 --seed 1`. It
draws what the judge takes for two objects into `twice-STEPS.jpg`, in rows of six. `by-eye.tsv` says which of these show two to a person.
The judge also sees true renders of the same captions, of which none has two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments import common
from megen.evaluation.backbone import Prompts, Sampler
from megen.evaluation.pictures import same_caption
from megen.models import embedded
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import drafts
from megen.scenes.captions import parse
from megen.scenes.render import render
from megen.training.loop import progress

STEPS, BATCH = (1, 4), 8
SIDE_PX, COLUMNS = 256, 6
BY_EYE = Path(__file__).with_name("by-eye.tsv")  # steps, number of the prompt, objects


def asked(prompts: Prompts) -> list[int]:
    """Numbers of the short prompts that ask for an object."""
    return [i for i, text in enumerate(prompts.short) if parse(text).get("object", "no object") != "no object"]


def doubled(latents: torch.Tensor) -> list[bool]:
    """Where the choosing judge sees an object twice."""
    return [not one for one in drafts.alone(drafts.chooser(), latents)]


@torch.inference_mode()
def flagged(backbone: EmbeddedBackbone, prompts: Prompts, numbers: list[int], steps: int) -> list[int]:
    """Numbers of the prompts whose picture the judge takes for one with two objects; draws these."""
    sampler, found, shown = Sampler(backbone), [], []
    parts = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
    for k, _ in progress(0, len(parts), f"pictures of {steps} steps ({BATCH} each)"):
        part = parts[k]
        latents = sampler([prompts.drawn[i] for i in part], [prompts.seeds[i] for i in part], steps)
        for i, z, twice in zip(part, latents, doubled(latents), strict=True):
            if twice:
                found.append(i)
                pixels = (backbone.decode(z[None])[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
                shown.append(Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS))
    sheet = Image.new("RGB", (SIDE_PX * COLUMNS, SIDE_PX * -(-len(shown) // COLUMNS)))
    for k, picture in enumerate(shown):
        sheet.paste(picture, (k % COLUMNS * SIDE_PX, k // COLUMNS * SIDE_PX))
    sheet.save(common.folder() / f"twice-{steps}.jpg", quality=85)
    return found


def by_eye() -> dict[tuple[int, int], int]:
    """Objects that a person counts, by steps and number of the prompt."""
    rows = np.loadtxt(BY_EYE, dtype=int, delimiter="\t", ndmin=2)
    return {(int(steps), int(number)): int(count) for steps, number, count in rows}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500, help="of each half, seen and kept out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--renders", type=int, default=300)
    args = parser.parse_args()
    backbone, prompts, counted = embedded.load("scenes"), Prompts.of(args.prompts, args.seed), by_eye()
    numbers = asked(prompts)
    found = {steps: flagged(backbone, prompts, numbers, steps) for steps in STEPS}
    wrong = 0
    for k, _ in progress(0, min(args.renders, len(numbers)), "true renders"):
        picture = render([same_caption(prompts.short[numbers[k]], numbers[k])], backbone.config.image_px[0], backbone.device)
        wrong += sum(doubled(backbone.encode_images(picture)))
    rows = {
        str(steps): {
            "taken_for_two": twice,
            "one_by_the_judge": 1 - len(twice) / len(numbers),
            "not_counted_by_eye": sum((steps, i) not in counted for i in twice),
            "two_by_eye": [i for i in twice if counted.get((steps, i), 0) > 1],
            "one_by_both": 1 - sum(counted.get((steps, i), 2) > 1 for i in twice) / len(numbers),
        }
        for steps, twice in found.items()
    }
    renders = {"seen": min(args.renders, len(numbers)), "taken_for_two": wrong}
    common.write("one_object", {"asked": len(numbers), "steps": rows, "renders": renders})


if __name__ == "__main__":
    main()
