"""The source system's own figures, from its formulae as they were released, and each of its weaknesses in numbers.

Closed forms alone: payloads, the latency table, the rates of its cell. What it changes in a corrected setting is beside each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megen.control.scenarios.reference import (
    BANDWIDTH_HZ,
    J_PER_TFLOP,
    NOISE_DBM,
    POWER_DBM,
    S_PER_TFLOP,
    UNET_TFLOP,
    VAE_TFLOP,
    payload_bits,
)
from megen.link.propagation import path_loss_db

RATIOS = (0.0, 0.1, 0.5, 0.8)
TABLE_RATE_BPS = 1.6647e6  # of its latency table, which its own cell never reaches
IMAGES = 2  # a request
RAW_BITS = 1024 * 1024 * 3 * 16
NEAREST_M, FARTHEST_M = 200.0, 300.0
SIGMA = 0.1  # of the noise that is put on unscaled latents, whatever the channel
LATENT_STD = 7.7  # of SDXL's unscaled latents


def snr_db(distance_m: np.ndarray) -> np.ndarray:
    """Its link budget."""
    return POWER_DBM - NOISE_DBM - path_loss_db("reference", distance_m, 3.5e9)


def payloads_mbit() -> dict[str, float]:
    """Its payload of one image by merge ratio; beyond 3/4 nothing more can merge."""
    return {str(ratio): payload_bits(min(ratio, 0.75)) / 1e6 for ratio in RATIOS}


def latency_table_s() -> dict[str, float]:
    """Its latency table: seconds in transmission of a request of two images at a constant rate."""
    rows = {"centralised, raw": RAW_BITS, "plain split": 1e6 * payloads_mbit()["0.0"]}
    rows |= {f"merge ratio {ratio:g}": 1e6 * payloads_mbit()[str(ratio)] for ratio in RATIOS[1:]}
    return {name: IMAGES * bits / TABLE_RATE_BPS for name, bits in rows.items()}


def rates(points: int = 100_001) -> dict[str, float]:
    """SNR and Shannon rate of its cell, a distance uniform in 200 to 300 m."""
    distance_m = np.linspace(NEAREST_M, FARTHEST_M, points)
    snrs = snr_db(distance_m)
    rate_bps = BANDWIDTH_HZ * np.log2(1 + 10 ** (snrs / 10))
    return {
        "snr_db_least": float(snrs[-1]),
        "snr_db_most": float(snrs[0]),
        "rate_mbps_mean": float(np.trapezoid(rate_bps, distance_m) / (FARTHEST_M - NEAREST_M) / 1e6),
        "rate_mbps_most": float(rate_bps[0] / 1e6),
    }


def costs_by_steps(steps: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10, 11, 12)) -> dict[str, Any]:
    """FLOPs, seconds and joules of the edge server against steps, each with its line (modelled: an A100, SDXL)."""
    tflop = UNET_TFLOP * np.array(steps)
    rows = {"tflop": tflop, "s": S_PER_TFLOP * tflop, "j": J_PER_TFLOP * tflop}
    fits = {name: np.polyfit(steps, values, 1).tolist() for name, values in rows.items()}
    return {"steps": list(steps), **{name: values.tolist() for name, values in rows.items()}, "lines": fits, "modelled": True}


def energy_of(ratio: float, steps: int = 12) -> dict[str, float]:
    """Joules of one image: its sum adds hectojoules of computing to joules of the radio, which counts a hundredfold."""
    rate_bps = 1e6 * rates()["rate_mbps_mean"]
    radio_j = 10 ** (POWER_DBM / 10) / 1e3 * payload_bits(min(ratio, 0.75)) / rate_bps
    compute_j = J_PER_TFLOP * (UNET_TFLOP * steps + VAE_TFLOP / 0.8)
    return {"compute_j": compute_j, "radio_j": radio_j, "radio_share": radio_j / (compute_j + radio_j),
            "radio_share_as_released": radio_j / (compute_j / 100 + radio_j)}  # fmt: skip


def weaknesses() -> dict[str, Any]:
    """Each of its optimisms as released, beside what it is when corrected."""
    near, far = snr_db(np.array([NEAREST_M, FARTHEST_M]))
    released_db = 20 * np.log10(LATENT_STD / SIGMA)
    return {
        "noise is decoupled from the channel": {
            "as released: SNR of the features in dB, at every distance": float(released_db),
            "corrected: SNR of the cell in dB, nearest and farthest": [float(near), float(far)],
        },
        "its table's rate": {
            "as released: Mbit/s": TABLE_RATE_BPS / 1e6,
            "corrected: the most that its cell gives": rates()["rate_mbps_most"],
        },
        "a merge ratio of 0.8": {"as released: bits": payload_bits(0.75), "corrected: bits at 3/4, the same": payload_bits(0.75)},
        "the radio's share of energy": {
            "as released": energy_of(0.5)["radio_share_as_released"],
            "corrected": energy_of(0.5)["radio_share"],
        },
        "the file that it compares with": {"as released: Mbit": RAW_BITS / 1e6, "corrected": "see schemes"},
    }


def figures() -> dict[str, Any]:
    """All of it."""
    return {
        "payloads_mbit": payloads_mbit(),
        "latency_table_s": latency_table_s(),
        "rates": rates(),
        "costs_by_steps": costs_by_steps(),
        "energy": {str(ratio): energy_of(ratio) for ratio in RATIOS},
        "weaknesses": weaknesses(),
    }
