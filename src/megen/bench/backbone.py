"""How good a backbone is at each number of steps: `megen bench backbone`.

Scene Fréchet distance (in the judge's features, to renders of the same captions' scenes; not comparable with any
FID), accuracy of the attributes that a prompt names, distance to the teacher's image of the same noise, seconds
and FLOPs. The teacher, a consistency model and nets of reduced depth are measured beside it where they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from megen import pipeline
from megen.bench import judge
from megen.bench.judge import Classifier
from megen.bench.profile import gflops as counted_gflops
from megen.diffusion import path
from megen.models.backbone import Backbone
from megen.pipeline import Clock, Walk
from megen.training.distill import TEACHER_STEPS
from megen.training.render import render
from megen.training.scenes import Scene

BOOTSTRAPS = 30
SHEET_STEPS = (1, 2, 4, 8, 12)


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts, their scenes and seeds; the first half of combinations that training saw, the others not."""

    texts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    seeds: tuple[int, ...]
    unseen: tuple[bool, ...]

    @staticmethod
    def of(count: int, seed: int) -> Prompts:
        """`count` prompts of seen combinations and as many of unseen ones."""
        drawn = [(u, *judge.held_out_prompt(100_000 * seed + i, u)) for u in (False, True) for i in range(count)]
        seeds = tuple(100_000 * seed + i for i in range(len(drawn)))
        return Prompts(tuple(t for _, _, t in drawn), tuple(s for _, s, _ in drawn), seeds, tuple(u for u, _, _ in drawn))


@dataclass(frozen=True)
class Pictures:
    """What is kept of a set of pictures: features, what the judge sees, and small copies."""

    features: Float[Tensor, "n 256"]
    seen: tuple[dict[str, str], ...]
    small: Float[Tensor, "n 3 256 256"]
    latents: Float[Tensor, "n c h w"] | None = None


class _Given(nn.Module):
    """Stands where torchmetrics expects a feature extractor: the features are computed already."""

    num_features = judge.N_FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Fréchet distance of Gaussians fitted to two sets of the judge's features."""
    metric = FrechetInceptionDistance(feature=_Given(), input_img_size=(1, 1, judge.N_FEATURES)).set_dtype(torch.float64)
    metric.update(a.double().cpu(), real=True)
    metric.update(b.double().cpu(), real=False)
    return float(metric.compute())


def frechet_error(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], resamples: int = BOOTSTRAPS) -> float:
    """Standard error of the Fréchet distance over the prompts: pairs (render, picture) are drawn again."""
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randint(len(a), (len(a),), generator=generator) for _ in range(resamples))
    return float(np.std([frechet_distance(a[i], b[i]) for i in draws]))


@torch.inference_mode()
def judged(model: Classifier, images: Iterable[Tensor]) -> Pictures:
    """Batches of pictures [b, 3, n, n] in [0, 1] to what is kept of them."""
    found = [(model.features(judge.prepared(x)), judge.predict(model, x), F.interpolate(x, size=(256, 256), mode="area")) for x in images]
    return Pictures(
        torch.cat([f.float().cpu() for f, _, _ in found]),
        tuple(s for _, seen, _ in found for s in seen),
        torch.cat([x.cpu().half() for _, _, x in found]),
    )


def accuracy(prompts: Prompts, seen: Sequence[dict[str, str]], unseen: bool) -> tuple[float, float, dict[str, float]]:
    """Share of the named attributes that the judge finds, its standard error (over prompts), and the share by attribute."""
    rows = [judge.compared(text, got) for text, got, kind in zip(prompts.texts, seen, prompts.unseen, strict=True) if kind == unseen]
    right: dict[str, list[bool]] = {}
    for row in rows:
        for key, (asked, got) in row.items():
            right.setdefault(key, []).append(asked == got)
    hits, named = (np.array([f(row) for row in rows], float) for f in (lambda r: sum(a == b for a, b in r.values()), len))
    share = hits.sum() / named.sum()
    error = float(np.sqrt(((hits - share * named) ** 2).sum()) / named.sum())
    return float(share), error, {k: sum(v) / len(v) for k, v in sorted(right.items())}


def generate(backbone: Backbone, prompts: Prompts, steps: int, batch: int, guidance: float | None, walk: Walk) -> Float[Tensor, "n c h w"]:
    """Latents of all prompts, each from its own seed."""
    cut = [slice(i, i + batch) for i in range(0, len(prompts.texts), batch)]
    return torch.cat(
        [pipeline.denoise(backbone, prompts.texts[c], prompts.seeds[c], steps, Clock(), guidance=guidance, walk=walk).cpu() for c in cut]
    )


def seconds(backbone: Backbone, steps: int, guidance: float | None, walk: Walk, repeats: int = 3) -> float:
    """Seconds of text and denoising of one image alone, the best of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        clock = Clock()
        pipeline.denoise(backbone, ["a cabin on the left at night, a full moon"], [0], steps, clock, guidance=guidance, walk=walk)
        best = min(best, sum(clock.seconds.values()))
    return best


def gflops(backbone: Backbone, steps: int, guidance: float | None, walk: Walk) -> float:
    """Floating-point operations of text and denoising of one image, in 10^9 (a multiply-add is two)."""
    prompt = "a cabin on the left at night, a full moon"
    return counted_gflops(lambda: pipeline.denoise(backbone, [prompt], [0], steps, Clock(), guidance=guidance, walk=walk))


class Bench:
    """Renders the prompts' scenes once, then measures one sampler after the other against them."""

    def __init__(self, model: Classifier, prompts: Prompts, device: torch.device, batch: int, say: Callable[[str], object]) -> None:
        self.model, self.prompts, self.batch, self.say = model.to(device), prompts, batch, say
        say("renders")
        cut = [prompts.scenes[i : i + 8] for i in range(0, len(prompts.scenes), 8)]
        self.real = judged(self.model, (render(part, judge.SIZE_PX, device) for part in cut))
        self.reference: Float[Tensor, "n c h w"] | None = None  # the teacher's latents of the same noise

    @torch.inference_mode()
    def measure(
        self, name: str, backbone: Backbone, steps: int, guidance: float | None = None, walk: Walk = path.walk
    ) -> tuple[dict[str, Any], Pictures]:
        """Figures of one sampler at one number of steps, and its pictures."""
        self.say(f"{name}, {steps} steps")
        latents = generate(backbone, self.prompts, steps, self.batch, guidance, walk).to(backbone.latent_mean.device)
        levels: list[Tensor] = []

        def decoded() -> Iterator[Tensor]:
            for i in range(0, len(latents), 8):
                images = backbone.decode_latents(latents[i : i + 8]).float()
                if self.reference is not None:
                    goal = backbone.decode_latents(self.reference[i : i + 8]).float()
                    levels.append(-10 * (images - goal).square().mean((1, 2, 3)).clamp(min=1e-10).log10().cpu())
                yield images

        made = judged(self.model, decoded())
        figures: dict[str, Any] = {
            "scene_fd": frechet_distance(self.real.features, made.features),
            "scene_fd_error": frechet_error(self.real.features, made.features),
        }
        for unseen, suffix in ((False, ""), (True, "_unseen")):
            share, error, by_attribute = accuracy(self.prompts, made.seen, unseen)
            figures |= {
                f"attribute_accuracy{suffix}": share,
                f"attribute_accuracy{suffix}_error": error,
                f"by_attribute{suffix}": by_attribute,
            }
        if self.reference is not None:
            figures["psnr_teacher_db"] = float(torch.cat(levels).mean())
        figures["seconds"] = seconds(backbone, steps, guidance, walk)
        figures["gflops"] = gflops(backbone, steps, guidance, walk)
        return figures, replace(made, latents=latents)


def compare(
    backbone: Backbone,
    steps: Sequence[int],
    prompts: Prompts,
    teacher: Backbone | None = None,
    consistency: Backbone | None = None,
    skipped: int = 0,
    batch: int = 4,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[dict[str, Any], Image.Image]:
    """All figures, and a contact sheet: a row of six prompts for each number of steps."""
    device = backbone.latent_mean.device
    bench = Bench(judge.load(), prompts, device, batch, say)
    found: dict[str, Any] = {"prompts": len(prompts.texts), "steps": {}}
    rows: dict[str, Pictures] = {}
    if teacher is not None:
        told, pictures = bench.measure("teacher", teacher, TEACHER_STEPS)
        bench.reference, rows[f"teacher {TEACHER_STEPS}"] = pictures.latents, pictures
        found["teacher"] = {str(TEACHER_STEPS): told}
    for n in steps:
        found["steps"][str(n)], pictures = bench.measure("flow map", backbone, n)
        rows = {str(n): pictures, **rows} if n in SHEET_STEPS else rows
    if skipped:
        backbone.skipped = skipped
        found["reduced depth"] = {str(n): bench.measure(f"{skipped} blocks left out", backbone, n)[0] for n in steps}
        backbone.skipped = 0
    if teacher is not None:
        for name, walk in (("teacher, Euler", path.walk), ("teacher, midpoint", path.walk_midpoint)):
            found[name] = {str(n): bench.measure(name, teacher, n, walk=walk)[0] for n in steps}
    if consistency is not None:
        walk = partial(path.walk_consistently, generator=torch.Generator().manual_seed(0))
        found["consistency"] = {str(n): bench.measure("consistency", consistency, n, walk=walk)[0] for n in steps}
    return found, sheet({k: rows[k] for k in sorted(rows, key=lambda k: int(k.split()[-1]))})


def sheet(rows: dict[str, Pictures], columns: int = 6) -> Image.Image:
    """The first prompts' pictures, a row for each set."""
    small = [p.small[:columns].float() for p in rows.values()]
    grid = torch.cat([torch.cat(list(row), -1) for row in small], -2)
    return Image.fromarray((grid.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())
