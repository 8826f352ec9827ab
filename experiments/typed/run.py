"""Twenty-four prompts as people type them, through the default command's pipeline, each beside a true render of what was drawn.

`python -m experiments.typed.run` writes the README's contact sheet and what the examiner sees.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from experiments import common
from megen.pipeline import Pipeline
from megen.scenes import judge
from megen.scenes.captions import parse, sample_scene
from megen.scenes.render import render
from megen.training.loop import progress

PROMPTS = (
    "a windmill at dusk, green hills, a lake",
    "lighthouse at night",
    "a castle in the snow",
    "a sailboat on the ocean at noon",
    "fisherman's hut by the ocean at twilight",
    "crescent moon over sand dunes",
    "a cabin in the woods, evening",
    "snowy mountains at sunrise",
    "full moon, stars, a castle",
    "a lighthouse in the fog",
    "a windmill and pine trees, midday",
    "a log cabin on a lake, morning",
    "rainy night, a castle",
    "a sailing boat at sunset",
    "hills and trees at daybreak",
    "a lonely house in the desert",
    "a lighthouse on the left, full moon",
    "mountains and a lake, no clouds",
    "a fortress at dawn, pine trees",
    "a boat on the sea at night, stars",
    "a cabin in winter, snowing",
    "a mill on a hill, clear sky",
    "dunes at noon, a castle on the right",
    "sunset over the sea",
)
SIDE_PX, GAP_PX, COLUMNS = 176, 6, 3
NOTE_PX = 40


def small(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def pixels(pictures: Tensor) -> np.ndarray:
    """The first of rendered pictures in bytes."""
    out: np.ndarray = (pictures[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return out


def page(cells: list[tuple[np.ndarray, np.ndarray, str, str]]) -> Image.Image:
    """Made and true side by side, what was typed and what went wrong below."""
    width, height = 2 * SIDE_PX + 3 * GAP_PX, SIDE_PX + NOTE_PX
    sheet = Image.new("RGB", (COLUMNS * width, -(-len(cells) // COLUMNS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for n, (made, true, typed, wrong) in enumerate(cells):
        x, y = n % COLUMNS * width + GAP_PX, n // COLUMNS * height
        sheet.paste(small(made), (x, y))
        sheet.paste(small(true), (x + SIDE_PX + GAP_PX, y))
        draw.text((x, y + SIDE_PX + 4), typed, "black")
        draw.text((x, y + SIDE_PX + 18), wrong[:58], "red")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="scenes")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--drafts", type=int, default=1)
    args = parser.parse_args()
    pipe, model = Pipeline.load(args.backbone), judge.load()
    cells, rows = [], []
    for k, _ in progress(0, len(PROMPTS), "prompts"):
        result = pipe(PROMPTS[k], seed=k, steps=args.steps, drafts=args.drafts)
        drawn = result.report.completed_prompt
        true = render([sample_scene(np.random.default_rng(k), parse(drawn))], 512)
        seen = judge.seen(model, result.image)
        wrong = {key: pair for key, pair in judge.compared(drawn, seen).items() if pair[0] != pair[1]}
        note = "; ".join(f"{key}: {asked}, seen {found}" for key, (asked, found) in wrong.items())
        cells.append((result.image, pixels(true), PROMPTS[k], note))
        rows.append({"typed": PROMPTS[k], "drawn": drawn, "wrong": note})
    page(cells).save(common.DOCS / "contact-sheet.jpg", quality=88)
    right = sum(not row["wrong"] for row in rows)
    common.write("typed", {"steps": args.steps, "drafts": args.drafts, "all_right": right / len(rows), "prompts": rows})


if __name__ == "__main__":
    main()
