"""Fine-tunes a flow map in latents: a discriminator for crispness, a judge's reward for what was asked, the start for everything else.

Only the last jump s -> 1 carries a gradient; the states that it begins at are the flow map's own, at the times of the offered
numbers of steps. What is learned is
1.5 GAN + 0.3 reward + 10 |v - v_start|^2 (weights: `AdversarialRecipe`). Health is in `health.jsonl`: the discriminator's win rate
(healthy .7 to .87), the ratio of the two gradients, sharpness, diversity, and what the choosing judge says of held-out prompts.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from megen.backbone import Condition
from megen.diffusion import flow_map, losses
from megen.errors import RunError
from megen.models.embedded import EmbeddedBackbone
from megen.models.placement import bf16_pays, place
from megen.provenance import provenance
from megen.scenes.latent_judge import LatentJudge, log_likelihood
from megen.training import loop
from megen.training.adversarial_batches import Batch, Memory, batches
from megen.training.adversarial_health import Watch
from megen.training.discriminator import SLOTS, Discriminator, beaten, discriminator_loss
from megen.training.guided import encoded, velocity_of
from megen.training.latents import LatentSet


@dataclass(frozen=True)
class AdversarialRecipe:
    """How long, with which weights, and what keeps the discriminator ahead by a little."""

    steps: int = 4000
    batch: int = 24
    lr: float = 1.2e-4
    text_lr: float = 1e-5
    discriminator_lr: float = 8e-4
    gan_weight: float = 1.5  # 0: without a discriminator
    reward_weight: float = 0.3  # 0: without a reward
    start_weight: float = 10.0
    penalty: float = 20.0
    discriminator_rounds: int = 3  # for each step of the flow map, all but one from the last `kept` batches
    least_win_rate: float = 0.65  # while the mean of the last ten is below it, the discriminator has twice as many rounds
    alone: int = 25  # steps of the discriminator before the first of the flow map
    kept: int = 24
    moon_weight: float = 3.0
    decay_share: float = 0.25
    ema: float = 0.995
    seed: int = 0
    save_every: int = 25
    watch_every: int = 100


class Student(nn.Module):
    """Text encoder and denoiser: all that is trained."""

    def __init__(self, backbone: EmbeddedBackbone) -> None:
        super().__init__()
        self.text, self.denoiser = copy.deepcopy(backbone.text), copy.deepcopy(backbone.denoiser)


START_TIMES = {1: 0.30, 2: 0.15, 4: 0.35, 8: 0.12, 12: 0.08}  # how often each step count's times are drawn


RENOISED = 1 / 3  # of the states at s > 0 are a jump to data with new noise on it
PASSES = 3  # steps, at most, in which a state of a training is reached: longer ways skip times


def ways(n: int, shift: float, generator: torch.Generator) -> Float[Tensor, "n times"]:
    """The times from 0 to where a sampler of an offered number of steps begins one of them: 0 in about half of the rows, at most .85.

    Up to `PASSES` steps are those of the sampler itself; a way that is shorter stays at its end.
    """
    device, counts = generator.device, torch.tensor(list(START_TIMES))
    grids = torch.zeros(len(counts), int(counts.max()) + 1)
    for row, count in zip(grids, counts.tolist(), strict=True):
        row[: count + 1] = torch.tensor(flow_map.times(count, shift))
    drawn = torch.multinomial(torch.tensor(list(START_TIMES.values()), device=device), n, replacement=True, generator=generator)
    place_in = torch.rand(n, generator=generator, device=device)
    last = (place_in * counts.to(device)[drawn]).long()[:, None]
    turn = torch.arange(PASSES + 1, device=device)
    return grids.to(device)[drawn[:, None], torch.where(last <= PASSES, torch.minimum(turn, last), (last * turn + 1) // PASSES)]


def train(
    recipe: AdversarialRecipe,
    start: EmbeddedBackbone,
    judges: tuple[LatentJudge, LatentJudge],
    data: Callable[[int], LatentSet],
    validation: LatentSet,
    folder: Path,
    device: torch.device,
    *,
    on_save: Callable[[Student, int], object] | None = None,
) -> Student:
    """Fine-tune (or resume from `folder`) and return the averaged weights; `judges`: the reward's, then the choosing one.

    Errors: RunError where a figure is NaN or infinite.
    """
    place(start, device).eval().requires_grad_(False)
    student, average = (place(Student(start), device) for _ in range(2))
    student.requires_grad_(True)
    reward, chooser = (place(judge, device).eval().requires_grad_(False) for judge in judges)
    duel = _Duel(recipe, start, student, place(Discriminator(reward), device), reward, device)
    ema, bf16 = loop.Average(student, average, recipe.ema), bf16_pays(device)
    optimisers = [duel.optimiser, duel.critic_optimiser]
    nets: dict[str, nn.Module] = {"student": student, "average": average, "critic": duel.critic}
    file, done = folder / "adversarial.checkpoint.safetensors", -recipe.alone
    if file.is_file():
        done = int(loop.load_checkpoint(file, nets, optimisers, asdict(recipe))["step"])
    watch = Watch(start, chooser, validation, folder, device)
    drawn = batches(start, data, recipe.batch, range(done, recipe.steps), device, alone=recipe.alone, seed=recipe.seed)
    for (step, shown), batch in zip(loop.progress(done, recipe.steps, "adversarial fine-tuning"), drawn, strict=True):
        began = time.monotonic()
        loop.set_lr([duel.optimiser], loop.lr_factor(max(step, 0), recipe.steps, 20, recipe.decay_share))
        loop.set_lr([duel.critic_optimiser], loop.lr_factor(step + recipe.alone, recipe.steps + recipe.alone, 20, recipe.decay_share))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            figures = duel.play(batch, learns=step >= 0)
        if step >= 0:
            ema.update(student, step)
        _check(figures)
        shown.update(figures)
        watch.log({"step": step, **figures, "seconds": time.monotonic() - began})
        if _due(step, recipe.save_every, recipe.steps):
            loop.save_checkpoint(file, nets, optimisers, {"step": step + 1, "recipe": asdict(recipe), **provenance()})
        if _due(step, recipe.watch_every, recipe.steps):
            watch.look(average.text, average.denoiser, step + 1)
            if on_save is not None:
                on_save(average, step + 1)
    return average.eval()


@dataclass
class _Duel:
    """The flow map against the discriminator; the batches that the latter remembers are not kept in checkpoints."""

    recipe: AdversarialRecipe
    start: EmbeddedBackbone
    student: Student
    critic: Discriminator
    reward: LatentJudge
    device: torch.device

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.optimiser = adamw((self.student.denoiser, recipe.lr), (self.student.text, recipe.text_lr))
        self.critic_optimiser = adamw((self.critic, recipe.discriminator_lr))
        self.memory, self.win_rates = Memory(recipe.kept), deque([1.0], maxlen=10)

    def play(self, batch: Batch, *, learns: bool) -> dict[str, float]:
        """Rounds of the discriminator, more where it is behind, then a step of the flow map, where it `learns`."""
        recipe = self.recipe
        figures: dict[str, Tensor] = {}
        with torch.set_grad_enabled(learns):
            condition = encoded(self.student.text, batch.tokens)
        leaf, made = _made(self.student, self.start, condition, batch, grad=learns)
        self.memory.add(batch)
        rounds = recipe.discriminator_rounds * (1 + (float(np.mean(self.win_rates)) < recipe.least_win_rate))
        if recipe.gan_weight:
            figures["win_rate"] = _train_critic(rounds, recipe, self.critic, self.critic_optimiser, batch, self.memory)
        if learns:
            gradient, more = _gradients(recipe, self.critic, self.reward, batch, leaf)
            distance = _distance(recipe, self.student, self.start, condition, batch)
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward([made, recipe.start_weight * distance], [gradient, None])
            norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimiser.step()
            figures |= more | {"to_start": distance.detach(), "norm": norm}
        read = dict(zip(figures, torch.stack([v.float() for v in figures.values()]).tolist(), strict=True)) if figures else {}
        if "win_rate" in read:
            self.win_rates.append(read["win_rate"])
            read["rounds"] = float(rounds)
        return read


def _due(step: int, every: int, steps: int) -> bool:
    return step >= 0 and ((step + 1) % every == 0 or step == steps - 1)


def _check(figures: dict[str, float]) -> None:
    if not all(np.isfinite(v) for v in figures.values()):
        raise RunError(f"a figure of the training is NaN or infinite ({figures}): train into another folder with a lower --lr")


def adamw(*parts: tuple[nn.Module, float]) -> torch.optim.Optimizer:
    """AdamW as adversarial trainings have it, a rate for each part."""
    groups = [{"params": list(part.parameters()), "base_lr": lr} for part, lr in parts]
    return torch.optim.AdamW(groups, lr=parts[0][1], betas=(0.5, 0.95), weight_decay=0.0)


def _made(student: Student, start: EmbeddedBackbone, condition: Condition, batch: Batch, *, grad: bool) -> tuple[Tensor, Tensor]:
    """The latents of the last jump: as a leaf whose gradient can be taken, and with their graph.

    A state at s > 0 is the flow map's own steps from 0 to s, or, a share `RENOISED`, its own jump to data with new noise on it.
    """
    n, generator = len(batch.noise), batch.generator
    way = ways(n, start.config.time_shift, generator)
    s, jumps = way[:, -1].clone(), torch.rand(n, generator=generator, device=generator.device) < RENOISED
    jumps &= s > 0
    way[jumps, 1:] = 1.0
    fresh = torch.randn(batch.noise.shape, generator=generator, device=generator.device)
    z = batch.noise.clone()
    with torch.no_grad():
        for begin, end in itertools.pairwise(way.T):
            if (moves := end > begin).any():
                velocity = velocity_of(student.denoiser, condition.rows(moves))
                z[moves] = flow_map.step(velocity, z[moves], begin[moves], end[moves])
        z = torch.where(jumps[:, None, None, None], flow_map.interpolate(z, fresh, s), z)
    with torch.set_grad_enabled(grad):
        made = flow_map.step(velocity_of(student.denoiser, condition), z, s, torch.ones_like(s))
    batch.made = made.detach()
    return made.detach().requires_grad_(True), made


def _train_critic(
    rounds: int, recipe: AdversarialRecipe, critic: Discriminator, optimiser: torch.optim.Optimizer, newest: Batch, memory: Memory
) -> Tensor:
    """A round on the newest batch, the others on rows of the last ones; returns the newest's win rate before its update."""
    first = torch.zeros(())
    for turn in range(rounds):
        true, made, named = (newest.true, newest.made, newest.named) if turn == 0 else memory.draw(recipe.batch, newest.generator)
        value, wins = discriminator_loss(critic, true, made, named, recipe.penalty, newest.generator)
        first = wins if turn == 0 else first
        loop.descend(value, critic, [optimiser])
    return first


def _gradients(
    recipe: AdversarialRecipe, critic: Discriminator, reward: LatentJudge, batch: Batch, leaf: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of both losses in the made latents, and how they compare."""
    total, figures = torch.zeros_like(leaf), {}
    norms = []
    if recipe.gan_weight:
        critic.requires_grad_(False)
        with torch.no_grad():
            of_true = critic(batch.true, batch.named)
        value = beaten(of_true, critic(leaf, batch.named))
        (gradient,) = torch.autograd.grad(recipe.gan_weight * value, leaf)
        critic.requires_grad_(True)
        total, figures["gan"] = total + gradient, value.detach()
        norms.append(gradient.norm())
    if recipe.reward_weight:
        logits, wanted = reward(leaf), batch.targets
        named = torch.stack([(v >= 0).float() for v in wanted.values()]).sum(0)
        moon = {"body": torch.where(wanted["body"] > 0, wanted["body"], -1)}
        likelihood = log_likelihood(logits, wanted) + (recipe.moon_weight - 1) * log_likelihood(logits, moon)
        value = -(likelihood / named).mean()
        (gradient,) = torch.autograd.grad(recipe.reward_weight * value, leaf)
        total, figures["reward_loss"] = total + gradient, value.detach()
        norms.append(gradient.norm())
    if len(norms) == 2:
        figures["gradient_ratio"] = norms[0] / norms[1].clamp(min=1e-9)
    return total, figures


def _distance(recipe: AdversarialRecipe, student: Student, start: EmbeddedBackbone, condition: Condition, batch: Batch) -> Tensor:
    """|v - v_start|^2 at random times on a fifth of the rows, but for starry nights: the start may not draw stars."""
    few = slice(0, max(1, recipe.batch // 5))
    s = losses.sample_times(few.stop, start.config.time_shift, batch.generator)
    t = losses.sample_spans(s, few.stop // 3, batch.generator)
    z = flow_map.interpolate(batch.true[few], batch.noise[few], s)
    with torch.no_grad():
        before = encoded(start.text, batch.tokens[few])
        goal = velocity_of(start.denoiser, before)(z, s, t)
    distance = (velocity_of(student.denoiser, condition.rows(few))(z, s, t) - goal).square().mean((1, 2, 3))
    return (distance * (1 - batch.named[few, SLOTS["stars", "stars"]])).mean()
