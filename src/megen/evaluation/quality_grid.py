"""Measures the quality grid of `cost/quality_grid.py` by running a backbone: `megen measure`.

Each held-out prompt is denoised at every number of steps, merged at every ratio or coded with a coarser quantiser, and sent over the
digital link, or another one, at every SNR. The image is decoded again only where parts of it were lost. Finished prompts are kept in a work
folder, so that an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megen import metrics, pipeline, run_folder
from megen.backbone import Backbone, BackboneSpec
from megen.codec import QUANTISER_BITS
from megen.cost import quality_grid as quality
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError
from megen.halves import Receives, Transmitter, tokens_of
from megen.link import Link, NotDeliveredError, RadioLink
from megen.metrics import log_mse, psnr_db
from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.fingerprint import identity
from megen.scenes import judge
from megen.types import Features, Received, Transmission
from megen.words import words as words_of

SNRS_DB = tuple(float(s) for s in range(-6, 25, 3))
QUANTILES = 8  # of the airtime
AIR_DRAWS = 4  # transmissions of a payload at each SNR
FOLDS = 10  # of the prompts, each foretold by the others
CLASSES = 3
LEAST_PROMPTS = 4 * CLASSES
PROMPT_OFFSET = 50_000  # held-out prompts that no other bench uses
COARSER = (4.25, 3.5, 2.5, 1.5)  # bits of the quantisers that are measured without merging, beside the default one at every merge ratio
FLAT = 1e-9  # sharpness of a picture of one colour
NO_IMAGE = 128  # what is shown where nothing arrived


def measure_prompt(
    transmitter: Transmitter,
    receiver: Receives,
    model: judge.Classifier | None,
    steps: Sequence[int],
    index: int,
    text: str,
    link_of: Callable[[float], Link] = RadioLink,
) -> dict[str, Any]:
    """All figures of one prompt: lists over steps x codings, and x SNRs; without a judge's `model` fidelity is None."""
    seed = PROMPT_OFFSET + index
    target = pipeline.reference(transmitter, receiver, text, seed)
    nothing, sharp = log_mse(np.full_like(target, NO_IMAGE), target), max(metrics.sharpness(target), FLAT)
    names = ("log_mse", "fidelity", "sharpness", "bits", "airtime_s", "delivered", "coded_db")
    figures: dict[str, Any] = {"prompt": text, **{name: [] for name in names}}
    for n in steps:
        latent = transmitter.denoise([text], [seed], n)
        made = receiver.image_of(Features.clean(tokens_of(latent)))
        for ratio, bits in codings(transmitter.backbone.spec.merge_ratios):
            sent = transmitter.encode(latent, ratio, quantiser_bits=bits)
            image = receiver.decode(Received(sent.payload))
            figures["fidelity"].append(None if model is None else _right(model, text, image))
            figures["sharpness"].append(metrics.sharpness(image) / sharp)
            figures["bits"].append(sent.payload.bits()["total"])
            rng_of = [index, n, int(100 * ratio), int(4 * bits)]

            known: dict[Any, tuple[float, float]] = {}  # by what arrived: transmissions often lose the same parts

            def errors_of(
                received: Received, made: np.ndarray = made, known: dict[Any, tuple[float, float]] = known
            ) -> tuple[float, float]:
                if (arrived := received.payload) not in known:
                    known[arrived] = _errors(receiver.decode(received), target, made)
                return known[arrived]

            outcomes = _Outcomes(_errors(image, target, made), nothing, errors_of)
            across = [_crossed(sent, link_of(snr_db), np.random.default_rng(rng_of), outcomes) for snr_db in SNRS_DB]
            for name in ("log_mse", "airtime_s", "delivered", "coded_db"):
                figures[name].append([row[name] for row in across])
    return figures


def _right(model: judge.Classifier, text: str, image: np.ndarray) -> float:
    """The share of the attributes that a caption names, which the judge finds."""
    compared = judge.compared(text, judge.seen(model, image))
    return sum(a == b for a, b in compared.values()) / len(compared)


def captions(count: int) -> list[str]:
    """Held-out captions of scenes that no other bench uses."""
    return [judge.held_out_prompt(PROMPT_OFFSET + index, unseen=False)[1] for index in range(count)]


def codings(merge_ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs of merge ratio and bits of the quantiser: every ratio at the default quantiser, and coarser ones without merging.

    Not their product: at equal bits a coarser quantiser beats merging (`experiments/merging_against_quantiser`).
    """
    return [(ratio, QUANTISER_BITS) for ratio in merge_ratios] + [(min(merge_ratios), bits) for bits in COARSER]


def _errors(image: np.ndarray, target: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """ln MSE to the reference, and PSNR to what was made at these steps."""
    return log_mse(image, target), psnr_db(image, made)


@dataclass(frozen=True)
class _Outcomes:
    """What becomes of a payload: its errors where all of it arrives, ln MSE where nothing does, and the errors of what is received."""

    whole: tuple[float, float]
    nothing: float
    errors_of: Callable[[Received], tuple[float, float]]


def _crossed(sent: Transmission, link: Link, rng: np.random.Generator, outcomes: _Outcomes) -> dict[str, Any]:
    """Several transmissions of one payload: ln MSE to the reference in the mean, seconds of each, share that was delivered, and each
    one's PSNR to what was made, None where nothing arrived.
    """
    errors: list[float] = []
    times: list[float] = []
    coded_db: list[float | None] = []
    for _ in range(AIR_DRAWS):
        try:
            delivery = link.send(sent, rng)
        except NotDeliveredError as error:
            times.append(error.latency_s)
            errors.append(outcomes.nothing)
            coded_db.append(None)
            continue
        times.append(delivery.latency_s)
        error_and_db = outcomes.whole if delivery.received.payload == sent.payload else outcomes.errors_of(delivery.received)
        errors.append(error_and_db[0])
        coded_db.append(error_and_db[1])
    delivered = 1 - coded_db.count(None) / AIR_DRAWS
    return {"log_mse": float(np.mean(errors)), "airtime_s": times, "delivered": delivered, "coded_db": coded_db}


def measure(
    transmitter: Transmitter,
    receiver: Receives,
    steps: Sequence[int],
    prompts: Sequence[str],
    work: Path,
    on_prompt: Callable[[int], object],
    link_of: Callable[[float], Link] = RadioLink,
) -> list[dict[str, Any]]:
    """Figures of prompts; those that `work` holds of an earlier run are kept. The embedded backbone's pictures are judged, others are not.

    `link_of` makes the link of an SNR in dB.

    Errors: InputError where `work` holds those of another backbone or link, of other decisions or prompts, or is being measured in.
    """
    backbone, rows = transmitter.backbone, []
    model = judge.load() if isinstance(backbone, EmbeddedBackbone) else None
    recipe = {"receiver": transmitter.codec.fingerprint, "backbone": _mark(backbone)[:16], "steps": steps, "snrs_db": SNRS_DB}
    if link_of is not RadioLink:
        recipe["link"] = link = repr(link_of(SNRS_DB[0]))
        if " at 0x" in link:
            raise InputError("give the link a repr that tells its fields, such as a dataclass's: finished prompts are kept with it")
    with run_folder.held(work, {**recipe, "air_draws": AIR_DRAWS, "codings": [list(pair) for pair in codings(backbone.spec.merge_ratios)]}):
        for i, text in enumerate(prompts):
            name = f"prompt-{i:05d}"
            row = run_folder.kept(work, name, lambda: measure_prompt(transmitter, receiver, model, steps, i, text, link_of))  # noqa: B023
            if row["prompt"] != text:
                raise InputError(f"{name} of {work} is another prompt, {row['prompt']!r}: give the same prompts, or another --work folder")
            rows.append(row)
            on_prompt(i + 1)
    return rows


def _mark(backbone: Backbone) -> str:
    """Of all that decides a latent: of the embedded backbone configuration, text encoder, denoiser and refiner, of another its identity."""
    if not isinstance(backbone, EmbeddedBackbone):
        return identity(backbone)
    nets = {k: v for k, v in backbone.state_dict().items() if k.startswith(("text.", "denoiser.", "refiner."))}
    manner = f" {backbone.refiner.manner}" if backbone.refiner else ""
    return weights.digest(repr(backbone.config) + manner, nets)


def _airtimes(times: np.ndarray, kind: np.ndarray, per_half: int) -> tuple[np.ndarray, np.ndarray]:
    """Equiprobable airtimes [P, R, G, K] of times [rows, N, R, G, draws], and `kept` single ones of each of two halves [2, P, R, G, H].

    One transmission of each prompt is kept: several of one prompt are alike, and would count for more than they are.
    """
    rng = np.random.default_rng(0)
    air = np.empty((CLASSES, *times.shape[2:4], QUANTILES))
    draws = np.empty((2, CLASSES, *times.shape[2:4], per_half))
    for k, r, g in np.ndindex(air.shape[:3]):
        values = times[kind == k, :, r, g]
        air[k, r, g] = [part.mean() for part in np.array_split(np.sort(values, axis=None), QUANTILES)]  # the mean is kept
        single = values.reshape(len(values), -1)[np.arange(len(values)), rng.integers(values[0].size, size=len(values))]
        draws[:, k, r, g] = single[: 2 * per_half].reshape(per_half, 2).T
    return air, draws


def _classes(prompts: Sequence[str], words: Sequence[str], hard: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Weights of the words, edges between the classes, each prompt's class, and the correlation on prompts that were not fitted to."""
    bag, fold = quality.bag_of_words(prompts, words), np.arange(len(prompts)) % FOLDS
    foretold = np.empty(len(prompts))
    for out in (fold == k for k in range(FOLDS)):
        foretold[out] = bag[out] @ quality.hardness_weights(bag[~out], hard[~out])
    held_out = np.corrcoef(foretold, hard)[0, 1] if foretold.std() * hard.std() > 0 else 0.0
    weights = quality.hardness_weights(bag, hard)
    score = bag @ weights
    edges = np.quantile(score, np.arange(1, CLASSES) / CLASSES)
    return weights, edges, np.searchsorted(edges, score), float(held_out)


def grid_of(rows: Sequence[dict[str, Any]], steps: Sequence[int], spec: BackboneSpec, about: dict[str, Any]) -> QualityGrid:
    """The grid of measured prompts; without a judge it says neither which attributes come out right nor what is seen.

    Classes are terciles of a ridge regression of a prompt's mean ln MSE on its words, which is tested on prompts that it was not fitted
    to. Errors: InputError where there are too few prompts for every class.
    """
    pairs = codings(spec.merge_ratios)
    shape = (len(rows), len(steps), len(pairs))
    if len(rows) < LEAST_PROMPTS:
        raise InputError(f"a quality grid needs at least {LEAST_PROMPTS} prompts, got {len(rows)}")
    log_mse, delivered = (np.array([row[key] for row in rows]).reshape(*shape, len(SNRS_DB)) for key in ("log_mse", "delivered"))
    bits, sharpness = (np.array([row[key] for row in rows], float).reshape(shape) for key in ("bits", "sharpness"))
    judged = np.array([row["fidelity"] for row in rows], float).reshape(shape)  # NaN: by nobody
    made = sharpness[:, :, pairs.index((min(spec.merge_ratios), QUANTISER_BITS))]  # the finest coding's: nearly what was made
    coded_db = np.array([row["coded_db"] for row in rows], float).reshape(*shape, len(SNRS_DB), -1)  # NaN: nothing arrived
    clean = np.nan_to_num(quality.opinion(coded_db, quality.CLEAN_DB), nan=0.0).mean(-1)
    prompts, hard = [row["prompt"] for row in rows], log_mse.mean((1, 2, 3))
    words = tuple(sorted({word for text in prompts for word in words_of(text)}))
    weights, edges, kind, held = _classes(prompts, words, hard)
    counts = np.bincount(kind, minlength=CLASSES)
    if counts.min() < 2:
        raise InputError("some prompt class has fewer than two prompts: measure more, or prompts whose words tell them apart")

    def by_class(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_kind = [values[kind == k] for k in range(CLASSES)]
        return np.stack([v.mean(0) for v in by_kind]), np.stack([v.std(0, ddof=1) / len(v) ** 0.5 for v in by_kind])

    times = np.array([row["airtime_s"] for row in rows]).reshape(*shape, len(SNRS_DB), -1)  # [rows, N, R, G, draws]
    air, draws = _airtimes(times, kind, int(counts.min()) // 2)
    summary = {
        "backbone": spec.name,
        "prompts": len(rows),
        "air_draws": AIR_DRAWS,
        "class_correlation_held_out": held,
        "hardness_of_class": [float(hard[kind == k].mean()) for k in range(CLASSES)],
    }
    figures: dict[str, np.ndarray] = {"log_mse": log_mse}
    if np.isfinite(judged).all():
        figures |= {"fidelity": judged, "seen": (judged * quality.opinion(made, quality.SHARP)[..., None])[..., None] * clean}
    fitted: dict[str, Any] = {"fidelity": None, "fidelity_error": None}
    for name, of in figures.items():
        fitted[name], fitted[f"{name}_error"] = by_class(of)
    return QualityGrid(
        steps=np.array(steps),
        merge_ratios=np.array([ratio for ratio, _ in pairs]),
        quantiser_bits=np.array([bits for _, bits in pairs]),
        snr_db=np.array(SNRS_DB),
        payload_bits=by_class(bits)[0],
        airtime_s=air,
        airtime_draws_s=draws,
        delivered=delivered.mean((0, 1)),
        counts=counts,
        word_weights=weights,
        class_edges=edges,
        words=words,
        about={**about, **summary},
        sharpness=by_class(made)[0],
        clean=by_class(clean)[0],
        **fitted,
    )
