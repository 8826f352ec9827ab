"""Payloads and distortion of every way to bring an image over the same link: `megen bench link`.

The reference image is what the receiver would show of the very latent that is sent, without merging, quantiser
and link, so that distortion is the link's and the codec's alone.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from megen import merging
from megen.codec import QUANTISER_BITS, FeatureCodec, features
from megen.halves import Receives, Transmitter, tokens_of
from megen.link import NotDeliveredError, RadioLink, harq
from megen.link.fading import Forecast
from megen.metrics import psnr_db, ssim
from megen.scenes.captions import caption
from megen.scenes.splits import scene
from megen.types import Features, FloatArray, Received

SNRS_DB = tuple(float(s) for s in range(-6, 25, 3))
SCHEMES = (  # how features travel, merge ratio, receiver, name
    ("digital", 0.0, "knows", "digital 0"),
    ("digital", 0.5, "knows", "digital 0.5"),
    ("analog", 0.0, "knows", "analog 0"),
    ("analog", 0.0, "blind", "analog 0, blind receiver"),
    ("analog", 0.5, "knows", "analog 0.5"),
    ("analog", 0.5, "blind", "analog 0.5, blind receiver"),
)
PROMPT_SEED = 4  # captions of scenes that no training drew


@dataclass(frozen=True)
class Sample:
    """One latent and its reference image."""

    latent: torch.Tensor
    image: np.ndarray

    @property
    def tokens(self) -> FloatArray:
        return tokens_of(self.latent)


def prompts(count: int, seed: int) -> list[str]:
    """Captions of scenes outside every training set."""
    return [caption(scene(PROMPT_SEED, 1000 * seed + i), np.random.default_rng([PROMPT_SEED, seed, i])) for i in range(count)]


def samples(transmitter: Transmitter, receiver: Receives, count: int, seed: int, steps: int) -> Iterator[Sample]:
    """Latents of held-out prompts and their reference images."""
    for i, text in enumerate(prompts(count, seed)):
        latent = transmitter.denoise([text], [1000 * seed + i], steps)
        yield Sample(latent, receiver.image_of(Features.clean(tokens_of(latent))))


@dataclass(frozen=True)
class Blind:
    """A receiver that does not know how its tokens were degraded: what the restorer is compared with."""

    codec: FeatureCodec
    receiver: Receives

    def decode(self, received: Received) -> np.ndarray:
        return self.image_of(self.codec.decode(received))

    def image_of(self, features: Features) -> np.ndarray:
        return self.receiver.image_of(replace(features, degradation=np.zeros_like(features.degradation)))


def int8(sample: Sample, receiver: Receives) -> tuple[int, np.ndarray]:
    """The plain int8 latent: one half-precision scale a channel, eight bits a value. Bits and image."""
    tokens = sample.tokens
    scale = np.maximum(np.abs(tokens).max(0) / 127, 1e-6).astype(np.float16).astype(np.float32)
    rows = np.rint(tokens / scale).clip(-127, 127) * scale
    return 8 * tokens.size + 16 * tokens.shape[1], receiver.image_of(Features.clean(rows.astype(np.float32)))


def reference_fp16(sample: Sample, ratio: float, receiver: Receives, *, tuned: bool = False) -> tuple[int, np.ndarray]:
    """The reference system's payload: half-precision features and sixteen bits a merged token. Bits and image.

    A `tuned` receiver knows which tokens were merged, as one that was trained on merged features.
    """
    merged = merging.merged(sample.tokens, (sample.latent.shape[-2], sample.latent.shape[-1]), ratio)
    bits = 16 * merged.rows.size + 16 * (len(sample.tokens) - len(merged.rows))
    rows, degradation = merged.rows.astype(np.float16).astype(np.float32), np.zeros((len(sample.tokens), 4), np.float32)
    degradation[merging.layout(*merged.grid)[1][merged.choice >= 0], 2] = tuned
    return bits, receiver.image_of(Features(rows, merged.merge_map, degradation))


def coded(
    sample: Sample, ratio: float, quantiser_bits: float, transmitter: Transmitter, receiver: Receives, *, order: str = "band"
) -> tuple[int, np.ndarray]:
    """The digital payload without a link. Bits and image."""
    payload = transmitter.encode(sample.latent, ratio, quantiser_bits=quantiser_bits, order=order).payload
    return payload.bits()["total"], receiver.decode(Received(payload))


def depth_for(
    sample: Sample, target_db: float, transmitter: Transmitter, receiver: Receives, *, order: str = "band"
) -> tuple[int, int, float]:
    """The smallest quantiser depth, in quarter bits, whose image reaches a PSNR: depth, bits, PSNR in dB."""
    low, high, best = features.MIN_DEPTH, features.MAX_DEPTH, (0, 0, 0.0)
    while low <= high:
        middle = (low + high) // 2
        bits, image = coded(sample, 0.0, middle / 4, transmitter, receiver, order=order)
        if (level_db := psnr_db(image, sample.image)) >= target_db or middle == features.MAX_DEPTH:
            best, high = (middle, bits, level_db), middle - 1
        else:
            low = middle + 1
    return best


Encoder = Callable[[Image.Image, float], bytes]


@dataclass(frozen=True)
class FileKind:
    """A lossy image file: its encoder, that one at lower effort for a first guess, and the range of qualities."""

    encode: Encoder
    quick: Encoder
    span: tuple[int, int]


def file_kinds(avif_speed: int) -> dict[str, FileKind]:
    """Lossy image files by name. JPEG XL where its plugin is installed."""

    def with_pillow(**options: Any) -> Encoder:
        def encode(image: Image.Image, quality: float) -> bytes:
            out = io.BytesIO()
            image.save(out, quality=round(quality), **options)
            return out.getvalue()

        return encode

    jpeg, webp = with_pillow(format="JPEG", optimize=True, progressive=True), with_pillow(format="WEBP", method=6)
    avif, quick = (with_pillow(format="AVIF", speed=speed, max_threads=1) for speed in (avif_speed, 8))
    kinds = {"jpeg": FileKind(jpeg, jpeg, (5, 95)), "webp": FileKind(webp, webp, (1, 100)), "avif": FileKind(avif, quick, (20, 98))}
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        return kinds
    return {**kinds, "jpeg xl": FileKind(with_pillow(format="JXL", effort=7), with_pillow(format="JXL", effort=3), (20, 98))}


def file_at(kind: FileKind, image: np.ndarray, target_db: float) -> tuple[float, float, bytes]:
    """The file of an image at a PSNR: its bits, interpolated between the two nearest qualities; the PSNR; the larger file.

    A search by halves at lower effort says where to begin. Where even the best quality falls short, that file and its PSNR.
    """
    picture, encoded = Image.fromarray(image), {}

    def at(quality: int, encode: Encoder = kind.encode) -> tuple[float, int, bytes]:
        if (quality, encode) not in encoded:
            data = encode(picture, quality)
            encoded[quality, encode] = (psnr_db(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), image), 8 * len(data), data)
        return encoded[quality, encode]

    low, high = kind.span
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle, kind.quick)[0] < target_db else (low, middle)
    while high < kind.span[1] and at(high)[0] < target_db:
        high += 1
    if at(high)[0] < target_db or (high == kind.span[0] + 1 and at(high - 1)[0] >= target_db):
        best = at(high if at(high)[0] < target_db else high - 1)
        return best[1], best[0], best[2]
    while high - 1 > kind.span[0] and at(high - 1)[0] >= target_db:
        high -= 1
    (db0, bits0, _), (db1, bits1, data) = at(high - 1), at(high)
    share = (target_db - db0) / max(db1 - db0, 1e-9)
    return math.exp((1 - share) * math.log(bits0) + share * math.log(bits1)), target_db, data


def png_bits(image: np.ndarray) -> int:
    """The bits of a lossless PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, format="PNG", optimize=True)
    return 8 * len(out.getvalue())


def airtime(bits: int, snr_db: float, bandwidth_hz: float, rng: np.random.Generator) -> tuple[float, bool]:
    """Latency of a file over the digital link, and whether all of it arrived."""
    known = Forecast(10 ** (snr_db / 10))
    reception = harq.transmit([bits], [harq.MOST_ERRORS], lambda t: np.full(np.shape(t), snr_db), lambda t: known, bandwidth_hz, rng)
    return reception.latency_s, all(reception.delivered)


def compare(
    transmitter: Transmitter,
    receiver: Receives,
    count: int,
    sweep: int,
    seed: int,
    steps: int,
    *,
    avif_speed: int,
    on_progress: Callable[[str], object],
) -> dict[str, Any]:
    """The whole table over `count` prompts; the sweep over SNR uses the first `sweep` of them."""
    every = []
    for i, sample in enumerate(samples(transmitter, receiver, count, seed, steps), 1):
        every.append(sample)
        on_progress(f"images {i}/{count}")
    rows: list[dict[str, float]] = []
    for i, sample in enumerate(every, 1):
        bits8, image8 = int8(sample, receiver)
        db8 = psnr_db(image8, sample.image)
        depth, bits_like8, db_like8 = depth_for(sample, db8 - 0.5, transmitter, receiver)
        bits, image = coded(sample, 0.0, QUANTISER_BITS, transmitter, receiver)
        db = psnr_db(image, sample.image)
        row = {"int8_bits": bits8, "int8_psnr_db": db8, "at_int8_bits": bits_like8, "at_int8_psnr_db": db_like8, "at_int8_depth": depth}
        rows.append(row | {"bits": bits, "psnr_db": db, "ssim": ssim(image, sample.image), "png_bits": png_bits(sample.image)})
        on_progress(f"payloads {i}/{count}")
    kinds = file_kinds(avif_speed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the encoders leave the interpreter's lock
        jobs = [
            {name: pool.submit(file_at, k, s.image, r["psnr_db"]) for name, k in kinds.items()} for s, r in zip(every, rows, strict=True)
        ]
        for i, (row, waiting) in enumerate(zip(rows, jobs, strict=True), 1):
            for name, job in waiting.items():
                row[f"{name}_bits"], row[f"{name}_psnr_db"], _ = job.result()
            on_progress(f"files {i}/{count}")
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    schemes = _sweep(every[:sweep], transmitter, receiver, seed, rows[:sweep], files=list(kinds), on_progress=on_progress)
    return {
        "prompts": count,
        "steps": steps,
        "reference": "the same latent decoded without merging, quantiser and link",
        "depth_bits": QUANTISER_BITS,
        "avif_speed": avif_speed,
        "bits_ratio_avif_equal_psnr": mean["bits"] / mean["avif_bits"],
        "bits_ratio_avif_each": [row["bits"] / row["avif_bits"] for row in rows],
        "bits_ratio_int8_latent": mean["at_int8_bits"] / mean["int8_bits"],
        "mean": mean,
        "sweep_prompts": sweep,
        "schemes": schemes,
    }


def _sweep(
    every: list[Sample],
    transmitter: Transmitter,
    receiver: Receives,
    seed: int,
    rows: list[dict[str, float]],
    *,
    files: list[str],
    on_progress: Callable[[str], object],
) -> dict[str, dict[str, dict[str, float]]]:
    """Per scheme and SNR: bits, airtime, PSNR and SSIM over what was delivered, and the share that was."""
    schemes: dict[str, dict[str, dict[str, float]]] = {}
    for snr_db in SNRS_DB:
        on_progress(f"{snr_db:g} dB")
        records: dict[str, list[tuple[float, float, np.ndarray | None, float]]] = {}
        for i, sample in enumerate(every):

            def note(name: str, bits: float, seconds: float, image: np.ndarray | None, db: float = math.nan) -> None:
                records.setdefault(name, []).append((bits, seconds, image, db))  # noqa: B023

            for scheme, ratio, by, name in SCHEMES:
                rng = np.random.default_rng([seed, i, int(10 * ratio)])
                ue = Blind(transmitter.codec, receiver) if by == "blind" else receiver
                sent = transmitter.encode(sample.latent, ratio, analog=scheme == "analog")
                try:
                    delivery = RadioLink(snr_db).send(sent, rng)
                except NotDeliveredError:
                    note(name, math.nan, math.nan, None)
                    continue
                note(name, sent.payload.bits()["total"], delivery.latency_s, ue.decode(delivery.received))
            rng = np.random.default_rng([seed, i])
            for name, (bits, image) in {
                "int8 latent": int8(sample, receiver),
                "reference fp16, ratio 0.5": reference_fp16(sample, 0.5, receiver),
                "png": (int(rows[i]["png_bits"]), sample.image),
            }.items():
                seconds, whole = airtime(bits, snr_db, 1e6, rng)
                note(name, bits, seconds, image if whole else None)
            for name in files:
                bits = int(rows[i][f"{name}_bits"])
                seconds, whole = airtime(bits, snr_db, 1e6, rng)
                note(name, bits, seconds, sample.image if whole else None, rows[i][f"{name}_psnr_db"])
        for name, crossings in records.items():
            arrived = [(image, db, every[i].image) for i, (_, _, image, db) in enumerate(crossings) if image is not None]
            schemes.setdefault(name, {})[f"{snr_db:g}"] = {
                "bits": float(np.nanmean([bits for bits, *_ in crossings])) if arrived else math.nan,
                "airtime_s": float(np.nanmean([s for _, s, *_ in crossings])) if arrived else math.nan,
                "psnr_db": float(np.mean([db if math.isfinite(db) else psnr_db(a, b) for a, db, b in arrived])) if arrived else math.nan,
                "ssim": float(np.mean([ssim(a, b) for a, db, b in arrived if not math.isfinite(db)] or [math.nan])),
                "delivered": len(arrived) / len(crossings),
            }
    return schemes
