"""The judge of generated pictures: a classifier of the scenes' attributes, and what it says of a prompt's picture.

`experiments/classifier/run.py` trains it. It sees a picture at 256 px and, so that stars do not drown, how much the
brightest of each 2 x 2 pixels at 512 px stands out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from megen.models import weights
from megen.scenes.captions import ATTRIBUTES, Scene, caption, parse
from megen.scenes.splits import TEST_SEED, scene

SIZE_PX = 512
N_FEATURES = 256
WEIGHTS = Path(__file__).parents[1] / "assets" / "classifier.safetensors"


class Classifier(nn.Module):
    """Prepared pictures [b, 4, 256, 256] to one row of logits an attribute; `features` feed distances."""

    def __init__(self) -> None:
        super().__init__()

        def level(inside: int, out: int) -> list[nn.Module]:
            return [
                nn.Conv2d(inside, out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.Conv2d(out, out, 3, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]

        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(16, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            *level(24, 32),
            *level(32, 64),
            *level(64, 96),
            *level(96, 96),
            nn.Flatten(),
            nn.Linear(96 * 8 * 8, N_FEATURES),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({k: nn.Linear(N_FEATURES, len(v)) for k, v in ATTRIBUTES.items()})

    def features(self, prepared: Float[Tensor, "b 4 256 256"]) -> Float[Tensor, "b 256"]:
        """What the heads decide on; distances between sets of pictures are taken here."""
        out: Tensor = self.trunk(prepared)
        return out

    def forward(self, prepared: Tensor) -> dict[str, Tensor]:
        f = F.dropout(self.features(prepared), 0.1, self.training)
        return {k: head(f) for k, head in self.heads.items()}


def prepared(pictures: Float[Tensor, "b 3 n n"]) -> Float[Tensor, "b 4 256 256"]:
    """Square pictures [b, 3, n, n] in [0, 1] to colours in [-1, 1] and sparkle at 256 px, [b, 4, 256, 256]."""
    if pictures.shape[-1] != SIZE_PX:
        pictures = F.interpolate(pictures, size=(SIZE_PX, SIZE_PX), mode="area")
    luma = pictures.mean(1, keepdim=True)
    sparkle = F.max_pool2d(luma, 2) - F.avg_pool2d(luma, 2)
    return torch.cat([2 * F.avg_pool2d(pictures, 2) - 1, 4 * sparkle], 1)


def predict(model: Classifier, pictures: Tensor) -> list[dict[str, str]]:
    """What the classifier sees in each picture."""
    with torch.inference_mode():
        chosen = {k: v.argmax(-1).tolist() for k, v in model(prepared(pictures)).items()}
    return [{k: ATTRIBUTES[k][v[i]] for k, v in chosen.items()} for i in range(len(pictures))]


def seen(model: Classifier, image: np.ndarray) -> dict[str, str]:
    """What the classifier sees in one image [H, W, 3] in bytes."""
    return predict(model, torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255)[0]


def load(path: Path = WEIGHTS) -> Classifier:
    """The trained classifier. Errors: weights.WeightsError where it is still to be trained, or broken."""
    tensors, _ = weights.read(path)
    model = Classifier()
    weights.load_into(model, tensors, str(path))
    return model.eval()


def held_out_prompt(index: int, unseen: bool) -> tuple[Scene, str]:
    """A test scene and a caption of it that names object, time and weather, so that an unseen combination is really asked for."""
    drawn, rng = scene(TEST_SEED, index, unseen=unseen), np.random.default_rng([TEST_SEED, 1, index])
    while True:
        text = caption(drawn, rng)
        if {"object", "time", "weather"} <= parse(text).keys():
            return drawn, text


def compared(text: str, seen: dict[str, str]) -> dict[str, tuple[str, str]]:
    """For every attribute that a prompt names: what it asks for, and what the judge sees."""
    named = parse(text)
    if named.get("object") == "no object":
        named.pop("side", None)
    return {k: (v, seen[k]) for k, v in named.items()}
