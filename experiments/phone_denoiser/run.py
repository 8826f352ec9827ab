"""What the phone's denoiser is worth on bits: coarse quantisers, merged tokens, lost parts, each with it and without.

`python -m experiments.phone_denoiser.run` (five minutes): held-out prompts without link. PSNR is to the same latent decoded without
merging and quantiser. `degradation` is the mean of the tokens' largest; from `DEGRADED` on the receiver uses the denoiser, here always.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from experiments import common
from megen.evaluation.link import samples
from megen.halves import Transmitter, halves
from megen.metrics import psnr_db
from megen.types import InputError, Payload, Received
from megen.ue import Receiver, receiver

BUDGETS = (5_000, 6_500, 10_000, 20_000, 40_000)
LOST = 2  # the part that is lost


def without(payload: Payload) -> Payload:
    """One part lost."""
    return replace(payload, features=tuple(b"" if i == LOST else part for i, part in enumerate(payload.features)))


def cases(es: Transmitter, latent: object) -> dict[str, Callable[[], Payload]]:
    """By name, what arrives."""

    def sent(**options: object) -> Payload:
        return es.encode(latent, **options).payload  # type: ignore[arg-type]

    return {
        **{f"{budget} bits": lambda budget=budget: sent(bits_budget=budget) for budget in BUDGETS},  # type: ignore[misc]
        "5 bits a value": lambda: sent(quantiser_bits=5.0),
        "half merged": lambda: sent(merge_ratio=0.5, quantiser_bits=5.0),
        "three quarters merged": lambda: sent(merge_ratio=0.75, quantiser_bits=5.0),
        "a band lost": lambda: without(sent(quantiser_bits=5.0, order="band")),
        "a refinement lost": lambda: without(sent(quantiser_bits=5.0, order="layer")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    es, ue = halves()
    assert isinstance(ue, Receiver)
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with patch.object(receiver, "DEGRADED", 0.0):
        for i, sample in enumerate(samples(es, ue, args.prompts, args.seed, args.steps)):
            for name, arrives in cases(es, sample.latent).items():
                try:
                    features = es.codec.decode(Received(arrives()))
                except InputError:  # not even the coarsest payload fits the budget
                    continue
                plain, cleaned = (psnr_db(each.image_of(features), sample.image) for each in (replace(ue, denoiser=None), ue))
                found[name].append((plain, cleaned, float(features.degradation.max(1).mean())))
            print(f"prompt {i + 1}/{args.prompts}", file=sys.stderr)
    rows = {}
    for name, values in found.items():
        plain, cleaned, degradation = np.array(values).T
        rows[name] = {
            "restorer_db": common.estimate(plain),
            "denoiser_db": common.estimate(cleaned),
            "gain_db": common.estimate(cleaned - plain),
            "fits": len(values) / args.prompts,
            "degradation": float(degradation.mean()),
        }
    common.write("phone_denoiser", {"cases": rows, "prompts": args.prompts, "steps": args.steps, "threshold": receiver.DEGRADED})


if __name__ == "__main__":
    main()
