"""Which share of the flow map's estimate is best beside the phone's denoiser: what `NOISE_CLEANED` in `megen.ue.receiver` follows.

`python -m experiments.channel_denoising.shares` (three minutes): held-out prompts over one analog link of each SNR, with fading and
without. By SNR: the mean deviation of a value that the share is chosen by (`unknown`), and what each share gains over none.
"""

from __future__ import annotations

import argparse
import sys
from unittest.mock import patch

import numpy as np

from experiments import common
from experiments.channel_denoising.run import crossed
from megen.evaluation.link import samples
from megen.halves import halves
from megen.link import RadioLink
from megen.metrics import psnr_db
from megen.ue import receiver

SNRS_DB = (-6.0, -3.0, 0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=21)
    args = parser.parse_args()
    es, ue = halves()
    found: dict[tuple[str, float], list[tuple[float, list[float]]]] = {}
    for i, sample in enumerate(samples(es, ue, args.prompts, args.seed, 4)):
        for fading in ("awgn", "rayleigh"):
            for snr_db in SNRS_DB:
                link = RadioLink(snr_db, fading=fading)
                features = es.codec.decode(crossed(sample.latent, es, link, [args.seed, i], "transform"))
                assert features.equalised is not None
                levels = []
                for share in SHARES:
                    with patch.object(receiver, "flow_share", return_value=share):
                        levels.append(psnr_db(ue.image_of(features), sample.image))
                found.setdefault((fading, snr_db), []).append((features.equalised.unknown, levels))
        print(f"prompt {i + 1}/{args.prompts}", file=sys.stderr)
    rows: dict[str, dict[str, object]] = {"awgn": {}, "rayleigh": {}}
    for (fading, snr_db), values in found.items():
        gains = np.array([levels for _, levels in values]) - np.array([[levels[0]] for _, levels in values])
        gain_db = {f"{share:g}": common.estimate(column) for share, column in zip(SHARES, gains.T, strict=True)}
        rows[fading][f"{snr_db:g}"] = {"unknown": common.estimate(unknown for unknown, _ in values), "gain_over_none_db": gain_db}
    common.write("shares", {"prompts": args.prompts, "seed": args.seed, "fading": rows})


if __name__ == "__main__":
    main()
