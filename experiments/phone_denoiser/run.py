"""What the phone's denoiser is worth: coarse quantisers, merged tokens, lost parts, mild analog noise, each with it and without.

`python -m experiments.phone_denoiser.run` (five minutes): held-out prompts, bits without link and analog symbols without fading. PSNR is to
the same latent decoded without merging, quantiser and link. From a `degradation` of `DEGRADED` on (bits) and of `NOISY_FROM` on (symbols)
the receiver uses the denoiser, here always.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from experiments import common
from experiments.channel_denoising.run import crossed
from megen.evaluation.device_profile import gflops
from megen.evaluation.link import samples
from megen.halves import Transmitter, halves
from megen.link import RadioLink
from megen.metrics import psnr_db
from megen.models import embedded, phone_denoiser
from megen.models.restorer import STATES
from megen.types import Features, InputError, Payload, Received
from megen.ue import Receiver, receiver

BUDGETS = (5_000, 6_500, 10_000, 20_000, 40_000)
LOST = 2  # the part that is lost
SNRS_DB = (12, 18, 21, 24)


def without(payload: Payload) -> Payload:
    """One part lost."""
    return replace(payload, features=tuple(b"" if i == LOST else part for i, part in enumerate(payload.features)))


def cases(es: Transmitter, latent: Tensor, number: int) -> dict[str, Callable[[], Features]]:
    """By name, what arrives."""

    def sent(lost: bool = False, **options: Any) -> Features:
        payload = es.encode(latent, **options).payload
        return es.codec.decode(Received(without(payload) if lost else payload))

    def noisy(snr_db: float) -> Features:
        return es.codec.decode(crossed(latent, es, RadioLink(snr_db), [number], "transform"))

    return {
        **{f"{budget} bits": lambda budget=budget: sent(bits_budget=budget) for budget in BUDGETS},  # type: ignore[misc]
        "5 bits a value": lambda: sent(quantiser_bits=5.0),
        "half merged": lambda: sent(merge_ratio=0.5, quantiser_bits=5.0),
        "three quarters merged": lambda: sent(merge_ratio=0.75, quantiser_bits=5.0),
        "a band lost": lambda: sent(lost=True, quantiser_bits=5.0, order="band"),
        "a refinement lost": lambda: sent(lost=True, quantiser_bits=5.0, order="layer"),
        **{f"analog, {snr_db} dB": lambda snr_db=snr_db: noisy(snr_db) for snr_db in SNRS_DB},  # type: ignore[misc]
    }


def operations(es: Transmitter) -> dict[str, float]:
    """Floating-point operations of the phone's denoiser and of one step of the flow map, text left out, in 10^9."""
    net, backbone = phone_denoiser.load(embedded.folder_of("scenes")), es.backbone
    assert net is not None
    assert isinstance(backbone, embedded.EmbeddedBackbone)
    z, t = torch.zeros(1, *backbone.latent_shape), torch.zeros(1)
    condition = backbone.condition(["a castle at dawn"])
    return {
        "phone's denoiser": gflops(lambda: net(z, torch.zeros(1, STATES, *z.shape[2:]))),
        "flow map": gflops(lambda: backbone.velocity(z, t, t + 1, condition)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    es, ue = halves()
    assert isinstance(ue, Receiver)
    ue = replace(ue, noisy=None)  # the flow map would count beside what cleans analog features
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with patch.object(receiver, "DEGRADED", 0.0), patch.object(receiver, "NOISY_FROM", 0.0):
        for i, sample in enumerate(samples(es, ue, args.prompts, args.seed, args.steps)):
            for name, arrives in cases(es, sample.latent, i).items():
                try:
                    features = arrives()
                except InputError:  # not even the coarsest payload fits the budget
                    continue
                plain, cleaned = (psnr_db(each.image_of(features), sample.image) for each in (replace(ue, denoiser=None), ue))
                found[name].append((plain, cleaned, receiver.degradation_of(features)))
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
    bounds = {"threshold": receiver.DEGRADED, "threshold_symbols": receiver.NOISY_FROM}
    common.write("phone_denoiser", {"cases": rows, "prompts": args.prompts, "steps": args.steps, **bounds, "gflop": operations(es)})


if __name__ == "__main__":
    main()
