"""What a lost part costs, by the order of parts: bands, stages of the pyramid, or layers of refinement.

`python -m experiments.lost_parts.run` (ten minutes): held-out prompts, digital payloads of 5 bits. First each part but the base is lost
in turn. Then blocks are lost at random at equal total bits (bands and stages have the finest quantiser whose payload fits the layers'
bits). Blocks of the parts that every order must have are protected as they ship: their limit of the error rate is a thirtieth.
PSNR is to the same latent decoded without quantiser and link; an image whose base was lost counts as a grey one.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace

import numpy as np

from experiments import common
from megen.codec.payload import error_rates
from megen.evaluation.link import samples
from megen.halves import halves
from megen.link.harq import MOST_ERRORS
from megen.metrics import psnr_db
from megen.types import Payload, Received

ORDERS = ("band", "stage", "layer")
BLOCK_BITS = 1500  # about a slot of 1 MHz at 10 dB
LOSSES = (0.01, 0.03, 0.1)  # of blocks
DRAWS = 8


def without(payload: Payload, lost: set[int]) -> Payload:
    """The payload with parts lost."""
    return replace(payload, features=tuple(b"" if i in lost else part for i, part in enumerate(payload.features)))


def lost_parts(payload: Payload, order: str, share: float, rng: np.random.Generator) -> set[int]:
    """Parts of which a block was lost, where `share` of the blocks of parts that are sent at `MOST_ERRORS` are."""
    limits = error_rates(payload, order)[1:]
    out = set()
    for i, (part, limit) in enumerate(zip(payload.features, limits, strict=True)):
        blocks = math.ceil(8 * len(part) / BLOCK_BITS)
        if (rng.random(blocks) < share * limit / MOST_ERRORS).any():
            out.add(i)
    return out


def summary(values: list[float]) -> dict[str, float]:
    """Mean with its error, 5th percentile, least."""
    return common.estimate(values) | {"p5": float(np.percentile(values, 5)), "least": float(min(values))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()
    transmitter, receiver = halves()
    bits: dict[str, list[float]] = {order: [] for order in ORDERS}
    whole: dict[str, list[float]] = {order: [] for order in ORDERS}
    forced: dict[str, list[float]] = {order: [] for order in ORDERS}
    drawn: dict[tuple[str, float], list[float]] = {}
    for i, sample in enumerate(samples(transmitter, receiver, args.prompts, args.seed, args.steps)):
        budget = transmitter.encode(sample.latent, order="layer").payload.bits()["total"]
        grey = psnr_db(np.full_like(sample.image, 128), sample.image)
        for order in ORDERS:
            payload = transmitter.encode(sample.latent, order=order).payload
            bits[order].append(payload.bits()["total"])
            whole[order].append(psnr_db(receiver.decode(Received(payload)), sample.image))
            for k in range(1, len(payload.features)):
                forced[order].append(psnr_db(receiver.decode(Received(without(payload, {k}))), sample.image))
            equal = transmitter.encode(sample.latent, bits_budget=budget, order=order).payload
            seen: dict[frozenset[int], float] = {}
            for share in LOSSES:
                for draw in range(DRAWS):
                    lost = frozenset(lost_parts(equal, order, share, np.random.default_rng([args.seed, i, draw, int(1e3 * share)])))
                    if lost not in seen:
                        seen[lost] = grey if 0 in lost else psnr_db(receiver.decode(Received(without(equal, set(lost)))), sample.image)
                    drawn.setdefault((order, share), []).append(seen[lost])
        print(f"prompt {i + 1}/{args.prompts}", file=sys.stderr)
    rows = {
        order: {
            "bits": common.estimate(bits[order]),
            "whole_db": common.estimate(whole[order]),
            "one_part_lost_db": summary(forced[order]),
            "blocks_lost_at_equal_bits_db": {f"{share:g}": summary(drawn[order, share]) for share in LOSSES},
        }
        for order in ORDERS
    }
    common.write("lost_parts", {"orders": rows, "prompts": args.prompts, "block_bits": BLOCK_BITS})


if __name__ == "__main__":
    main()
