"""What each part of the adversarial fine-tuning is worth: the whole of it, without discriminator, without reward, and a flow map
corrected on its own states by the start's velocity instead, each with the same number of steps and rows.

`python -m experiments.sharpening.run --start fifth --latents out/X/latents --judges out/X --device cuda`, where out/X is the folder of a
`megen train scenes --from fifth --adversarial --out out/X`, and fifth holds weights that were not sharpened:
`mkdir fifth && git archive 57a1507 src/megen/assets/scenes | tar -x --strip-components=4 -C fifth`. Finished arms in `--out` are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments import common
from megen import run_folder
from megen.backbone import Condition
from megen.diffusion import flow_map, losses
from megen.files import write_json
from megen.models import embedded
from megen.models.embedded import EmbeddedBackbone
from megen.models.placement import bf16_pays, device_of, place
from megen.scenes import drafts
from megen.training import adversarial, latents, loop
from megen.training.adversarial import AdversarialRecipe, Student, ways
from megen.training.adversarial_batches import batches
from megen.training.adversarial_health import Watch
from megen.training.guided import encoded, velocity_of
from megen.training.latents import LatentSet

ON_POLICY = "on policy"
ARMS: dict[str, dict[str, Any]] = {
    "start": {},
    "whole": {},
    "no discriminator": {"gan_weight": 0.0},
    "no reward": {"reward_weight": 0.0},
    ON_POLICY: {},
}
HALF_SPAN = 0.04  # of the Lagrangian loss's central difference
HELD = 128  # prompts of each kind that an arm is judged by


def on_policy(recipe: AdversarialRecipe, start: EmbeddedBackbone, data: Callable[[int], LatentSet], device: torch.device) -> Student:
    """Match the start's instantaneous velocity along the flow map's own jumps from its own states (Boffi et al. 2025)."""
    student, average = (place(Student(start), device) for _ in range(2))
    ema, bf16 = loop.Average(student, average, recipe.ema), bf16_pays(device)
    optimiser = adversarial.adamw((student.denoiser, recipe.lr), (student.text, recipe.text_lr))
    drawn = batches(start, data, recipe.batch, range(recipe.steps), device, alone=recipe.alone, seed=recipe.seed)
    for (step, shown), batch in zip(loop.progress(0, recipe.steps, ON_POLICY), drawn, strict=True):
        loop.set_lr([optimiser], loop.lr_factor(step, recipe.steps, 20, recipe.decay_share))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            condition = encoded(student.text, batch.tokens)
            with torch.no_grad():
                teacher = velocity_of(start.denoiser, encoded(start.text, batch.tokens))
                s = ways(recipe.batch, start.config.time_shift, batch.generator)[:, -1]
                z = flow_map.step(velocity_of(student.denoiser, condition), batch.noise, torch.zeros_like(s), s)
            t = losses.sample_spans(s, recipe.batch // 4, batch.generator)
            both = velocity_of(student.denoiser, Condition.cat([condition, condition]))  # either end of the difference
            value = losses.lagrangian(both, teacher, z, s, t, HALF_SPAN).square().mean()
        loop.descend(value, student, [optimiser])
        ema.update(student, step)
        shown["loss"] = float(value.detach())
    return average.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", required=True)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--judges", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=2048, help="rendered scenes of the latents that are used")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/sharpening"))
    args = parser.parse_args()
    device, named = device_of(args.device), args.arms.split(",")
    start = place(embedded.load(args.start), device)
    reward, chooser = (place(drafts.read(args.judges / f"judge-{name}.safetensors"), device) for name in ("reward", "choosing"))
    data, validation = latents.load(args.latents / "train", args.scenes), latents.load(args.latents / "validation", 256)
    recipe = AdversarialRecipe(steps=args.steps, batch=args.batch, save_every=args.steps, watch_every=args.steps)
    about = {"start": start.digest, "steps": args.steps, "batch": args.batch, "scenes": args.scenes, "prompts of each kind": HELD}
    found = {}
    for arm in named:
        folder = args.out / arm.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        file, began = folder / "arm.json", time.monotonic()
        if file.is_file():
            run_folder.check_same(about, json.loads(file.read_text())["recipe"], str(file))
        else:
            if arm == "start":
                student = Student(start).eval()
            elif arm == ON_POLICY:
                student = on_policy(recipe, start, lambda step: data, device)
            else:
                own = replace(recipe, **ARMS[arm])
                student = adversarial.train(own, copy.deepcopy(start), (reward, chooser), lambda step: data, validation, folder, device)
            seconds = time.monotonic() - began
            line = Watch(start, chooser, validation, folder, device, HELD).look(student.text, student.denoiser, args.steps)
            write_json(file, {"recipe": about, "seconds": round(seconds, 1), **line, "made_by": common.made_by()})
        found[arm] = json.loads(file.read_text())
    if set(found) == set(ARMS):
        common.write("sharpening", {**about, "arms": found})


if __name__ == "__main__":
    main()
