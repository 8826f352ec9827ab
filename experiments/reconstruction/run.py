"""Reconstruction of held-out scenes by the autoencoder alone: PSNR of 1024 x 1024 pictures, luma octaves, strong edges.

`octaves` are root mean squares from the finest on; `strong_edges` is the share of pixels where the luma's gradient is above 0.15.
"""

from __future__ import annotations

import argparse

import torch

from experiments import common
from megen.models import embedded
from megen.scenes.render import render
from megen.scenes.splits import TEST_SEED, scene
from megen.training.adversarial_health import octaves, strong_edges
from megen.training.loop import progress


def sharpness(pictures: list[tuple[list[float], float]]) -> dict[str, object]:
    """Means over pictures."""
    bands, edges = zip(*pictures, strict=True)
    return {"octaves": torch.tensor(bands).mean(0).tolist(), "strong_edges": sum(edges) / len(edges)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="scenes")
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    backbone = embedded.load(args.backbone)
    found, sharp = [], {"renders": [], "reconstructions": []}
    for i, shown in progress(0, args.count, "reconstruction"):
        s = scene(TEST_SEED, i)
        with torch.inference_mode():
            picture = render([s])
            back = backbone.decode(backbone.encode_images(picture))
        for name, image in (("renders", picture), ("reconstructions", back)):
            sharp[name].append((list(octaves(image)), strong_edges(image)))
        psnr_db = float(-10 * (back - picture).square().mean().log10())
        found.append({"index": i, "weather": s.weather, "psnr_db": psnr_db})
        shown["psnr_db"] = psnr_db
    values = [f["psnr_db"] for f in found]
    by_weather = {w: [f["psnr_db"] for f in found if f["weather"] == w] for w in ("clear", "rain", "snow", "fog")}
    common.write(
        "reconstruction",
        {
            "count": args.count,
            "psnr_mean_db": sum(values) / len(values),
            "psnr_worst_db": min(values),
            "psnr_mean_by_weather_db": {w: sum(v) / len(v) for w, v in by_weather.items() if v},
            "sharpness": {name: sharpness(pictures) for name, pictures in sharp.items()},
            "pictures": found,
        },
    )


if __name__ == "__main__":
    main()
