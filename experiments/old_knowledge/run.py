"""Images over a link whose sender knows the channel as it was 4 ms before: with the margin for that age, and without.

`python -m experiments.old_knowledge.run` (ten minutes): payloads of held-out prompts, one after another over Rayleigh fading of 10 dB and
1 MHz, link adaptation carried on from image to image. `fixed targets` is the adaptation without margin: the fastest scheme that keeps
the limit at the SNR that was.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from experiments import common
from megen.evaluation.link import samples
from megen.halves import halves
from megen.link import fading, harq
from megen.link.adaptation import OuterLoop
from megen.types import Transmission

SNR_DB, BANDWIDTH_HZ, AGE_S, CARRIER_HZ = 10.0, 1e6, 4e-3, 3.5e9


def image(sent: Transmission, doppler: float, margin: bool, loop: OuterLoop, rng: np.random.Generator) -> harq.Reception:
    """One image over a fresh stretch of the channel."""
    gain = fading.gain_of("rayleigh", doppler, rng)

    def snr_db(time_s: np.ndarray) -> np.ndarray:
        return SNR_DB + 10 * np.log10(np.maximum(np.abs(gain(time_s)) ** 2, 1e-12))

    def forecast(time_s: float) -> fading.Forecast:
        known_db = float(snr_db(np.array([time_s - AGE_S]))[0])
        return fading.forecast("rayleigh" if margin else "awgn", doppler, AGE_S, known_db, SNR_DB)

    payload = sent.payload
    bits = [8 * (len(payload.header) + len(payload.merge_map)), *(8 * len(part) for part in payload.features)]
    kept = [(n, limit) for n, limit in zip(bits, sent.error_rates, strict=True) if n]
    return harq.transmit([n for n, _ in kept], [limit for _, limit in kept], snr_db, forecast, BANDWIDTH_HZ, rng, loop)


def measured(payloads: list[Transmission], speed_m_s: float, margin: bool, count: int, seed: int) -> dict[str, object]:
    """Errors, losses and latency of `count` images."""
    rng, loop, doppler = np.random.default_rng(seed), OuterLoop(), fading.doppler_hz(speed_m_s, CARRIER_HZ)
    header, undelivered, lost, latency = [], [], [], []
    first: dict[float, list[tuple[float, bool]]] = {}
    for i in range(count):
        sent = payloads[i % len(payloads)]
        got = image(sent, doppler, margin, loop, rng)
        loop = got.outer_loop
        header.append(any(block.attempts > 1 for block in got.blocks if block.part == 0))
        undelivered.append(not (got.delivered[0] and got.delivered[1]))
        lost.append(not all(got.delivered))
        latency.append(got.latency_s)
        for block in got.blocks:
            first.setdefault(sent.error_rates[block.part], []).append((block.sent.expected, block.attempts > 1))
    settled = {f"{limit:g}": np.array(pairs[len(pairs) // 10 :], float) for limit, pairs in first.items()}
    return {
        "header_first_attempt_errors": float(np.mean(header)),
        "undelivered": float(np.mean(undelivered)),
        "with_a_lost_part": float(np.mean(lost)),
        "latency_s": common.estimate(latency) | {"p95": float(np.percentile(latency, 95))},
        "first_attempt_errors": {k: {"expected": float(v[:, 0].mean()), "measured": float(v[:, 1].mean())} for k, v in settled.items()},
        "offsets_db": dict(loop.offsets_db),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    transmitter, receiver = halves()
    payloads = [transmitter.encode(s.latent) for s in samples(transmitter, receiver, args.prompts, args.seed, 4)]
    rows = {}
    for speed_m_s in (1.0, 10.0):
        for margin in (True, False):
            rows[f"{speed_m_s:g} m/s, {'margin' if margin else 'fixed targets'}"] = measured(
                payloads, speed_m_s, margin, args.images, args.seed
            )
            print(f"{speed_m_s:g} m/s, margin {margin}: done", file=sys.stderr)
    common.write("old_knowledge", {"rows": rows, "images": args.images, "snr_db": SNR_DB, "age_s": AGE_S})


if __name__ == "__main__":
    main()
