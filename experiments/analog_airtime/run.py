"""What airtime buys on the analog link: transform coefficients left out or sent twice, beside merged tokens and the digital link.

`python -m experiments.analog_airtime.run` (half an hour): held-out prompts, 1 MHz, no fading, PSNR to the same latent decoded
without link. The analog header's airtime is not counted, half a millisecond at 0 dB. The digital link has the finest quantiser whose
payload arrives within the same airtime. `--fading rayleigh` and other seeds are written beside `result.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict

import numpy as np
import torch

from experiments import common
from megen.evaluation.link import samples
from megen.halves import Transmitter, halves
from megen.link import NotDeliveredError, RadioLink
from megen.link.carrier import symbol_rate_hz
from megen.metrics import psnr_db
from megen.types import Received, Transmission
from megen.ue import Receiver

SNRS_DB = (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0, 12.0, 18.0)
WAYS: dict[str, dict] = {  # by name, how features are sent
    "a quarter of the coefficients": {"merge_ratio": 0.75, "reduction": "transform"},
    "half of them": {"merge_ratio": 0.5, "reduction": "transform"},
    "all": {},
    "all, twice": {"copies": 2},
    "all, gains known to 1 %": {},
    "half of the tokens merged": {"merge_ratio": 0.5, "reduction": "merging"},
    "three quarters of the tokens merged": {"merge_ratio": 0.75, "reduction": "merging"},
    "no token merged": {"reduction": "merging"},
}
CSI_ERROR = {"all, gains known to 1 %": 0.01}
DEPTHS = range(1, 33)  # quarter bits
SEED = 5


def crossed(sent: Transmission, link: RadioLink, seed: list[int]) -> Received:
    """An analog transmission whose header arrived."""
    assert sent.symbols is not None
    rng = np.random.default_rng(seed)
    return Received(sent.payload, *link.send_symbols(sent.symbols, link.gain(rng), 0.0, rng))


def digital(payloads: list[Transmission], link: RadioLink, airtime_s: float, seed: list[int]) -> Received | None:
    """The finest of the payloads that arrives in time; None: none does."""
    for sent in reversed(payloads):
        try:
            delivery = link.send(sent, np.random.default_rng(seed))
        except NotDeliveredError:
            continue
        if delivery.latency_s <= airtime_s:
            return delivery.received
    return None


def one(latent: torch.Tensor, image: np.ndarray, es: Transmitter, ue: Receiver, fading: str, seed: list[int]) -> dict:
    """PSNR in dB of one prompt by way and SNR; nan where nothing arrived."""
    payloads, found = [es.encode(latent, quantiser_bits=depth / 4) for depth in DEPTHS], {}
    for way, options in WAYS.items():
        sent = es.encode(latent, analog=True, **options)
        assert sent.symbols is not None
        airtime_s = len(sent.symbols) / symbol_rate_hz(1e6)
        for snr_db in SNRS_DB:
            link = RadioLink(snr_db, fading=fading, csi_error=CSI_ERROR.get(way, 0.0))
            found[way, snr_db] = psnr_db(ue.decode(crossed(sent, link, seed)), image)
            if options.get("reduction") != "merging" and way not in CSI_ERROR:
                received = digital(payloads, link, airtime_s, seed)
                found[f"digital, {1e3 * airtime_s:.1f} ms", snr_db] = psnr_db(ue.decode(received), image) if received else float("nan")
    return found


def summary(levels: dict[str, dict[float, list[float]]]) -> dict:
    """Mean and error of what arrived, and the share that did."""
    rows: dict = {}
    for way, by_snr in levels.items():
        rows[way] = {}
        for snr_db, values in by_snr.items():
            arrived = [v for v in values if np.isfinite(v)]
            own = {"psnr_db": common.estimate(arrived)} if arrived else {}
            rows[way][f"{snr_db:g}"] = own | {"arrived": len(arrived) / len(values)}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--fading", default="awgn")
    args = parser.parse_args()
    es, ue = halves()
    assert isinstance(ue, Receiver)
    levels: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for i, sample in enumerate(samples(es, ue, args.prompts, args.seed, args.steps)):
        for (way, snr_db), level in one(sample.latent, sample.image, es, ue, args.fading, [args.seed, i]).items():
            levels[way][snr_db].append(level)
        print(f"prompt {i + 1}/{args.prompts}", file=sys.stderr)
    airtimes = {way: 1e3 * (1 - o.get("merge_ratio", 0)) * o.get("copies", 1) * 16384 / symbol_rate_hz(1e6) for way, o in WAYS.items()}
    fields = {"airtime_ms": airtimes, "psnr_db": summary(levels), "prompts": args.prompts, "steps": args.steps, "fading": args.fading}
    own = [part for part, usual in ((args.fading, "awgn"), (f"seed-{args.seed}", f"seed-{SEED}")) if part != usual]
    common.write("-".join(own) or "analog_airtime", fields)


if __name__ == "__main__":
    main()
