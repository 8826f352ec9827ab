"""Prompt fidelity: the share of named attributes that the classifier finds in generated images.

`python -m experiments.fidelity.run --prompts 100 --steps 4` draws captions of test scenes, once from
combinations that training saw and once from those kept from it, and writes contact sheets with what went wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from experiments import common
from megen.diffusion import denoise
from megen.models import embedded
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import judge as judging
from megen.scenes.judge import Classifier
from megen.training.loop import progress

BATCH = 4


def measure(backbone: EmbeddedBackbone, judge: Classifier, prompts: int, steps: int, guidance: float, unseen: bool) -> dict:
    """Accuracy over named attributes, by attribute, and the failures; images as small bytes."""
    right: dict[str, list[bool]] = {}
    shown, failures = [], []
    for k, bar in progress(0, -(-prompts // BATCH), "unseen" if unseen else "seen"):
        index = list(range(k * BATCH, min(prompts, (k + 1) * BATCH)))
        texts = [judging.held_out_prompt(i, unseen)[1] for i in index]
        with torch.inference_mode():
            condition = backbone.condition(texts, guidance)
            latents = denoise.sample(backbone, condition, index, backbone.spec.times[steps])
            images = backbone.decode(latents)
        small = F.interpolate(images, size=(256, 256), mode="area")
        for i, text, got, image in zip(index, texts, judging.predict(judge, images), small, strict=True):
            told = judging.compared(text, got)
            wrong = [f"{key}: {value}, seen {found}" for key, (value, found) in told.items() if found != value]
            for key, (value, found) in told.items():
                right.setdefault(key, []).append(found == value)
            failures += [{"index": i, "caption": text, "wrong": wrong}] if wrong else []
            shown.append((image, text, wrong))
        flat = [r for v in right.values() for r in v]
        bar["accuracy"] = sum(flat) / len(flat)
    by_attribute = {k: {"accuracy": sum(v) / len(v), "n": len(v)} for k, v in sorted(right.items())}
    error = (bar["accuracy"] * (1 - bar["accuracy"]) / len(flat)) ** 0.5
    summary = {"prompts": prompts, "named_attributes": len(flat), "accuracy": bar["accuracy"], "standard_error": error}
    return {**summary, "by_attribute": by_attribute, "failures": failures, "shown": shown}


def sheet(shown: list, out: Path, columns: int = 6, rows: int = 4) -> None:
    """A contact sheet, what went wrong written below each image."""
    page = Image.new("RGB", (columns * 264, rows * 296), "white")
    draw = ImageDraw.Draw(page)
    for n, (image, text, wrong) in enumerate(shown[: columns * rows]):
        x, y = n % columns * 264, n // columns * 296
        page.paste(Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()), (x, y))
        draw.text((x, y + 258), text[:44], "black")
        draw.text((x, y + 270), text[44:88], "black")
        draw.text((x, y + 282), "; ".join(wrong)[:44], "red")
    page.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="scenes")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=None, help="default: the backbone's own")
    parser.add_argument("--name", default="fidelity")
    args = parser.parse_args()
    backbone, judge = embedded.load(args.backbone, quick=True), judging.load()
    guidance = args.guidance or backbone.config.guidance
    found = {}
    for name, unseen in (("seen", False), ("unseen", True)):
        result = measure(backbone, judge, args.prompts, args.steps, guidance, unseen)
        shown = result.pop("shown")
        sheet(shown, common.folder() / f"{args.name}-{name}.png")
        found[name] = result
    common.write(args.name, {"steps": args.steps, "guidance": guidance, **found})


if __name__ == "__main__":
    main()
