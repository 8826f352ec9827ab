"""Payloads and distortion of every way to bring an image over the same link: `megen bench link`.

The reference image is what the receiver would show of the very latent that is sent, without merging, quantiser
and link, so that distortion is the link's and the codec's alone.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from megen import merging, run_folder
from megen.codec import QUANTISER_BITS, FeatureCodec, features
from megen.halves import Receives, Transmitter, tokens_of
from megen.link import NotDeliveredError, RadioLink, harq
from megen.link.fading import Forecast
from megen.metrics import psnr_db, ssim
from megen.models.fingerprint import identity
from megen.scenes.captions import caption
from megen.scenes.splits import PROMPT_SEED, scene
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


def sample_of(transmitter: Transmitter, receiver: Receives, text: str, seed: int, steps: int) -> Sample:
    """A prompt's latent and its reference image."""
    latent = transmitter.denoise([text], [seed], steps)
    return Sample(latent, receiver.image_of(Features.clean(tokens_of(latent))))


def samples(transmitter: Transmitter, receiver: Receives, count: int, seed: int, steps: int) -> Iterator[Sample]:
    """Latents of held-out prompts and their reference images."""
    return (sample_of(transmitter, receiver, text, 1000 * seed + i, steps) for i, text in enumerate(prompts(count, seed)))


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


def _payload(sample: Sample, transmitter: Transmitter, receiver: Receives) -> dict[str, float]:
    """Bits and distortion of one image's int8 latent, of the payload as good as that, and of the usual payload; bits of its PNG."""
    bits8, image8 = int8(sample, receiver)
    db8 = psnr_db(image8, sample.image)
    depth, bits_like8, db_like8 = depth_for(sample, db8 - 0.5, transmitter, receiver)
    bits, image = coded(sample, 0.0, QUANTISER_BITS, transmitter, receiver)
    row = {"int8_bits": bits8, "int8_psnr_db": db8, "at_int8_bits": bits_like8, "at_int8_psnr_db": db_like8, "at_int8_depth": depth}
    return row | {
        "bits": bits,
        "psnr_db": psnr_db(image, sample.image),
        "ssim": ssim(image, sample.image),
        "png_bits": png_bits(sample.image),
    }


def _halves_mark(transmitter: Transmitter, receiver: Receives) -> dict[str, Any]:
    """What decides the pictures of both halves: nets, their arithmetic, the coder, and the graphs that clean."""
    backbone = transmitter.backbone
    graphs = (getattr(receiver, name, None) for name in ("noisy", "denoiser"))
    return {
        "backbone": identity(backbone),
        "device": str(backbone.device),
        "precision": str(getattr(backbone, "precision", None)),
        "codec": transmitter.codec.fingerprint,
        "cleaning": [path and hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in graphs],
    }


def _files(kinds: dict[str, FileKind], sample: Sample, target_db: float) -> dict[str, float]:
    """Bits and PSNR of one image's file of each kind."""
    row: dict[str, float] = {}
    for name, kind in kinds.items():
        row[f"{name}_bits"], row[f"{name}_psnr_db"], _ = file_at(kind, sample.image, target_db)
    return row


def _all_files(
    kinds: dict[str, FileKind], sample_at: Callable[[int], Sample], targets_db: Sequence[float], work: Path | None
) -> Iterator[dict[str, float]]:
    """`_files` of every image in order, on all cores; what was not begun when the reader stops is not made."""
    pool = ThreadPoolExecutor(os.cpu_count())  # the encoders leave the interpreter's lock
    try:
        names = [f"files-{i:05d}" for i in range(len(targets_db))]
        known = [run_folder.found(work, name) for name in names]
        jobs = {  # images are made here, not in the pool's threads
            i: pool.submit(run_folder.kept, work, names[i], partial(_files, kinds, sample_at(i), target_db))
            for i, target_db in enumerate(targets_db)
            if known[i] is None
        }
        for i, row in enumerate(known):
            yield jobs[i].result() if row is None else row
    finally:
        pool.shutdown(cancel_futures=True)


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
    work: Path | None = None,
) -> dict[str, Any]:
    """The whole table over `count` prompts; the sweep over SNR uses the first `sweep` of them. What `work` holds of an earlier run is kept.

    Errors: InputError where `work` holds a measurement of other halves, seed, steps or files, or is being measured in.
    """
    texts, kinds = prompts(count, seed), file_kinds(avif_speed)

    @cache
    def sample(i: int) -> Sample:
        return sample_of(transmitter, receiver, texts[i], 1000 * seed + i, steps)

    rows: list[dict[str, float]] = []
    recipe = {**_halves_mark(transmitter, receiver), "seed": seed, "first_prompt": texts[0], "steps": steps}
    with run_folder.held(work, {**recipe, "files": list(kinds), "avif_speed": avif_speed}):
        for i in range(count):
            rows.append(run_folder.kept(work, f"payload-{i:05d}", lambda: _payload(sample(i), transmitter, receiver)))  # noqa: B023
            on_progress(f"payloads {i + 1}/{count}")
        for i, found in enumerate(_all_files(kinds, sample, [row["psnr_db"] for row in rows], work)):
            rows[i] |= found
            on_progress(f"files {i + 1}/{count}")
        crossings = []
        for i in range(min(sweep, count)):
            make = partial(_crossings, transmitter, receiver, sample, rows[i], seed, i, list(kinds))
            crossings.append(run_folder.kept(work, f"crossings-{i:05d}", make))
            on_progress(f"crossings {i + 1}/{min(sweep, count)}")
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
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
        "schemes": _schemes(crossings),
    }


def _crossings(
    transmitter: Transmitter,
    receiver: Receives,
    sample_at: Callable[[int], Sample],
    row: dict[str, float],
    seed: int,
    i: int,
    files: list[str],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """One image over the link by every scheme at every SNR: bits and airtime where they are known; PSNR and SSIM of what arrived."""
    sample, found = sample_at(i), dict[str, dict[str, dict[str, float | None]]]()

    def note(snr_db: float, name: str, bits: float | None, seconds: float | None, image: np.ndarray | None = None) -> None:
        db, alike = (None, None) if image is None else (psnr_db(image, sample.image), ssim(image, sample.image))
        found.setdefault(name, {})[f"{snr_db:g}"] = {"bits": bits, "airtime_s": seconds, "psnr_db": db, "ssim": alike}

    for snr_db in SNRS_DB:
        for scheme, ratio, by, name in SCHEMES:
            rng = np.random.default_rng([seed, i, int(10 * ratio)])
            ue = Blind(transmitter.codec, receiver) if by == "blind" else receiver
            sent = transmitter.encode(sample.latent, ratio, analog=scheme == "analog")
            try:
                delivery = RadioLink(snr_db).send(sent, rng)
            except NotDeliveredError:
                note(snr_db, name, None, None)
                continue
            note(snr_db, name, sent.payload.bits()["total"], delivery.latency_s, ue.decode(delivery.received))
        rng = np.random.default_rng([seed, i])
        for name, (bits, image) in {
            "int8 latent": int8(sample, receiver),
            "reference fp16, ratio 0.5": reference_fp16(sample, 0.5, receiver),
            "png": (int(row["png_bits"]), sample.image),
        }.items():
            seconds, whole = airtime(bits, snr_db, 1e6, rng)
            note(snr_db, name, bits, seconds, image if whole else None)
        for name in files:
            bits = int(row[f"{name}_bits"])
            seconds, whole = airtime(bits, snr_db, 1e6, rng)
            note(snr_db, name, bits, seconds)
            if whole:
                found[name][f"{snr_db:g}"]["psnr_db"] = row[f"{name}_psnr_db"]
    return found


def _schemes(crossings: list[dict[str, dict[str, dict[str, float | None]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over images, by scheme and SNR, of what is known of each; NaN everywhere where nothing arrived; and the share that arrived."""
    schemes: dict[str, dict[str, dict[str, float]]] = {}
    for name, snrs in crossings[0].items():
        for snr in snrs:
            each = [of[name][snr] for of in crossings]
            arrived = [of for of in each if of["psnr_db"] is not None]
            known = {key: [value for of in each if (value := of[key]) is not None] if arrived else [] for key in each[0]}
            means = {key: float(np.mean(values)) if values else math.nan for key, values in known.items()}
            schemes.setdefault(name, {})[snr] = {**means, "delivered": len(arrived) / len(each)}
    return schemes
