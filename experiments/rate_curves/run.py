"""Quality by payload size: ours with and without merging, beside image files and their thumbnails of as many bits.

`python -m experiments.rate_curves.run` (an hour; extra `bench`): held-out prompts without link. Each budget takes the finest quantiser,
or quality, that fits it. Of a file the side that has the best PSNR counts: the picture itself, or a smaller one that the phone scales up
(Lanczos). AVIF is at speed 6, WebP at its best effort, JPEG XL at 7. Plain int8 latents and the reference system's halves have one size.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from PIL import Image

from experiments import common
from megen.evaluation.link import Encoder, Sample, file_kinds, int8, reference_fp16, samples
from megen.halves import Transmitter, halves
from megen.metrics import psnr_db, ssim
from megen.types import InputError, Received
from megen.ue import Receiver

BUDGETS = (5_000, 6_500, 10_000, 20_000, 40_000, 80_000, 160_000)
RATIOS = (0.0, 0.25, 0.5, 0.75)
SIDES = (192, 256, 384, 512, 768, 1024)
FILES = ("avif", "webp", "jpeg xl")
Level = tuple[float, float]


def levels(image: np.ndarray, truth: np.ndarray) -> Level:
    """PSNR in dB and SSIM."""
    return psnr_db(image, truth), ssim(image, truth)


def ours(sample: Sample, ratio: float, budget: int, es: Transmitter, ue: Receiver) -> Level | None:
    """The finest quantiser that fits; None: none does."""
    try:
        sent = es.encode(sample.latent, ratio, bits_budget=budget)
    except InputError:
        return None
    return levels(ue.decode(Received(sent.payload)), sample.image)


def fitting(encode: Encoder, picture: Image.Image, span: tuple[int, int], budget: int) -> bytes | None:
    """The file of the best quality that fits, by bisection; None: none does."""
    low, high, best = *span, None
    while low <= high:
        middle = (low + high) // 2
        data = encode(picture, middle)
        if 8 * len(data) <= budget:
            best, low = data, middle + 1
        else:
            high = middle - 1
    return best


def file(encode: Encoder, sample: Sample, span: tuple[int, int], budget: int) -> Level | None:
    """The best PSNR of all sides, and its SSIM; None: not even the smallest side fits."""
    whole, found = Image.fromarray(sample.image), []
    for side in SIDES:
        data = fitting(encode, whole.resize((side, side), Image.Resampling.LANCZOS), span, budget)
        if data is not None:
            shown = Image.open(io.BytesIO(data)).convert("RGB").resize(whole.size, Image.Resampling.LANCZOS)
            found.append((psnr_db(np.asarray(shown), sample.image), np.asarray(shown)))
        elif found:
            break  # a larger one does not fit either
    return levels(max(found, key=lambda f: f[0])[1], sample.image) if found else None


def one(sample: Sample, es: Transmitter, ue: Receiver) -> dict[tuple[str, int], Level | None]:
    """Every way and budget."""
    kinds, rows = file_kinds(6), {}
    ways: dict[str, Callable[[int], Level | None]] = {
        f"megen, ratio {ratio:g}": lambda budget, ratio=ratio: ours(sample, ratio, budget, es, ue)  # type: ignore[misc]
        for ratio in RATIOS
    }
    for name in FILES:
        if name in kinds:
            encode, span = kinds[name].encode, (1, kinds[name].span[1])
            ways[name] = lambda budget, encode=encode, span=span: file(encode, sample, span, budget)  # type: ignore[misc]
    for way, level in ways.items():
        for budget in BUDGETS:
            rows[way, budget] = level(budget)
    for way, (bits, image) in {"int8 latent": int8(sample, ue), "reference's halves, ratio 0.5": reference_fp16(sample, 0.5, ue)}.items():
        rows[way, bits] = levels(image, sample.image)
    return rows


def summary(found: dict[tuple[str, int], list[Level | None]], prompts: int) -> dict:
    """Means of those prompts that fit, and on how many ours without merging beats a file in both measures."""
    rows: dict = defaultdict(dict)
    for (way, budget), values in found.items():
        held = [v for v in values if v is not None]
        if held:
            row = {"psnr_db": common.estimate(p for p, _ in held), "ssim": common.estimate(s for _, s in held), "fits": len(held) / prompts}
            rows[way][str(budget)] = row
    wins: dict = defaultdict(dict)
    for way in FILES:
        for budget in BUDGETS:
            mine, theirs = found["megen, ratio 0", budget], found.get((way, budget), [None] * prompts)
            better = [m is not None and (t is None or (m[0] > t[0] and m[1] > t[1])) for m, t in zip(mine, theirs, strict=True)]
            wins[way][str(budget)] = float(np.mean(better))
    return {"levels": rows, "share_where_ours_is_better_in_both": wins}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    es, ue = halves()
    assert isinstance(ue, Receiver)
    found: dict[tuple[str, int], list[Level | None]] = defaultdict(list)
    for i, sample in enumerate(samples(es, ue, args.prompts, args.seed, args.steps), 1):
        for key, level in one(sample, es, ue).items():
            key = key if key[1] in BUDGETS else (key[0], 0)  # sizes that no budget decides
            found[key].append(level)
        print(f"prompt {i}/{args.prompts}", file=sys.stderr)
        common.write("rate_curves", {**summary(found, i), "prompts": i, "steps": args.steps, "seed": args.seed})
    sys.stderr.write("done\n")


if __name__ == "__main__":
    main()
