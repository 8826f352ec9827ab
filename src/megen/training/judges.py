"""Trains the judges of latents on true renders, some with their object drawn twice, under noise and blur."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megen import run_folder
from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.provenance import provenance
from megen.scenes.captions import Scene, sample_scene
from megen.scenes.drafts import encoder_of, read
from megen.scenes.latent_judge import COUNT, FORMAT, HEADS, LatentJudge, LatentJudgeConfig
from megen.scenes.render import render
from megen.scenes.splits import scene
from megen.training import loop
from megen.training.batches import normalised
from megen.training.latents import LatentSet

DOUBLED_SEED, NIGHT_SEED = 5, 6  # scenes whose object is drawn twice, and clear nights: stars and the moon's kind are rare elsewhere
DISTURBED_SHARE = 0.4
MORE_SCENES = 512


@dataclass(frozen=True)
class JudgeRecipe:
    """How long and how large; the reward's and the choosing judge differ in seed and in shape."""

    config: LatentJudgeConfig = field(default_factory=LatentJudgeConfig)
    steps: int = 700
    batch: int = 32
    lr: float = 1e-3
    seed: int = 0


REWARD = JudgeRecipe()
CHOOSING = JudgeRecipe(LatentJudgeConfig(widths=(48, 96, 144), features=128), seed=1)


def more_latents(backbone: EmbeddedBackbone, count: int, size_px: int, folder: Path) -> tuple[LatentSet, LatentSet]:
    """Latents of `count` scenes whose object stands twice, and of as many clear nights, kept in `folder`."""
    drawn = [s for s in (scene(DOUBLED_SEED, i) for i in range(2 * count)) if s.object != "no object"][:count]
    clear = {"time": "night", "weather": "clear"}
    nights = [sample_scene(np.random.default_rng([NIGHT_SEED, i]), clear) for i in range(count)]
    doubled = _encoded(backbone, drawn, size_px, folder / "doubled.safetensors", doubled=True)
    return LatentSet(doubled, tuple(drawn)), LatentSet(_encoded(backbone, nights, size_px, folder / "nights.safetensors"), tuple(nights))


def _encoded(backbone: EmbeddedBackbone, scenes: list[Scene], size_px: int, file: Path, *, doubled: bool = False) -> Tensor:
    made_from = weights.digest(f"{size_px} px, doubled: {doubled}, {scenes}", backbone.autoencoder.encoder.state_dict())
    if file.is_file() and weights.about(file).get("made_from") == made_from:
        return weights.read(file)[0]["latents"]
    made = []
    with torch.inference_mode():
        for k, _ in loop.progress(0, -(-len(scenes) // 4), f"latents of {file.stem}, four each"):
            pictures = render(scenes[4 * k : 4 * k + 4], size_px, backbone.device, doubled=doubled)
            made.append(backbone.autoencoder.encoder(pictures).half().cpu())
    weights.write_safely({"latents": torch.cat(made)}, file, {"made_from": made_from, **provenance()})
    return torch.cat(made)


def disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Some rows with noise to level u^2 / 2, some blurred: what a flow map's latents may look like."""
    level = 0.5 * torch.rand(len(x), 1, 1, 1, generator=generator) ** 2
    noisy = (1 - level) * x + level * torch.randn(x.shape, generator=generator)
    soft = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1), 0.6 * torch.rand(len(x), 1, 1, 1, generator=generator))
    which = torch.rand(len(x), 1, 1, 1, generator=generator)
    return torch.where(which < DISTURBED_SHARE / 2, noisy, torch.where(which < DISTURBED_SHARE, soft, x))


def classes(scenes: list[Scene], doubled: list[bool]) -> dict[str, Tensor]:
    """The class of every head for true scenes; the side of a doubled object, and what the eye cannot tell, are left out."""
    rows = [{**s.attributes(), "count": COUNT[int(twice)]} for s, twice in zip(scenes, doubled, strict=True)]
    for row, twice in zip(rows, doubled, strict=True):
        if twice:
            row.pop("side")
    return {k: torch.tensor([v.index(row[k]) if k in row else -1 for row in rows]) for k, v in HEADS.items()}


def train(recipe: JudgeRecipe, backbone: EmbeddedBackbone, data: LatentSet, more: tuple[LatentSet, LatentSet], file: Path) -> LatentJudge:
    """Train one judge on the CPU, or read it from `file` where it is finished; `more`: doubled objects, then clear nights."""
    torch.manual_seed(recipe.seed)
    judge = LatentJudge(recipe.config)
    if file.is_file():
        run_folder.check_same(asdict(recipe), weights.about(file).get("recipe"), str(file))
        return read(file)
    parts = (data, *more)
    scenes = [s for part in parts for s in part.sources if isinstance(s, Scene)]
    latents = torch.cat([part.latents.cpu() for part in parts])
    sizes = [len(part) for part in parts]
    targets = classes(scenes, [False] * sizes[0] + [True] * sizes[1] + [False] * sizes[2])
    starts, share = np.cumsum([0, *sizes[:-1]]).tolist(), (recipe.batch - 2 * (recipe.batch // 4), recipe.batch // 4, recipe.batch // 4)
    optimiser = torch.optim.AdamW([{"params": list(judge.parameters()), "base_lr": recipe.lr}], lr=recipe.lr, weight_decay=0.02)
    shown_loss = loop.Smoothed()
    for step, shown in loop.progress(0, recipe.steps, f"judge {file.stem}"):
        loop.set_lr([optimiser], loop.lr_factor(step, recipe.steps, 30, 0.5))
        generator = loop.step_generator(recipe.seed + 100, step)
        picks = [first + torch.randint(size, (n,), generator=generator) for first, size, n in zip(starts, sizes, share, strict=True)]
        index = torch.cat(picks)
        x = disturbed(normalised(latents[index], backbone.latent_mean, backbone.latent_scale, torch.device("cpu")), generator)
        logits = judge(x)
        value = torch.stack([F.cross_entropy(logits[k], targets[k][index], ignore_index=-1) for k in HEADS]).nan_to_num().sum()
        loop.descend(value, judge, [optimiser])
        shown_loss.add(value)
        shown["loss"] = shown_loss.read()
    write(judge, file, recipe, backbone)
    return judge.eval().requires_grad_(False)


def write(judge: LatentJudge, file: Path, recipe: JudgeRecipe, backbone: EmbeddedBackbone) -> None:
    """Write a judge of a backbone's latents in half precision."""
    encoder = encoder_of(backbone)
    about = {"format": FORMAT, "config": asdict(judge.config), "recipe": asdict(recipe), "encoder": encoder, **provenance()}
    weights.write_safely({k: v.half() for k, v in judge.state_dict().items()}, file, about)


@torch.no_grad()
def accuracy(judge: LatentJudge, backbone: EmbeddedBackbone, data: LatentSet) -> dict[str, float]:
    """Share of right attributes by head, over latents of true scenes."""
    scenes = [s for s in data.sources if isinstance(s, Scene)]
    targets = classes(scenes, [False] * len(scenes))
    logits = judge(normalised(data.latents, backbone.latent_mean, backbone.latent_scale, torch.device("cpu")))
    right = {k: (v.argmax(1) == targets[k])[targets[k] >= 0].float() for k, v in logits.items()}
    return {k: float(np.mean(v.numpy())) for k, v in right.items() if len(v)}
