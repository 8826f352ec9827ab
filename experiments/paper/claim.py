"""Where "more than 40 % less latency" comes from at SDXL's scale, and who wins over rates and phones: modelled, from FLOPs and bits.

An edge server of 125 TFLOPS (40 % of an A100's 312), the source's cell. FLOPs are those that `experiments.published` counts. Bits of
`scenes` are measured by `experiments.paper`; those of published latents and of files as good (a range) are taken from an earlier trial
on stand-in latents at 39 dB, which no command here repeats.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from experiments.paper.as_released import FARTHEST_M, NEAREST_M, RAW_BITS, payloads_mbit, snr_db
from megen.control.scenarios.reference import BANDWIDTH_HZ, UNET_TFLOP, VAE_TFLOP

ES_TFLOPS = 0.4 * 312
UE_SHARE = 0.5  # of the edge server's speed: what the source assumes of a phone
FILE_BITS = 525e3  # of an AVIF file at quality 60
RATES_BPS = np.logspace(5, 8, 13)
UE_TFLOPS = np.logspace(-1.5, 1.5, 13)


@dataclass(frozen=True)
class Model:
    """One text-to-image model at 1024 px: TFLOP of its parts, bits of its features and of files as good (least, most)."""

    name: str
    text_tflop: float  # not counted here
    step_tflop: float
    steps: int
    decoder_tflop: float  # its own
    light_tflop: float  # a distilled one's
    split_bits: float
    file_bits: tuple[float, float]
    bits_from: str


MODELS = (
    # its refiner's 0.008 TFLOP are spread over the steps
    Model("scenes", 1.5e-4, 0.0070, 4, 0.0249, 0.0249, 25.7e3, (161e3, 161e3), "measured at 43.9 dB (`schemes`)"),
    Model(
        "SDXL, distilled to 4 steps", 0.111, 6.761, 4, 10.47, 0.056, 236e3, (265e3, 1080e3), "an earlier trial on stand-in latents, 39 dB"
    ),
    Model(
        "SDXL, 30 steps with guidance",
        0.222,
        13.522,
        30,
        10.47,
        0.056,
        236e3,
        (265e3, 1080e3),
        "an earlier trial on stand-in latents, 39 dB",
    ),
    Model("SANA-Sprint 1.6 B, 2 steps", 1.2, 2.967, 2, 8.37, 0.024, 115e3, (265e3, 1080e3), "assumed as scenes' latents at own scales"),
    Model("Z-Image-Turbo, 8 steps", 2.0, 56.6, 8, 10.47, 0.058, 1207e3, (470e3, 1080e3), "an earlier trial on stand-in latents, 39 dB"),
)
LOCAL_S, LOCAL_TFLOPS = 2.0, 2.0  # a local generator of 0.4 B as published for phones (1 to 3 s), of a phone of this speed: assumed


def shannon_bps() -> float:
    """The rate at which the mean time a bit takes in the source's cell is what it is: 1 / E[1 / R]."""
    rates = BANDWIDTH_HZ * np.log2(1 + 10 ** (snr_db(np.linspace(NEAREST_M, FARTHEST_M, 10_001)) / 10))
    return float(1 / np.mean(1 / rates))


def decomposed() -> list[dict[str, Any]]:
    """Seconds to a picture, one change after the other, at SDXL's scale and the source's own assumptions."""
    rate, compute = shannon_bps(), lambda steps: UNET_TFLOP * steps / ES_TFLOPS
    es_decode_s, ue_decode_s = VAE_TFLOP / ES_TFLOPS, VAE_TFLOP / (UE_SHARE * ES_TFLOPS)
    payload = {ratio: 1e6 * mbit for ratio, mbit in payloads_mbit().items()}
    rows = [
        ("centralised, raw fp16 pixels, 12 steps", compute(12) + es_decode_s + RAW_BITS / rate),
        ("the same as an AVIF file", compute(12) + es_decode_s + FILE_BITS / rate),
        ("split: its fp16 latent", compute(12) + ue_decode_s + payload["0.0"] / rate),
        ("half of it merged", compute(12) + ue_decode_s + payload["0.5"] / rate),
        ("4 steps instead of 12", compute(4) + ue_decode_s + payload["0.5"] / rate),
        ("the AVIF file with 4 steps", compute(4) + es_decode_s + FILE_BITS / rate),
        ("split with 4 steps, a phone of 2 TFLOPS, SDXL's decoder", compute(4) + VAE_TFLOP / 2 + payload["0.5"] / rate),
        ("the same with a light decoder of 0.056 TFLOP and our codec", compute(4) + 0.056 / 2 + 236e3 / rate),
    ]
    return [{"what": what, "s": seconds} for what, seconds in rows]


def ways(model: Model, rate_bps: float, ue_tflops: float, file_bits: float) -> dict[str, float]:
    """Seconds to a picture: made on the phone, split, split with the model's own decoder, or as a file; and by a small local generator."""
    work = model.text_tflop + model.steps * model.step_tflop
    return {
        "local": (work + model.decoder_tflop) / ue_tflops,
        "small local generator": LOCAL_S * LOCAL_TFLOPS / ue_tflops,
        "split, light decoder": work / ES_TFLOPS + model.split_bits / rate_bps + model.light_tflop / ue_tflops,
        "split, own decoder": work / ES_TFLOPS + model.split_bits / rate_bps + model.decoder_tflop / ue_tflops,
        "file": (work + model.decoder_tflop) / ES_TFLOPS + file_bits / rate_bps,
    }


def winners(model: Model) -> dict[str, Any]:
    """Who is fastest at each rate and phone, against the smallest and against the largest of files; how much sooner than a file."""
    out: dict[str, Any] = {**asdict(model), "rates_bps": RATES_BPS.tolist(), "ue_tflops": UE_TFLOPS.tolist()}
    for which, file_bits in zip(("least_file", "most_file"), model.file_bits, strict=True):
        table = [[ways(model, r, u, file_bits) for r in RATES_BPS] for u in UE_TFLOPS]
        out[which] = {
            "winner": [[min(cell, key=lambda w: cell[w]) for cell in row] for row in table],
            "saving_over_file": [[1 - cell["split, light decoder"] / cell["file"] for cell in row] for row in table],
        }
    rate = shannon_bps()
    out["break_even_ue_tflops"] = {
        "own decoder": _break_even(model, rate, model.decoder_tflop),
        "light decoder": _break_even(model, rate, model.light_tflop),
    }
    return out


def _break_even(model: Model, rate_bps: float, decoder_tflop: float) -> float | None:
    """The slowest phone that has the split's picture as soon as the largest file's, in TFLOPS; None: none has."""
    spare_s = model.decoder_tflop / ES_TFLOPS + (model.file_bits[1] - model.split_bits) / rate_bps
    return None if spare_s <= 0 else decoder_tflop / spare_s


def figures() -> dict[str, Any]:
    """All of it."""
    return {
        "es_tflops": ES_TFLOPS,
        "rate_bps": shannon_bps(),
        "decomposed": decomposed(),
        "models": {model.name: winners(model) for model in MODELS},
        "modelled": True,
    }
