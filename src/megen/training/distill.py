"""Distils a teacher's guided sampler into one flow map that is good at any number of steps.

The student is a denoiser like the teacher's and begins as it; text encoder and latents stay the teacher's. A
quarter of each batch learns the teacher's guided velocity (t = s), the rest the flow map: by a place further along the
teacher's own path (`trajectories.py`), or by one of three losses of `diffusion/losses.py`. The raw error, the mean squared
distance to the teacher's own 50-step latents from the same noise, decides which weights are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen.backbone import Condition
from megen.diffusion import flow_map, losses
from megen.diffusion.flow_map import Velocity
from megen.models.denoiser import FLOOR, N_SKIPPABLE, Denoiser
from megen.models.embedded import EmbeddedBackbone
from megen.models.placement import bf16_pays, place
from megen.provenance import provenance
from megen.training import loop
from megen.training.batches import batches, normalised
from megen.training.guided import encoded, field_of, velocity_of
from megen.training.latents import LatentSet
from megen.training.teacher import optimisers_of
from megen.training.trajectories import Trajectories, compute
from megen.types import InputError

LOSSES = ("trajectory", "progressive", "lagrangian", "consistency")
TEACHER_STEPS = 50
COUNTS = (1, 2, 4, 8)  # step counts of the raw error; a consistency model follows the teacher's path in one step only
CAPTION_DROPOUT = 0.1
HALF_SPAN = 0.04  # of the Lagrangian loss's central difference
CONSISTENCY_SPAN = 0.02  # the consistency baseline's discretisation: 50 steps


@dataclass(frozen=True)
class DistillRecipe:
    """How long and by which loss the flow map is distilled."""

    loss: str = "progressive"
    steps: int = 2000
    batch: int = 32
    lr: float = 1e-3
    guidance: float = 2.0
    diagonal_share: float = 0.25
    at_noise_share: float = 0.15  # of the rows begin at s = 0, as every sampling does
    decay_share: float = 0.5
    ema: float = 0.995
    paths: int = 2048  # of the teacher at most, for the trajectory loss: one for every four examples
    elastic: bool = False  # also train nets of reduced depth, towards the full one
    held: int = 48  # prompts of the raw error
    seed: int = 0
    save_every: int = 250


def raw_error(velocity: Velocity, noise: Float[Tensor, "b c h w"], goal: Float[Tensor, "b c h w"], count: int, shift: float) -> float:
    """Mean squared distance of `count` steps of the flow map to the teacher's latents of the same noise."""
    end = noise
    for end in flow_map.sample(velocity, noise, flow_map.times(count, shift)):  # noqa: B007
        pass
    return float((end - goal).square().mean())


def train(
    recipe: DistillRecipe,
    teacher: EmbeddedBackbone,
    data: Callable[[int], LatentSet],
    validation: LatentSet,
    folder: Path,
    device: torch.device,
    *,
    on_save: Callable[[Denoiser, int], object] | None = None,
    start: Denoiser | None = None,
) -> tuple[Denoiser, dict[str, float]]:
    """Distil (or resume from `folder`); returns the weights of least raw error and that error by step count.

    `on_save(average, step)` is called after every checkpoint; `start` is a flow map to begin with.
    Errors: InputError on a loss that is not known, RunError where the loss is NaN or infinite.
    """
    if recipe.loss not in LOSSES:
        raise InputError(f"the distillation's loss must be one of {', '.join(LOSSES)}, got {recipe.loss!r}")
    place(teacher, device).eval().requires_grad_(False)
    shift = teacher.config.time_shift
    student, average, best = (place(copy.deepcopy(start or teacher.denoiser), device) for _ in range(3))
    student.requires_grad_(True)
    ema, file = loop.Average(student, average, recipe.ema), folder / f"distill-{recipe.loss}.checkpoint.safetensors"
    done, bf16, least = 0, bf16_pays(device), float("inf")
    optimisers = optimisers_of(student, recipe.lr, bf16)
    modules: dict[str, torch.nn.Module] = {"student": student, "average": average, "best": best}
    if file.is_file():
        about = loop.load_checkpoint(file, modules, optimisers, asdict(recipe))
        done, bf16, least = int(about["step"]), about["bf16"], float("inf") if about["least"] is None else float(about["least"])
        optimisers[0].param_groups[0]["bf16"] = bf16

    fast, fast_goal, fast_teacher = (loop.compiled(net, device) for net in (student, average, teacher.denoiser))
    field = field_of(teacher, fast_teacher, recipe.guidance, device)
    held = _Held.of(teacher, field_of(teacher, teacher.denoiser, recipe.guidance, device), validation, recipe, device, bf16)
    source = _examples(recipe, teacher, data, range(done, recipe.steps), folder / "paths", device, bf16=bf16)
    smoothed, errors = loop.Smoothed(), held.errors(average, shift, device, bf16)
    for (step, shown), example in zip(loop.progress(done, recipe.steps, f"{recipe.loss} distillation"), source, strict=True):
        loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, max(1, min(100, recipe.steps // 8)), recipe.decay_share))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = _loss(recipe, (fast, fast_goal), field, example)
            if recipe.elastic:
                value = value + _shallow_loss(student, example)
        loop.descend(value, student, optimisers)
        ema.update(student, step)
        smoothed.add(value)
        if step % 50 == 49 or device.type == "cpu":
            shown["loss"] = smoothed.read()
        if (step + 1) % recipe.save_every == 0 or step == recipe.steps - 1:
            errors = held.errors(average, shift, device, bf16)
            if sum(errors.values()) < least:
                least = sum(errors.values())
                best.load_state_dict(average.state_dict())
            shown.update({"loss": smoothed.read(), **{f"e{k}": v for k, v in errors.items()}})
            about = {"step": step + 1, "least": least, "errors": errors, "recipe": asdict(recipe), "bf16": bf16, **provenance()}
            loop.save_checkpoint(file, modules, optimisers, about)
            if on_save is not None:
                on_save(average, step + 1)
    return best.eval(), {str(k): v for k, v in held.errors(best, shift, device, bf16).items()}


def _examples(
    recipe: DistillRecipe,
    teacher: EmbeddedBackbone,
    data: Callable[[int], LatentSet],
    steps: range,
    folder: Path,
    device: torch.device,
    *,
    bf16: bool,
) -> Iterator[_Example]:
    """What the loss learns from: places on the teacher's own paths (kept in `folder`), or latents of pictures with noise."""
    if recipe.loss != "trajectory":
        return _noised(data, teacher, recipe, steps, device)
    count = min(recipe.paths, max(1, recipe.steps * recipe.batch // 4))
    given = (teacher, recipe.guidance, data(0), count, folder, device)
    paths = compute(*given, caption_dropout=CAPTION_DROPOUT, seed=recipe.seed, bf16=bf16)
    return _along(paths, teacher, recipe, steps, device)


@dataclass(frozen=True)
class _Example:
    """Where a step begins and ends, and, where the teacher's path is known, its mean velocity between."""

    z: Tensor
    s: Tensor
    t: Tensor
    context: Condition
    generator: torch.Generator
    goal: Tensor | None = None


def _times(recipe: DistillRecipe, shift: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    s = losses.sample_times(recipe.batch, shift, generator)
    s = torch.where(torch.rand(len(s), generator=generator, device=s.device) < recipe.at_noise_share, 0.0, s)
    return s, losses.sample_spans(s, _diagonal(recipe), generator)


def _diagonal(recipe: DistillRecipe) -> int:
    return round(recipe.diagonal_share * recipe.batch)


def _noised(
    data: Callable[[int], LatentSet], teacher: EmbeddedBackbone, recipe: DistillRecipe, steps: range, device: torch.device
) -> Iterator[_Example]:
    """Latents of pictures with noise on them."""
    statistics = (teacher.latent_mean, teacher.latent_scale)
    for batch in batches(data, teacher.text, statistics, recipe.batch, steps, device, caption_dropout=CAPTION_DROPOUT, seed=recipe.seed):
        s, t = _times(recipe, teacher.config.time_shift, batch.generator)
        yield _Example(flow_map.interpolate(batch.x, batch.noise, s), s, t, _context(teacher, batch.tokens), batch.generator)


def _along(paths: Trajectories, teacher: EmbeddedBackbone, recipe: DistillRecipe, steps: range, device: torch.device) -> Iterator[_Example]:
    """Places on the teacher's own paths."""
    for step in steps:
        generator = loop.step_generator(recipe.seed, step, device)
        index = torch.randint(len(paths), (recipe.batch,), generator=generator, device=device)
        s, t = _times(recipe, teacher.config.time_shift, generator)
        z, goal = paths.mean_velocity(index, s, t)
        yield _Example(z, s, t, _context(teacher, paths.tokens[index]), generator, goal)


def _loss(
    recipe: DistillRecipe, nets: tuple[torch.nn.Module, torch.nn.Module], field: Callable[[Condition], Velocity], example: _Example
) -> Tensor:
    """The mean over the batch: its first rows learn the teacher's velocity, the others the flow map."""
    z, s, t, context = example.z, example.s, example.t, example.context
    n, student = _diagonal(recipe), velocity_of(nets[0], context)
    if example.goal is not None:
        return (student(z, s, t) - example.goal).square().mean()
    if recipe.loss == "lagrangian":  # which is the teacher's velocity already where t = s
        twice = velocity_of(nets[0], Condition.cat([context, context]))
        return losses.lagrangian(twice, field(context), z, s, t, HALF_SPAN).square().mean()
    if recipe.loss == "consistency":
        return losses.consistency(student, velocity_of(nets[1], context), field(context), z, s, CONSISTENCY_SPAN, FLOOR).square().mean()
    with torch.no_grad():
        velocity = field(context.rows(slice(0, n)))(z[:n], s[:n], s[:n])
    made = student(z, s, t)  # one pass for both parts
    goal = velocity_of(nets[1], context.rows(slice(n, None)))
    lost = losses.progressive(lambda *_: made[n:], goal, z[n:], s[n:], t[n:])
    return torch.cat([made[:n] - velocity, lost]).square().mean()


def _shallow_loss(student: Denoiser, example: _Example) -> Tensor:
    """The sandwich rule: the shallowest net and one between, on a quarter of the rows each, towards the full one."""
    z, generator = example.z, example.generator
    n = max(1, len(z) // 4)
    t = losses.sample_spans(example.s, 0, generator)
    between = int(torch.randint(1, N_SKIPPABLE, (), generator=generator, device=generator.device))
    total = z.new_zeros(())
    for skipped, chosen in ((N_SKIPPABLE, slice(0, n)), (between, slice(n, 2 * n))):
        few = example.context.rows(chosen)
        if not len(few):
            continue
        arguments = (z[chosen], example.s[chosen], t[chosen], few.text, few.pooled, few.mask)
        with torch.no_grad():
            full = student(*arguments).float()
        total = total + 0.25 * (student(*arguments, skipped).float() - full).square().mean()
    return total


@torch.no_grad()
def _context(teacher: EmbeddedBackbone, tokens: Tensor) -> Condition:
    return encoded(teacher.text, tokens)


@dataclass(frozen=True)
class _Held:
    """Prompts and noises that no step learns from, and where the teacher's 50 steps take them."""

    context: Condition
    noise: Tensor
    goal: Tensor
    counts: tuple[int, ...]

    @staticmethod
    @torch.no_grad()
    def of(
        teacher: EmbeddedBackbone,
        field_of: Callable[[Condition], Velocity],
        validation: LatentSet,
        recipe: DistillRecipe,
        device: torch.device,
        bf16: bool,
    ) -> _Held:
        n = min(recipe.held, len(validation))
        tokens = teacher.text.tokenise([validation.caption(i, np.random.default_rng(i)) for i in range(n)])
        context = encoded(teacher.text, tokens.to(device))
        shape = normalised(validation.latents[:n], teacher.latent_mean, teacher.latent_scale, device).shape
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(recipe.seed + 1)).to(device)
        noise = noise.contiguous(memory_format=torch.channels_last)
        goal, grid = noise, flow_map.times(TEACHER_STEPS, teacher.config.time_shift)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for goal in flow_map.sample(field_of(context), noise, grid):  # noqa: B007
                pass
        return _Held(context, noise, goal.float(), COUNTS[:1] if recipe.loss == "consistency" else COUNTS)

    @torch.no_grad()
    def errors(self, net: Denoiser, shift: float, device: torch.device, bf16: bool) -> dict[int, float]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return {n: raw_error(velocity_of(net, self.context), self.noise, self.goal, n, shift) for n in self.counts}
