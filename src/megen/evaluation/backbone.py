"""How good a backbone is at each number of steps: `megen bench backbone`.

Scene Fréchet distance (in the judge's features, to renders of the same captions' scenes; not comparable with any
FID), its floor (other renders of the same captions) and the excess over it, density and coverage, sharpness by octave,
attributes that come out right for full and for short prompts, distance to the teacher's image of the same noise, seconds and
FLOPs. The teacher, a consistency model and nets of reduced depth are measured beside it where they are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from megen import run_folder
from megen.diffusion import flow_map
from megen.diffusion.denoise import noise_of
from megen.errors import InputError
from megen.evaluation import picture_set
from megen.evaluation.device_profile import gflops as counted_gflops
from megen.evaluation.picture_set import Pictures, judged
from megen.evaluation.pictures import all_right, density_and_coverage, paired, rights, same_caption, short_figures
from megen.files import to_json
from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.fingerprint import identity
from megen.scenes import drafts as drafting
from megen.scenes import judge
from megen.scenes.captions import Scene
from megen.scenes.completion import complete, short_caption
from megen.scenes.judge import Classifier
from megen.scenes.render import render
from megen.training.adversarial_health import octaves, strong_edges
from megen.training.distill import TEACHER_STEPS

BOOTSTRAPS = 30
OCTAVES = ("finest", "second", "third", "fourth")
SHORT_STREAM = 23  # of short prompts
DECODED = 8  # pictures at once
SHARP = 48  # pictures that sharpness is measured on
SHEET_STEPS = (1, 2, 4, 8, 12)
PROMPT = "a cabin on the left at night, a full moon"  # of seconds and FLOPs

Solver = Callable[..., Iterator[Tensor]]  # of velocity, noise, grid, and where it draws noise a generator


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts, their scenes and seeds; the first half of combinations that training saw, the others not.

    `short` are as people type them, an object and one or two attributes of the same scenes; `drawn` what is made of those: completed.
    """

    texts: tuple[str, ...]
    scenes: tuple[Scene, ...]
    seeds: tuple[int, ...]
    unseen: tuple[bool, ...]
    short: tuple[str, ...]
    drawn: tuple[str, ...]

    @staticmethod
    def of(count: int, seed: int, *, as_typed: bool = False) -> Prompts:
        """`count` prompts of seen combinations and as many of unseen ones; `as_typed`: short ones are not completed."""
        drawn = [(u, *judge.held_out_prompt(100_000 * seed + i, u)) for u in (False, True) for i in range(count)]
        seeds = tuple(100_000 * seed + i for i in range(len(drawn)))
        scenes = tuple(s for _, s, _ in drawn)
        short = tuple(short_caption(s, np.random.default_rng([SHORT_STREAM, k])) for s, k in zip(scenes, seeds, strict=True))
        full = short if as_typed else tuple(complete(text, k).text for text, k in zip(short, seeds, strict=True))
        return Prompts(tuple(t for _, _, t in drawn), scenes, seeds, tuple(u for u, _, _ in drawn), short, full)


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


def frechet_difference(real: Float[Tensor, "n d"], ours: Float[Tensor, "n d"], theirs: Float[Tensor, "n d"]) -> dict[str, float]:
    """How much lower one set's distance to the renders is than another's of the same prompts, and its standard error over the prompts."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randint(len(real), (len(real),), generator=generator) for _ in range(BOOTSTRAPS)]
    gains = [frechet_distance(real[i], theirs[i]) - frechet_distance(real[i], ours[i]) for i in draws]
    return {"lower_by": frechet_distance(real, theirs) - frechet_distance(real, ours), "standard_error": float(np.std(gains))}


def accuracy(prompts: Prompts, seen: Sequence[dict[str, str]], unseen: bool) -> tuple[float, float, dict[str, float]]:
    """Share of the named attributes that the judge finds, its standard error (over prompts), and the share by attribute."""
    chosen = [(text, shown) for text, shown, kind in zip(prompts.texts, seen, prompts.unseen, strict=True) if kind == unseen]
    right: dict[str, list[bool]] = {}
    for text, shown in chosen:
        for key, (asked, found) in judge.compared(text, shown).items():
            right.setdefault(key, []).append(asked == found)
    whole = rights([text for text, _ in chosen], [shown for _, shown in chosen])
    assert whole["right"] is not None  # held-out prompts name object, time and weather
    assert whole["right_error"] is not None
    return whole["right"], whole["right_error"], {k: sum(v) / len(v) for k, v in sorted(right.items())}


@dataclass(frozen=True)
class Sampler:
    """How latents are made of prompts: a backbone, a solver, and blocks of its denoiser that are left out."""

    backbone: EmbeddedBackbone
    solver: Solver = flow_map.sample
    skipped: int = 0
    renoised: bool = False  # the solver draws noise on the way

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Float[Tensor, "b c h w"]:
        """Latents of prompts, each from its own seed, in any number of steps."""
        backbone, condition = self.backbone, self.backbone.condition(prompts)
        noise = torch.cat([noise_of(backbone.latent_shape, seed) for seed in seeds]).to(backbone.device)
        z = noise.contiguous(memory_format=torch.channels_last)
        grid = flow_map.times(steps, backbone.config.time_shift)
        drawn = {"generator": torch.Generator().manual_seed(seeds[0])} if self.renoised else {}
        end = list(self.solver(lambda z, s, t: backbone.velocity(z, s, t, condition, self.skipped), z, grid, **drawn))[-1]
        if backbone.refiner is None:
            return end
        fresh = torch.cat([noise_of(backbone.latent_shape, seed, 1) for seed in seeds]).to(backbone.device)
        return backbone.refined(end, fresh, torch.full((len(z),), grid[-2], device=z.device), condition)


def seconds(sampler: Sampler, steps: int, repeats: int = 3) -> float:
    """Seconds of text and denoising of one image alone, the best of `repeats`."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        sampler([PROMPT], [0], steps).cpu()
        best = min(best, time.perf_counter() - start)
    return best


def gflops(sampler: Sampler, steps: int) -> float:
    """Floating-point operations of text and denoising of one image, in 10^9 (a multiply-add is two)."""
    return counted_gflops(lambda: sampler([PROMPT], [0], steps))


def _decoded(backbone: EmbeddedBackbone, latents: Float[Tensor, "n c h w"]) -> Iterator[tuple[int, Float[Tensor, "b 3 p q"]]]:
    """Pictures of latents, `DECODED` at once, with the number of the first."""
    return ((j, backbone.decode(latents[j : j + DECODED]).float()) for j in range(0, len(latents), DECODED))


def _sharpness(each: Float[Tensor, "n 4"], edges: Float[Tensor, " n"]) -> dict[str, float]:
    """Root mean square of pictures' octaves, by octave, and the mean share of strong edges."""
    levels = dict(zip(OCTAVES, each.double().square().mean(0).sqrt().tolist(), strict=True))
    return levels | {"strong_edges": float(edges.double().mean())}


def _sharp(images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 4"], Float[Tensor, " b"]]:
    """Octaves and strong edges of each picture."""
    each = [image[None].cpu() for image in images]
    return torch.tensor([octaves(x) for x in each]).reshape(-1, len(OCTAVES)), torch.tensor([strong_edges(x) for x in each])


class Bench:
    """Renders the prompts' scenes once, then measures one sampler after the other against them; parts that `work` holds are kept."""

    def __init__(
        self,
        model: Classifier,
        prompts: Prompts,
        device: torch.device,
        batch: int,
        say: Callable[[str], object],
        *,
        drafts: int = 1,
        work: Path | None = None,
    ) -> None:
        self.model, self.prompts, self.batch, self.say = model.to(device), prompts, batch, say
        self.device, self.drafts, self.work = device, drafts, work
        self.real = self._rendered("renders", prompts.scenes)
        again = self._rendered("other renders", [same_caption(text, k) for k, text in enumerate(prompts.texts)])
        self.floor = frechet_distance(self.real.features, again.features)
        self.floor_coverage = density_and_coverage(self.real.features, again.features)[1]
        self.reference: Float[Tensor, "n c h w"] | None = None  # the teacher's latents of the same noise

    def _parts(self, name: str, count: int, make: Callable[[slice], Pictures]) -> Pictures:
        parts = []
        for i in range(0, count, self.batch):
            self.say(f"{name}, {i}/{count}")
            part = slice(i, i + self.batch)
            parts.append(picture_set.kept(self.work, f"{name} {i:05d}".replace(",", "").replace(" ", "-"), lambda: make(part)))  # noqa: B023
        return picture_set.joined(parts)

    def _rendered(self, name: str, scenes: Sequence[Scene]) -> Pictures:
        return self._parts(
            name, len(scenes), lambda part: judged(self.model, render(list(scenes[part]), judge.SIZE_PX, self.device), part.start)
        )

    @torch.inference_mode()
    def _made(self, sampler: Sampler, steps: int, part: slice) -> Pictures:
        """Pictures of full prompts, with all their figures."""
        backbone = sampler.backbone
        latents = sampler(self.prompts.texts[part], self.prompts.seeds[part], steps)
        goals = repeat(None) if self.reference is None else _decoded(backbone, self.reference[part].to(backbone.device))
        pieces = []
        for (j, images), known in zip(_decoded(backbone, latents), goals, strict=False):
            first = part.start + j
            levels = None
            if known is not None:
                goal = known[1]
                levels = -10 * (images - goal).square().mean((1, 2, 3)).clamp(min=1e-10).log10().cpu()
            octave, edges = _sharp(images[: max(0, SHARP - first)])
            pieces.append(replace(judged(self.model, images, first), octaves=octave, strong_edges=edges, teacher_db=levels))
        return replace(picture_set.joined(pieces), latents=latents.cpu())

    @torch.inference_mode()
    def _made_of_short(self, sampler: Sampler, steps: int, part: slice) -> Pictures:
        """Pictures of short prompts, each the best of `drafts`."""
        texts, seeds = self.prompts.drawn[part], list(self.prompts.seeds[part])
        for k, text in enumerate(texts if self.drafts > 1 else ()):
            drafted = drafting.seeds_of(seeds[k], self.drafts)
            seeds[k] = drafted[drafting.best(text, sampler([text] * len(drafted), drafted, 1))]
        latents = sampler(texts, seeds, steps)
        pieces = [judged(self.model, images, part.start + j) for j, images in _decoded(sampler.backbone, latents)]
        return replace(picture_set.joined(pieces), latents=latents.cpu())

    def sharpness_of_renders(self, backbone: EmbeddedBackbone) -> dict[str, float]:
        """Octaves of the first scenes' renders at the backbone's size."""
        each = [_sharp(render([s], backbone.config.image_px[0], self.device)) for s in self.prompts.scenes[:SHARP]]
        return _sharpness(*map(torch.cat, zip(*each, strict=True)))

    def short(self, name: str, sampler: Sampler, steps: int) -> tuple[dict[str, Any], Sequence[dict[str, str]]]:
        """What short prompts get at one number of steps, and what the judge sees."""
        prompts, backbone = self.prompts, sampler.backbone
        made = self._parts(f"{name}, {steps} steps, short", len(prompts.drawn), partial(self._made_of_short, sampler, steps))
        assert made.latents is not None
        alone = drafting.alone(drafting.chooser(), made.latents.to(backbone.device)) if drafting.known(backbone) else None
        return short_figures(prompts.short, made.seen, alone), made.seen

    def both(self, name: str, sampler: Sampler, steps: int) -> tuple[dict[str, Any], Pictures, Sequence[dict[str, str]]]:
        """Figures of full and of short prompts; the full ones' pictures, and what is seen in the short ones'."""
        full, pictures = self.measure(name, sampler, steps)
        short, shown = self.short(name, sampler, steps)
        return full | short, pictures, shown

    def paired(self, ours: tuple[Pictures, Sequence[dict[str, str]]], theirs: tuple[Pictures, Sequence[dict[str, str]]]) -> dict[str, Any]:
        """Two backbones on the same prompts and noise."""
        texts = self.prompts
        return {
            "all_right_full": paired(*(all_right(texts.texts, of[0].seen) for of in (ours, theirs))),
            "all_right_short": paired(*(all_right(texts.short, of[1]) for of in (ours, theirs))),
            "scene_fd": frechet_difference(self.real.features, ours[0].features, theirs[0].features),
        }

    def measure(self, name: str, sampler: Sampler, steps: int) -> tuple[dict[str, Any], Pictures]:
        """Figures of one sampler at one number of steps, and its pictures."""
        made = self._parts(f"{name}, {steps} steps", len(self.prompts.texts), partial(self._made, sampler, steps))
        assert made.octaves is not None
        assert made.strong_edges is not None
        distance = frechet_distance(self.real.features, made.features)
        density, coverage = density_and_coverage(self.real.features, made.features)
        figures: dict[str, Any] = {
            "scene_fd": distance,
            "scene_fd_error": frechet_error(self.real.features, made.features),
            "scene_fd_floor": self.floor,
            "scene_fd_excess": distance - self.floor,
            "density": density,
            "coverage": coverage,
            "sharpness": _sharpness(made.octaves, made.strong_edges),
            **{f"{key}_full": value for key, value in rights(self.prompts.texts, made.seen).items()},
        }
        for unseen, suffix in ((False, ""), (True, "_unseen")):
            share, error, by_attribute = accuracy(self.prompts, made.seen, unseen)
            figures |= {
                f"attribute_accuracy{suffix}": share,
                f"attribute_accuracy{suffix}_error": error,
                f"by_attribute{suffix}": by_attribute,
            }
        if made.teacher_db is not None:
            figures["psnr_teacher_db"] = float(made.teacher_db.mean())
        figures["seconds"] = seconds(sampler, steps)
        figures["gflops"] = gflops(sampler, steps)
        return figures, made


def compare(
    backbone: EmbeddedBackbone,
    steps: Sequence[int],
    prompts: Prompts,
    teacher: EmbeddedBackbone | None = None,
    consistency: EmbeddedBackbone | None = None,
    other: EmbeddedBackbone | None = None,
    *,
    skipped: int = 0,
    batch: int = 4,
    drafts: int = 1,
    say: Callable[[str], object] = lambda text: None,
    work: Path | None = None,
) -> tuple[dict[str, Any], Image.Image]:
    """All figures, and a contact sheet: a row of six prompts for each number of steps. What `work` holds of an earlier run is kept.

    Errors: InputError where backbones have other latents or cannot have drafts, or where `work` is of other backbones or prompts or in use.
    """
    for each in filter(None, (backbone, other)):
        drafting.check(each, drafts)
    if other is not None and other.latent_shape != backbone.latent_shape:
        raise InputError(f"the latents of the two backbones differ in shape: {backbone.latent_shape} and {other.latent_shape}")
    beside = {"teacher": teacher, "consistency": consistency, "other": other}
    recipe: dict[str, Any] = {
        "backbone": identity(backbone),
        **{k: identity(v) if v else None for k, v in beside.items()},
        "skipped": skipped,
    }
    recipe |= {"prompts": weights.digest(to_json([prompts.texts, prompts.seeds, prompts.drawn]), {})[:16], "drafts": drafts, "batch": batch}
    model = judge.load()
    judges = [model, *([drafting.chooser()] if drafts > 1 else [])]
    recipe |= {"device": str(backbone.device), "precision": str(backbone.precision)}
    recipe |= {"judges": [weights.digest("", each.state_dict())[:16] for each in judges]}
    with run_folder.held(work, recipe):
        bench = Bench(model, prompts, backbone.device, batch, say, drafts=drafts, work=work)
        return _compared(bench, backbone, steps, teacher, consistency, other, skipped)


def _compared(
    bench: Bench,
    backbone: EmbeddedBackbone,
    steps: Sequence[int],
    teacher: EmbeddedBackbone | None,
    consistency: EmbeddedBackbone | None,
    other: EmbeddedBackbone | None,
    skipped: int,
) -> tuple[dict[str, Any], Image.Image]:
    of_renders = {"scene_fd_floor": bench.floor, "coverage": bench.floor_coverage, "sharpness": bench.sharpness_of_renders(backbone)}
    figures_: dict[str, Any] = {"prompts": len(bench.prompts.texts), "drafts": bench.drafts, "renders": of_renders, "steps": {}}
    rows: dict[str, Pictures] = {}
    if teacher is not None:
        teacher_figures, pictures = bench.measure("teacher", Sampler(teacher), TEACHER_STEPS)
        bench.reference, rows[f"teacher {TEACHER_STEPS}"] = pictures.latents, pictures
        figures_["teacher"] = {str(TEACHER_STEPS): teacher_figures}
    for n in steps:
        ours = bench.both("flow map", Sampler(backbone), n)
        figures_["steps"][str(n)], pictures = ours[:2]
        rows = {str(n): pictures, **rows} if n in SHEET_STEPS else rows
        if other is not None:
            theirs = bench.both("the other", Sampler(other), n)
            figures_.setdefault("other", {})[str(n)] = theirs[0]
            figures_.setdefault("paired", {})[str(n)] = bench.paired(ours[1:], theirs[1:])
    if skipped:
        reduced = Sampler(backbone, skipped=skipped)
        figures_["reduced depth"] = {str(n): bench.measure(f"{skipped} blocks left out", reduced, n)[0] for n in steps}
    if teacher is not None:
        for name, solver in (("teacher, Euler", flow_map.sample), ("teacher, midpoint", flow_map.sample_midpoint)):
            figures_[name] = {str(n): bench.measure(name, Sampler(teacher, solver), n)[0] for n in steps}
    if consistency is not None:
        jumping = Sampler(consistency, flow_map.sample_consistency, renoised=True)
        figures_["consistency"] = {str(n): bench.measure("consistency", jumping, n)[0] for n in steps}
    return figures_, picture_set.sheet({k: rows[k] for k in sorted(rows, key=lambda k: int(k.split()[-1]))})
