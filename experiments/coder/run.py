"""Bits of the entropy coder at equal PSNR: what its prior is worth, and an encoder that weighs bits against errors.

`python -m experiments.coder.run --before FOLDER` (ten minutes): latents of held-out prompts, by stage, decoded without the restorer, so
that the coder alone counts. FOLDER has a `codec.safetensors` of before (`git show d9f0370^:src/megen/assets/scenes/codec.safetensors`).
PRICE is a bit's, in squared steps of error; None rounds to the nearest and a little towards zero. Ratios are of bits, along today's curve.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from experiments import common
from megen import merging
from megen.codec import FeatureCodec, Prior, entropy, prior
from megen.evaluation.link import samples
from megen.halves import halves, tokens_of
from megen.metrics import psnr_db
from megen.types import Features, Received

DEPTHS = (8, 12, 16, 20, 24, 28)  # quarter bits
PRICES = (None, 0.0, 0.05, 0.08, 0.11, 0.14)
Curve = list[tuple[float, float]]


def rounded(values: np.ndarray, classes: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """As before: whatever the classes are."""
    return entropy.rounded(values)


def coder(learned: Prior, price: float | None) -> tuple[Prior, Callable[..., np.ndarray]]:
    """A prior whose thresholds are of a price, and how levels are rounded by them."""
    own = replace(learned)  # thresholds are kept in the prior
    if price is None:
        return own, rounded
    with patch.object(entropy, "PRICE", price):
        own.thresholds  # noqa: B018
    return own, entropy.weighed


def ratios(curve: Curve, today: Curve) -> dict[str, float]:
    """Bits by those that today's coder has at the same PSNR, where its curve has it."""
    bits, levels_db = np.array(today).T
    inside = [(b, db) for b, db in curve if levels_db[0] <= db <= levels_db[-1]]
    return {f"{db:.1f} dB": float(b / np.exp(np.interp(db, levels_db, np.log(bits)))) for b, db in inside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--before", type=Path, help="a folder with an earlier codec.safetensors")
    args = parser.parse_args()
    es, ue = halves()
    pictures = list(samples(es, ue, args.prompts, args.seed, 4))
    today = es.codec.prior
    assert today is not None

    def curve(learned: Prior, rounding: Callable[..., np.ndarray]) -> Curve:
        codec, points = FeatureCodec(learned, es.codec.fingerprint), []
        for depth in DEPTHS:
            rows = []
            for sample in pictures:
                merged = merging.merged(tokens_of(sample.latent), sample.latent.shape[-2:], 0.0)
                with patch.object(entropy, "weighed", rounding):
                    payload = codec.encode(merged, quantiser_bits=depth / 4, order="stage").payload
                got = codec.decode(Received(payload))
                shown = ue.image_of(Features.clean(merging.unmerge(got.rows, got.merge_map)))
                rows.append((payload.bits()["total"], psnr_db(shown, sample.image)))
            points.append(tuple(np.mean(rows, 0).tolist()))
            print(f"depth {depth / 4:g}: {points[-1][0]:.0f} bits, {points[-1][1]:.2f} dB", file=sys.stderr)
        return points

    curves = {f"price {price}": curve(*coder(today, price)) for price in PRICES}
    if args.before:
        earlier = prior.load(args.before, today.channels)
        curves |= {f"before, price {price}": curve(*coder(earlier, price)) for price in (None, entropy.PRICE)}
    usual = curves[f"price {entropy.PRICE}"]
    rows = {name: {"bits_db": points, "of_today": ratios(points, usual)} for name, points in curves.items()}
    common.write("coder", {"prompts": args.prompts, "seed": args.seed, "coders": rows})


if __name__ == "__main__":
    main()
