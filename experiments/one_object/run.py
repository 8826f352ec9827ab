"""Whether an object that a short prompt asks for stands there once: by the choosing judge, and by eye where that says twice.

`python -m experiments.one_object.run` (five minutes on a core): the short prompts of `megen bench backbone --prompts 500 --seed 1`. It
draws what the judge takes for two objects into `twice-STEPS.jpg`, and the first 48 pictures into `first-STEPS.jpg`, in rows of six.
`by-eye.tsv` says how many objects a person counts in these. The judge also sees true renders of the same captions, of which none has two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments import common
from megen.evaluation.backbone import Prompts, Sampler
from megen.evaluation.pictures import asks_for_object, same_caption
from megen.models import embedded, tiles
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import drafts
from megen.scenes.captions import parse
from megen.scenes.render import render
from megen.training.loop import progress

STEPS, BATCH = (1, 4), 8
FIRST = 48  # pictures that a person counts whatever the judge says
SIDE_PX, COLUMNS = 192, 6
BY_EYE = Path(__file__).with_name("by-eye.tsv")  # steps, number of the prompt, objects; of those pictures where it is not one


def asked(prompts: Prompts) -> list[int]:
    """Numbers of the short prompts that ask for an object."""
    return [i for i, text in enumerate(prompts.short) if asks_for_object(parse(text))]


def doubled(latents: torch.Tensor) -> list[bool]:
    """Where the choosing judge sees an object twice."""
    return [not one for one in drafts.alone(drafts.chooser(), latents)]


@torch.inference_mode()
def flagged(backbone: EmbeddedBackbone, prompts: Prompts, numbers: list[int], steps: int) -> list[int]:
    """Numbers of the prompts whose picture the judge takes for one with two objects; draws these, and the first ones."""
    sampler, found = Sampler(backbone), []
    pictures: dict[int, Image.Image] = {}
    parts = [numbers[i : i + BATCH] for i in range(0, len(numbers), BATCH)]
    for k, _ in progress(0, len(parts), f"pictures of {steps} steps ({BATCH} each)"):
        part = parts[k]
        latents = sampler([prompts.drawn[i] for i in part], [prompts.seeds[i] for i in part], steps)
        for i, z, twice in zip(part, latents, doubled(latents), strict=True):
            if twice:
                found.append(i)
            if twice or i in numbers[:FIRST]:
                whole = Image.fromarray(tiles.to_bytes(backbone.decode(z[None])).cpu().numpy())
                pictures[i] = whole.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    for name, shown in (("twice", found), ("first", numbers[:FIRST])):
        file = common.folder() / f"{name}-{steps}.jpg"
        if not shown:  # nor is there one of an earlier run
            file.unlink(missing_ok=True)
            continue
        sheet = Image.new("RGB", (SIDE_PX * COLUMNS, SIDE_PX * -(-len(shown) // COLUMNS)))
        for k, i in enumerate(shown):
            sheet.paste(pictures[i], (k % COLUMNS * SIDE_PX, k // COLUMNS * SIDE_PX))
        sheet.save(file, quality=85)
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
            "of_these_not_one_by_eye": [i for i in twice if counted.get((steps, i), 1) != 1],
            "of_the_first_not_one_by_eye": [i for i in numbers[:FIRST] if counted.get((steps, i), 1) != 1],
        }
        for steps, twice in found.items()
    }
    renders = {"seen": min(args.renders, len(numbers)), "taken_for_two": wrong}
    common.write("one_object", {"asked": len(numbers), "steps": rows, "renders": renders})


if __name__ == "__main__":
    main()
