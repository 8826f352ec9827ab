"""Quality by payload size: ours with and without merging, beside image files and their thumbnails of as many bits.

`python -m experiments.rate_curves.run` (an hour; extra `bench`): held-out prompts without link. Each budget takes the finest quantiser,
or quality, that fits it. Of a file the side that has the best PSNR counts: the picture itself, or a smaller one that the phone scales up
(Lanczos). AVIF is at speed 6, WebP at its best effort, JPEG XL at 7. Plain int8 latents and the reference system's halves have one size.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from experiments import common
from experiments.perceptual import ssimulacra2
from megen.evaluation.link import Encoder, Sample, file_kinds, int8, prompts, reference_fp16
from megen.halves import Transmitter, halves, tokens_of
from megen.metrics import psnr_db, ssim
from megen.training.latents import start_worker
from megen.types import Features, InputError, Received
from megen.ue import Receiver

BUDGETS = (3_000, 5_000, 6_500, 10_000, 20_000, 40_000, 60_000)
SEEN = (6_500, 20_000, 40_000)  # budgets at which SSIM and SSIMULACRA 2 are measured too: they take longer than all else
RATIOS = (0.0, 0.5, 0.75)
SIDES = (96, 128, 192, 256, 384, 512, 768, 1024)
PAST_DB = 1.0  # below the best side so far: larger ones are worse still
FILES = ("avif", "webp", "jpeg xl")
SHARES = {"share_where_ours_is_better_in_both": ("psnr_db", "ssim"), "share_better_in_ssimulacra2": ("ssimulacra2",)}


class Level(NamedTuple):
    """How near a picture is; nan: not measured."""

    psnr_db: float
    ssim: float = math.nan
    ssimulacra2: float = math.nan


def level_of(image: np.ndarray, truth: np.ndarray, seen: bool) -> Level:
    """PSNR in dB, and the other two where they are asked for."""
    level = psnr_db(image, truth)
    return Level(level, ssim(image, truth), ssimulacra2(image, truth)) if seen else Level(level)


def ours(sample: Sample, ratio: float, budget: int, es: Transmitter, ue: Receiver) -> Level | None:
    """The finest quantiser that fits; None: none does."""
    try:
        sent = es.encode(sample.latent, ratio, bits_budget=budget)
    except InputError:
        return None
    return level_of(ue.decode(Received(sent.payload)), sample.image, ratio == 0 and budget in SEEN)


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
    """Of the side of the best PSNR; None: not even the smallest side fits."""
    whole, found = Image.fromarray(sample.image), []
    for side in SIDES:
        data = fitting(encode, whole.resize((side, side), Image.Resampling.LANCZOS), span, budget)
        if data is not None:
            shown = Image.open(io.BytesIO(data)).convert("RGB").resize(whole.size, Image.Resampling.LANCZOS)
            found.append((psnr_db(np.asarray(shown), sample.image), np.asarray(shown)))
        if found and (data is None or found[-1][0] < max(level for level, _ in found) - PAST_DB):
            break
    return level_of(max(found, key=lambda f: f[0])[1], sample.image, budget in SEEN) if found else None


def one(sample: Sample, es: Transmitter, ue: Receiver, budgets: Sequence[int], files: bool) -> dict[tuple[str, int], Level | None]:
    """Every way and budget, without `files` ours alone."""
    kinds, rows = file_kinds(6) if files else {}, {}
    ways: dict[str, Callable[[int], Level | None]] = {
        f"megen, ratio {ratio:g}": lambda budget, ratio=ratio: ours(sample, ratio, budget, es, ue)  # type: ignore[misc]
        for ratio in RATIOS
    }
    for name in FILES:
        if name in kinds:
            encode, span = kinds[name].encode, (1, kinds[name].span[1])
            ways[name] = lambda budget, encode=encode, span=span: file(encode, sample, span, budget)  # type: ignore[misc]
    for way, level in ways.items():
        for budget in budgets:
            rows[way, budget] = level(budget)
    for way, (bits, image) in {"int8 latent": int8(sample, ue), "reference's halves, ratio 0.5": reference_fp16(sample, 0.5, ue)}.items():
        rows[way, 0] = level_of(image, sample.image, False)  # a size that no budget decides
        rows[f"{way}, bits", 0] = Level(float(bits))
    return rows


def summary(found: dict[tuple[str, int], list[Level | None]], prompts: int) -> dict:
    """Means of those prompts that fit, and on how many ours without merging beats a file: in PSNR and SSIM, and in SSIMULACRA 2."""
    rows: dict = defaultdict(dict)
    for (way, budget), values in found.items():
        held = [v for v in values if v is not None]
        if held:
            measured = {name: [getattr(v, name) for v in held] for name in Level._fields if math.isfinite(getattr(held[0], name))}
            rows[way][str(budget)] = {name: common.estimate(v) for name, v in measured.items()} | {"fits": len(held) / prompts}
    wins: dict[str, dict[str, dict]] = {name: defaultdict(dict) for name in SHARES}
    for way in FILES:
        for budget in SEEN:
            if ("megen, ratio 0", budget) not in found:
                continue
            mine, theirs = found["megen, ratio 0", budget], found.get((way, budget), [None] * prompts)
            for name, measures in SHARES.items():
                better = [
                    m is not None and (t is None or all(getattr(m, k) > getattr(t, k) for k in measures))
                    for m, t in zip(mine, theirs, strict=True)
                ]
                wins[name][way][str(budget)] = float(np.mean(better))
    return {"levels": rows, **wins}


@functools.cache
def both_halves() -> tuple[Transmitter, Receiver]:
    """A process's own."""
    torch.set_num_threads(1)
    es, ue = halves()
    assert isinstance(ue, Receiver)
    return es, ue


def of_prompt(task: tuple[int, int, int, Sequence[int], bool]) -> dict[tuple[str, int], Level | None]:
    """Every way and budget of one prompt."""
    number, seed, steps, budgets, files = task
    es, ue = both_halves()
    latent = es.denoise([prompts(number + 1, seed)[number]], [1000 * seed + number], steps)
    return one(Sample(latent, ue.image_of(Features.clean(tokens_of(latent)))), es, ue, budgets, files)


def with_files_of(before: dict, ours: dict) -> dict:
    """Today's rows of ours beside files and shares as they were measured before, by what made them."""
    shares = {name: before[name] for name in SHARES}
    return {
        **ours,
        "levels": {**before["levels"], **ours["levels"]},
        **shares,
        "files_made_by": before.get("files_made_by", before["made_by"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="in bits; others than all are written to few-bits.json")
    parser.add_argument("--ours", action="store_true", help="measure ours alone anew; files do not depend on our coder")
    args = parser.parse_args()
    common.check_bench()
    name = "rate_curves" if tuple(args.budgets) == BUDGETS else "few-bits"
    before = common.read("rate_curves", "result" if name == "rate_curves" else name) if args.ours else None
    tasks = [(n, args.seed, args.steps, args.budgets, not args.ours) for n in range(args.prompts)]
    found: dict[tuple[str, int], list[Level | None]] = defaultdict(list)
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker) as pool:
        for i, levels_of in enumerate(pool.map(of_prompt, tasks), 1):
            for key, level in levels_of.items():
                found[key].append(level)
            print(f"prompt {i}/{args.prompts}", file=sys.stderr)
            result = {**summary(found, i), "prompts": i, "steps": args.steps, "seed": args.seed}
            common.write(name, with_files_of(before, result) if before else result)


if __name__ == "__main__":
    main()
