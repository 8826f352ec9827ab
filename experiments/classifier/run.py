"""Trains the judge of generated pictures, a classifier of the scenes' attributes (minutes on two cores).

`python -m experiments.classifier.run` reports its accuracy on held-out renders of full size, prepared the way generated
images are, and writes it to the package's assets.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments import common
from megen.models import weights
from megen.provenance import provenance
from megen.scenes.captions import ATTRIBUTES, Scene
from megen.scenes.judge import SIZE_PX, WEIGHTS, Classifier, predict, prepared
from megen.scenes.render import render
from megen.scenes.splits import scene
from megen.training import loop

TRAIN_SEED, HELD_OUT_SEED = 11, 12


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """Class numbers by attribute; -1 where the eye cannot tell."""
    seen = [s.attributes() for s in scenes]
    return {k: torch.tensor([v.index(s[k]) if k in s else -1 for s in seen]) for k, v in ATTRIBUTES.items()}


def varied(seen: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and contrast of prepared pictures as decoders and links leave them."""
    b = len(seen)
    blurred = F.interpolate(F.avg_pool2d(seen, 2), scale_factor=2, mode="bilinear")
    mix = torch.rand(b, 1, 1, 1, generator=generator) * (torch.rand(b, 1, 1, 1, generator=generator) < 0.3)
    out = torch.lerp(seen, blurred, mix)
    out = out + torch.randn(out.shape, generator=generator) * 0.03 * torch.rand(b, 1, 1, 1, generator=generator)
    return out * (0.94 + 0.12 * torch.rand(b, 1, 1, 1, generator=generator))


def train(count: int, epochs: int, batch: int = 32) -> Classifier:
    scenes = [s for s in (scene(TRAIN_SEED, i, unseen=i % 5 == 0) for i in range(3 * count)) if s.time == "night" or s.seed % 3 == 0][
        :count
    ]
    pool = torch.cat([(render(scenes[i : i + 8], SIZE_PX) * 255).round().byte() for i in range(0, count, 8)])
    labels = targets(scenes)
    torch.manual_seed(0)
    model = Classifier().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW([{"params": model.parameters(), "base_lr": 2e-3}], lr=2e-3, weight_decay=1e-2)
    steps = epochs * count // batch
    for step, shown in loop.progress(0, steps, "classifier"):
        loop.set_lr([optimiser], loop.lr_factor(step, steps, decay_share=0.6))
        generator = loop.step_generator(5, step)
        index = torch.randint(count, (batch,), generator=generator)
        seen = varied(prepared(pool[index].float() / 255), generator)
        logits = model(seen.contiguous(memory_format=torch.channels_last))
        loss = sum(F.cross_entropy(v, labels[k][index], ignore_index=-1) for k, v in logits.items() if (labels[k][index] >= 0).any())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        shown["loss"] = float(torch.as_tensor(loss).detach())
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--held-out", type=int, default=400)
    args = parser.parse_args()
    model = train(args.count, args.epochs)
    right: dict[str, list[bool]] = {k: [] for k in ATTRIBUTES}
    for i in range(0, args.held_out, 4):
        scenes = [scene(HELD_OUT_SEED, i + j, unseen=(i + j) % 5 == 0) for j in range(4)]
        for s, got in zip(scenes, predict(model, render(scenes, 1024)), strict=True):
            for k, v in s.attributes().items():
                right[k].append(got[k] == v)
    weights.write_safely({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, WEIGHTS, provenance())
    by_attribute = {k: sum(v) / len(v) for k, v in right.items() if v}
    total = [r for v in right.values() for r in v]
    common.write("classifier", {"held_out_renders": args.held_out, "accuracy": sum(total) / len(total), "by_attribute": by_attribute})


if __name__ == "__main__":
    main()
