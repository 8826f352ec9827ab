"""Trains the refiner of a flow map, on true latents and on where the flow map's own steps end that begin at noise over them.

The noise hides small things, and leaves the composition. So the flow map's end has the mixtures of its own making, at places that say
nothing of where the true latent has its small things: the refiner learns to draw these from noise, and to keep the rest.

No true latent belongs to the end of a single step: what stands where came from noise alone. An earlier refiner gives what belongs to it.
New noise goes over the end, as much as the last of four steps has before it, this last step leads from there, and the earlier refiner
draws on its end, from noise that is the pair's.

The noise of any other pair is what the path's end leaves of the state before it. It is as good as normal, so that noise drawn afresh
can take its place when pictures are made. But it belongs to the pair's true latent, more than any other noise does, and so the flow from
noise to residuals is straighter: few evaluations draw as many small things as there should be, where they drew half of them without it.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen import run_folder
from megen.backbone import Condition
from megen.diffusion import flow_map
from megen.errors import InputError
from megen.models import refiner as refining
from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.placement import bf16_pays, place
from megen.models.refiner import Refiner, RefinerConfig
from megen.provenance import provenance
from megen.scenes.captions import Scene
from megen.scenes.completion import training_caption
from megen.training import loop
from megen.training.batches import normalised
from megen.training.guided import encoded, velocity_of
from megen.training.latents import LatentSet
from megen.training.restorer import optimisers_of
from megen.types import check_number

HIDES = refining.SEEN[0]  # time whose noise hides small things
COUNTS = {2: 0.2, 4: 0.5, 8: 0.2, 12: 0.1}  # how often each number of steps ends a path
SINGLE = 0.25  # share of the paths that are single steps, where an earlier refiner draws what belongs to them
MENDED = 4  # steps of the sampler whose last one leads from an end under new noise to what belongs to it
SHARD = 256  # paths in a file
CHUNK = 64  # paths that are made at once
LATEST = 0.98  # time of a training state: the last of `MOST_EVALUATIONS` begins before
NIGHTS = 0.5  # share of rows that are of starry nights: these have the most small things
UNPROMPTED = 0.1  # share of rows that see no prompt
FLOOR = 0.1  # of 1 - t in the weight of a row
CHECKPOINT = "refiner.checkpoint.safetensors"


@dataclass(frozen=True)
class RefinerRecipe:
    """How the refiner is trained, and on how many paths."""

    steps: int = 8000
    batch: int = 16
    lr: float = 2e-3
    paths: int = 12288
    ema: float = 0.999
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "paths", "save_every"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_number("lr", self.lr, 1e-9, 1)
        check_number("ema", self.ema, 0, 1)
        check_number("seed", self.seed, 0, 2**31 - 1, whole=True)


def way(steps: int, shift: float) -> tuple[float, ...]:
    """The time whose noise hides small things, and the times of a sampler of so many steps after it; from noise to data for one step."""
    return (0.0, 1.0) if steps == 1 else (HIDES, *(t for t in flow_map.times(steps, shift) if t > HIDES + 1e-6))


@dataclass(frozen=True)
class Paths:
    """What belongs to the ends of paths, these ends, and the noise of each pair [n, c, h, w], the times of the states before the ends
    [n], the prompts' vectors [n, e], and which are of starry nights [n]."""

    true: Tensor
    end: Tensor
    noise: Tensor
    source: Tensor
    pooled: Tensor
    starry: Tensor

    def drawn(self, rows: int, generator: torch.Generator) -> Tensor:
        """Numbers of so many paths, a share `NIGHTS` of them of starry nights where there are any [rows]."""
        nights = torch.nonzero(self.starry)[:, 0]
        if not len(nights):
            return torch.randint(len(self), (rows,), generator=generator)
        starry = nights[torch.randint(len(nights), (int(NIGHTS * rows),), generator=generator)]
        return torch.cat([starry, torch.randint(len(self), (rows - len(starry),), generator=generator)])

    def __len__(self) -> int:
        return len(self.source)


def paths(backbone: EmbeddedBackbone, data: LatentSet, count: int, seed: int, folder: Path, start: Refiner | None = None) -> Paths:
    """`count` paths over latents drawn from `data`, single steps among them where an earlier refiner `start` is given for these.

    Shards that were made so from this backbone and start are kept in `folder`. Errors: InputError on others.
    """
    ways = f"from {HIDES:.3g}, {COUNTS}" + (f", single {SINGLE}, mended in {MENDED} by {mark(start)}" if start else "")
    made_from = f"{backbone.flow_digest}, {len(data)} latents, seed {seed}, {ways}"
    own = place(copy.deepcopy(start), backbone.device) if start else None
    folder.mkdir(parents=True, exist_ok=True)
    for k, _ in loop.progress(0, -(-count // SHARD), f"paths ({SHARD} each)"):
        file = folder / f"paths-{k:05d}.safetensors"
        if file.is_file():
            run_folder.check_same({"made_from": made_from}, {"made_from": weights.about(file).get("made_from")}, str(file))
            continue
        parts = [_chunk(backbone, data, np.random.default_rng([seed, k, i]), own) for i in range(SHARD // CHUNK)]
        columns = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Paths)}
        weights.write_safely(columns, file, {"made_from": made_from, **provenance()})
    shards = [weights.read(folder / f"paths-{k:05d}.safetensors")[0] for k in range(-(-count // SHARD))]
    if any(shard.keys() != {f.name for f in fields(Paths)} for shard in shards):
        raise InputError(f"{folder} holds paths of another version of megen: remove it, and they are made again")
    return Paths(**{f.name: torch.cat([shard[f.name] for shard in shards])[:count] for f in fields(Paths)})


@torch.no_grad()
def _chunk(backbone: EmbeddedBackbone, data: LatentSet, rng: np.random.Generator, start: Refiner | None) -> Paths:
    device, shift = backbone.device, backbone.config.time_shift
    index = rng.integers(len(data), size=CHUNK)
    sources = [data.sources[i] for i in index]
    captions = [training_caption(s, rng) if isinstance(s, Scene) else s for s in sources]
    true = normalised(data.latents[torch.from_numpy(index)], backbone.latent_mean, backbone.latent_scale, device)
    noise = _noise(true, rng)
    single = rng.random(CHUNK) < (SINGLE if start else 0)
    counts = np.where(single, 1, rng.choice(list(COUNTS), CHUNK, p=list(COUNTS.values())))
    ways = [way(int(n), shift) for n in counts]
    longest = max(map(len, ways))
    times = torch.tensor([[w[min(j, len(w) - 1)] for j in range(longest)] for w in ways], device=device)
    condition = encoded(backbone.text, backbone.text.tokenise(captions).to(device))
    z = flow_map.interpolate(true, noise, times[:, 0])
    before = z.clone()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16_pays(device)):
        for s, t in itertools.pairwise(times.T):
            if (moves := t > s).any():
                before[moves] = z[moves]
                z[moves] = flow_map.step(velocity_of(backbone.denoiser, condition.rows(moves)), z[moves], s[moves], t[moves])
    source = torch.tensor([w[-2] for w in ways])
    share = source.to(device)[:, None, None, None]
    left = (before - share * z) / (1 - share)
    if start and single.any():
        alone = torch.from_numpy(single)
        left[alone] = _noise(z[alone], rng)
        true[alone] = _mended(backbone, start, z[alone], left[alone], condition.rows(alone), rng)
    starry = torch.tensor([isinstance(s, Scene) and s.stars == "stars" for s in sources])
    return Paths(true.half().cpu(), z.half().cpu(), left.half().cpu(), source, condition.pooled.half().cpu(), starry)


def _noise(like: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**31)))).to(like.device)


def _mended(
    backbone: EmbeddedBackbone, start: Refiner, end: Tensor, noise: Tensor, condition: Condition, rng: np.random.Generator
) -> Tensor:
    """Where a last step of the flow map leads from ends under new noise, with what `start` draws there from `noise`."""
    s, t = torch.tensor(way(MENDED, backbone.config.time_shift)[-2:], device=end.device)[:, None].expand(-1, len(end))
    z = flow_map.interpolate(end, _noise(end, rng), s)
    with torch.autocast(end.device.type, torch.bfloat16, enabled=bf16_pays(end.device)):
        z = flow_map.step(velocity_of(backbone.denoiser, condition), z, s, t)
        return start.draw(z, noise, s, condition.pooled)


def train(
    recipe: RefinerRecipe, config: RefinerConfig, backbone: EmbeddedBackbone, data: LatentSet, folder: Path, start: Refiner | None = None
) -> Path:
    """Train (or resume from `folder`) the refiner of a backbone on `data`; returns the file of its averaged weights.

    It begins with the weights of `start`, of the same shape and of any flow map, where one is given; residuals are scaled as these
    paths ask. Where `config.single`, `start` is of this flow map, and draws what belongs to single steps. The loss is
    |r - net(r_t)|^2 / (1 - t + FLOOR)^2, about that of a velocity. Errors: InputError on a folder of another recipe or start, on a start
    of another shape, and on single steps without one of this flow map.
    """
    if start and replace(start.config, evaluations=config.evaluations, single=config.single) != config:
        raise InputError(f"a refiner of the shape {start.config} cannot be trained on as {config}: give it its own shape")
    if config.single and not (start and start.suits(backbone.flow_digest)):
        raise InputError("a refiner learns single steps from an earlier one of this flow map, which draws what belongs to them (--from)")
    device, bf16 = backbone.device, bf16_pays(backbone.device)
    of = paths(backbone, data, recipe.paths, recipe.seed, folder / "paths", start if config.single else None)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        net = Refiner(config)
    if start:
        net.load_state_dict(start.state_dict())
    place(net, device)
    residual = (of.true[:: max(1, len(of) // 2048)].float() - of.end[:: max(1, len(of) // 2048)].float()).square().mean((0, 2, 3)).sqrt()
    net.scale.copy_(residual)
    average = copy.deepcopy(net)
    ema, optimisers = loop.Average(net, average, recipe.ema), optimisers_of(net, recipe.lr, bf16)
    about = {"recipe": asdict(recipe), "config": asdict(config), "flow_map": backbone.flow_digest, "start": mark(start), "nights": NIGHTS}
    path, done = folder / CHECKPOINT, 0
    if path.is_file():
        done = int(loop.load_checkpoint(path, {"net": net, "average": average}, optimisers, about)["step"])
    shown_loss = loop.Smoothed()
    for step, shown in loop.progress(done, recipe.steps, "refiner"):
        loop.set_lr(optimisers, loop.lr_factor(step, recipe.steps, decay_share=0.5))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = loss(net, of, recipe.batch, loop.step_generator(recipe.seed, step))
        loop.descend(value, net, optimisers)
        ema.update(net, step)
        shown_loss.add(value)
        if (step + 1) % 50 == 0:
            shown["loss"] = shown_loss.read()
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            loop.save_checkpoint(path, {"net": net, "average": average}, optimisers, {"step": step + 1, "recipe": about, **provenance()})
    whose = {"flow_map": backbone.flow_digest} if backbone.flow_digest else {}  # one that lies in no file has no digest
    return refining.save(average.cpu(), folder, {"recipe": about, **whose, **provenance()})


def mark(start: Refiner | None) -> str:
    """What a record says of the refiner that training begins with; a new one has none."""
    return weights.digest(start.manner, start.state_dict())[:16] if start else ""


def loss(net: Refiner, of: Paths, rows: int, generator: torch.Generator) -> Float[Tensor, ""]:
    """The mean over `rows` rows of any paths, at any times."""
    device = net.scale.device
    index = of.drawn(rows, generator)
    t = (LATEST * torch.rand(rows, generator=generator)).to(device)
    seen = (torch.rand(rows, 1, generator=generator) >= UNPROMPTED).to(device)
    true, end, noise, pooled = (part[index].to(device).float() for part in (of.true, of.end, of.noise, of.pooled))
    residual = ((true - end) / net.scale[:, None, None]).contiguous(memory_format=torch.channels_last)
    state = flow_map.interpolate(residual, noise, t)
    made = net(state, end, t, of.source[index].to(device), pooled * seen)
    error = (made.float() - residual).square().mean((1, 2, 3))
    weighted: Tensor = error / (1 - t + FLOOR).square()
    return weighted.mean()
