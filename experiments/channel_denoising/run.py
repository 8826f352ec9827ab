"""What a receiver makes of the analog link's noise: linear estimates, restorer, phone's denoiser, one step of the flow map; what ships.

`python -m experiments.channel_denoising.run` (half an hour): held-out prompts over one analog link of each SNR, 1 MHz, the same draws for
all receivers. PSNR is to the same latent decoded without merging and link. `attributes_alike` is the share of what the picture of the clean
latent shows, by the examiner, that the received one shows too. Where the link fades, `below_no_fading_db` is what the receiver as it ships
loses to a link of the same mean SNR without fading, on the same pictures. `--only` measures few receivers: many pictures take less time.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

from experiments import common
from megen.evaluation.link import prompts, samples
from megen.halves import FlowReceiver, LocalReceiver, Transmitter, halves
from megen.link import RadioLink
from megen.metrics import psnr_db
from megen.models import embedded, phone_denoiser
from megen.scenes import judge
from megen.types import Received
from megen.ue import Receiver
from megen.ue.receiver import NOISE, NOISE_CLEANED

SNRS_DB = (-6.0, 0.0, 6.0, 12.0, 18.0, 24.0)
SHIPS, RESTORER = "as it ships", "restorer"
RECEIVERS = ("linear", RESTORER, "phone's denoiser", "flow step", SHIPS, "as it ships, prompt known")


def receivers(transmitter: Transmitter, receiver: Receiver, prompt: str) -> dict[str, object]:
    """By name, whatever decodes."""
    return {
        "linear": LocalReceiver(transmitter),
        RESTORER: replace(receiver, noisy=None, denoiser=None),
        "phone's denoiser": replace(receiver, noisy=None),
        "flow step": replace(receiver, denoiser=None),
        SHIPS: receiver,
        "as it ships, prompt known": FlowReceiver(transmitter, prompt, phone_denoiser.load(embedded.folder_of("scenes"))),
    }


def crossed(latent: object, transmitter: Transmitter, link: RadioLink, seed: list[int], reduction: str) -> Received:
    """An analog transmission whose header arrived: at a higher SNR where it would not, the symbols at their own."""
    sent = transmitter.encode(latent, 0.0, analog=True, reduction=reduction)  # type: ignore[arg-type]
    assert sent.symbols is not None
    rng = np.random.default_rng(seed)
    symbols, variance = link.send_symbols(sent.symbols, link.gain(rng), 0.0, rng)
    return Received(sent.payload, symbols, variance)


def agreement(first: dict[str, str], second: dict[str, str]) -> float:
    """The share of attributes that an examiner reads alike in two pictures."""
    return float(np.mean([first[name] == value for name, value in second.items()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--fading", default="awgn")
    parser.add_argument("--only", nargs="+", choices=RECEIVERS, default=RECEIVERS, help="receivers to measure")
    parser.add_argument("--reduction", choices=("transform", "merging"), default="transform", help="all coefficients, or all tokens")
    args = parser.parse_args()
    transmitter, receiver = halves()
    levels: dict[tuple[str, float], list[float]] = {}
    alike: dict[tuple[str, float], list[float]] = {}
    lost: dict[float, list[float]] = {}
    examiner = judge.load()
    texts = prompts(args.prompts, args.seed)
    for i, sample in enumerate(samples(transmitter, receiver, args.prompts, args.seed, args.steps)):
        clean = judge.seen(examiner, sample.image)
        for snr_db in SNRS_DB:
            link = RadioLink(snr_db, fading=args.fading)
            received = crossed(sample.latent, transmitter, link, [args.seed, i], args.reduction)
            measured = {name: ue for name, ue in receivers(transmitter, receiver, texts[i]).items() if name in args.only}
            for name, ue in measured.items():
                image = ue.decode(received)  # type: ignore[attr-defined]
                levels.setdefault((name, snr_db), []).append(psnr_db(image, sample.image))
                alike.setdefault((name, snr_db), []).append(agreement(judge.seen(examiner, image), clean))
            if SHIPS in measured and args.fading != "awgn":
                steady = crossed(sample.latent, transmitter, RadioLink(snr_db), [args.seed, i], args.reduction)
                lost.setdefault(snr_db, []).append(psnr_db(receiver.decode(steady), sample.image) - levels[SHIPS, snr_db][-1])
        print(f"prompt {i + 1}/{args.prompts}", file=sys.stderr)
    names = list(dict.fromkeys(name for name, _ in levels))
    rows = {name: {f"{snr_db:g}": common.estimate(levels[name, snr_db]) for snr_db in SNRS_DB} for name in names}
    gains = {
        name: {f"{snr_db:g}": common.estimate(np.subtract(levels[name, snr_db], levels[RESTORER, snr_db])) for snr_db in SNRS_DB}
        for name in names
        if name != RESTORER and RESTORER in names
    }
    attributes = {name: {f"{snr_db:g}": common.estimate(alike[name, snr_db]) for snr_db in SNRS_DB} for name in names}
    result = {
        "attributes_alike": attributes,
        "psnr_db": rows,
        "paired_gain_over_restorer_db": gains,
        "below_no_fading_db": {f"{snr_db:g}": common.estimate(values) for snr_db, values in lost.items()},
        "noise": NOISE,
        "noise_cleaned": NOISE_CLEANED,
        "steps": args.steps,
        "fading": args.fading,
    }
    own = [part for part, usual in ((args.fading, "awgn"), (args.reduction, "transform")) if part != usual]
    common.write("-".join(own) or "channel_denoising", result)


if __name__ == "__main__":
    main()
