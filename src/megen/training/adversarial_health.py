"""What an adversarial training's log holds: figures of every step, and now and then a look at held-out prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from megen.diffusion import flow_map
from megen.files import replacing, to_json
from megen.models.embedded import EmbeddedBackbone
from megen.scenes.captions import Scene, caption
from megen.scenes.completion import complete, short_caption
from megen.scenes.latent_judge import LatentJudge, targets
from megen.training.guided import encoded, velocity_of
from megen.training.latents import LatentSet

TYPED = (
    "a windmill at dusk, green hills, a lake",
    "a lighthouse at night, the sea",
    "a castle, snowy mountains",
    "a cabin in the evening, snow",
    "a sailboat at noon",
    "a crescent moon, dunes",
    "pine trees in the evening, rain",
    "a full moon, stars, a castle",
)
COUNTS = (1, 4)
HELD = 48
SIDE_PX = 256
STRONG = 0.15  # gradient of an edge that is seen, 1 from black to white


def octaves(pictures: Tensor) -> list[float]:
    """Root mean square of the luma's octaves, finest first: what 2 x 2 means lose, again and again."""
    luma = (pictures * pictures.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    levels = []
    for _ in range(4):
        coarse = F.avg_pool2d(luma, 2)
        levels.append(float((luma - F.interpolate(coarse, scale_factor=2, mode="nearest")).square().mean().sqrt()))
        luma = coarse
    return levels


def strong_edges(pictures: Tensor) -> float:
    """The share of pixels where the gradient of the channels' mean is above `STRONG`."""
    grey = pictures.mean(1)
    across, down = grey[:, :-1, 1:] - grey[:, :-1, :-1], grey[:, 1:, :-1] - grey[:, :-1, :-1]
    return float((torch.hypot(across, down) > STRONG).float().mean())


class Watch:
    """Writes `health.jsonl` and contact sheets of one training."""

    def __init__(
        self, start: EmbeddedBackbone, chooser: LatentJudge, validation: LatentSet, folder: Path, device: torch.device, held: int = HELD
    ) -> None:
        self._start, self._chooser, self._folder, self._device = start, chooser, folder, device
        scenes = [s for s in validation.sources if isinstance(s, Scene)][: 2 * held]
        rng = np.random.default_rng(41)
        half = len(scenes) // 2
        self._full = [caption(s, rng, named_share=0.95) for s in scenes[:half]]
        self._short = [complete(short_caption(s, rng), k).text for k, s in enumerate(scenes[half:])]
        self._typed = [complete(text, k).text for k, text in enumerate(TYPED)]

    def log(self, figures: dict[str, float]) -> None:
        """One line of one step."""
        self._write({k: round(v, 5) for k, v in figures.items()})

    @torch.inference_mode()
    def look(self, text: nn.Module, denoiser: nn.Module, step: int) -> dict[str, object]:
        """Held-out prompts at one and four steps: what the choosing judge says, sharpness, diversity, and a contact sheet."""
        line: dict[str, object] = {"look": step}
        sheet = []
        for count in COUNTS:
            for name, prompts in (("full", self._full), ("short", self._short)):
                right, whole = self._judged(self._sample(text, denoiser, prompts, range(len(prompts)), count), prompts)
                line |= {f"right_{name}_{count}": round(right, 4), f"all_right_{name}_{count}": round(whole, 4)}
            pictures = self._decode(self._sample(text, denoiser, self._typed, range(len(self._typed)), count))
            line[f"octaves_{count}"] = [round(v, 5) for v in octaves(pictures)]
            sheet.append(torch.cat(list(F.interpolate(pictures, size=(SIDE_PX, SIDE_PX), mode="area")), 2))
            many = self._sample(text, denoiser, [p for p in TYPED[:4] for _ in range(4)], range(16), count)
            line[f"diversity_{count}"] = round(float(many.view(4, 4, *many.shape[1:]).std(1).square().mean().sqrt()), 4)
        with replacing(self._folder / f"adversarial-{step:05d}.png") as temporary:
            pixels = (torch.cat(sheet, 1).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
            Image.fromarray(pixels).save(temporary, format="PNG")
        self._write(line)
        return line

    def _sample(self, text: nn.Module, denoiser: nn.Module, prompts: list[str], seeds: range, count: int) -> Tensor:
        made = []
        for first in range(0, len(prompts), 16):
            few = prompts[first : first + 16]
            condition = encoded(text, self._start.text.tokenise(few).to(self._device))
            noise = [
                torch.randn(1, *self._start.latent_shape, generator=torch.Generator().manual_seed(seed))
                for seed in seeds[first : first + 16]
            ]
            z = torch.cat(noise).to(self._device).contiguous(memory_format=torch.channels_last)
            steps = flow_map.sample(velocity_of(denoiser, condition), z, flow_map.times(count, self._start.config.time_shift))
            made.append(list(steps)[-1])
        return torch.cat(made)

    def _judged(self, latents: Tensor, prompts: list[str]) -> tuple[float, float]:
        logits, wanted = self._chooser(latents), targets(prompts)
        right = torch.stack([torch.where(w >= 0, (logits[k].argmax(1).cpu() == w).float(), torch.nan) for k, w in wanted.items()])
        return float(right.nanmean()), float((right.nan_to_num(nan=1.0) == 1).all(0).float().mean())

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self._start.decode(z[None]) for z in latents])

    def _write(self, line: dict[str, object] | dict[str, float]) -> None:
        with (self._folder / "health.jsonl").open("a") as log:
            log.write(to_json(line) + "\n")
