"""Measures the quality grid of `cost/quality_grid.py` by running a backbone: `megen measure`.

Each held-out prompt is denoised at every number of steps, merged at every ratio, coded, and sent over the digital
link at every SNR. The image is decoded again only where parts of it were lost. Finished prompts are kept in a work
folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megen import pipeline, run_folder
from megen.codec import QUANTISER_BITS
from megen.cost import quality_grid as quality
from megen.cost.quality_grid import QualityGrid
from megen.errors import InputError
from megen.files import read_text, write_json
from megen.link import NotDeliveredError, RadioLink
from megen.metrics import log_mse
from megen.models import weights
from megen.models.embedded import BackboneConfig, EmbeddedBackbone
from megen.pipeline import Transmitter
from megen.scenes import judge
from megen.types import Received, Transmission
from megen.ue import Receiver

SNRS_DB = tuple(float(s) for s in range(-6, 25, 3))
QUANTILES = 8  # of the airtime
AIR_DRAWS = 4  # transmissions of a payload at each SNR
CLASSES = 3
LEAST_PROMPTS = 4 * CLASSES
PROMPT_OFFSET = 50_000  # held-out prompts that no other bench uses
NO_IMAGE = 128  # what is shown where nothing arrived


def measure_prompt(
    transmitter: Transmitter, receiver: Receiver, model: judge.Classifier, steps: Sequence[int], index: int
) -> dict[str, Any]:
    """All figures of one prompt: lists over steps x ratios, and x SNRs."""
    _, text = judge.held_out_prompt(PROMPT_OFFSET + index, unseen=False)
    seed = PROMPT_OFFSET + index
    target = pipeline.reference(transmitter, receiver, text, seed)
    figures: dict[str, Any] = {"prompt": text, "log_mse": [], "fidelity": [], "bits": [], "airtime_s": [], "delivered": []}
    for n in steps:
        latent = transmitter.denoise([text], [seed], n)
        for ratio in transmitter.backbone.spec.merge_ratios:
            sent = transmitter.encode(latent, ratio)
            image = receiver.decode(Received(sent.payload))
            compared = judge.compared(text, judge.seen(model, image))
            figures["fidelity"].append(sum(a == b for a, b in compared.values()) / len(compared))
            figures["bits"].append(sent.payload.bits()["total"])
            across = [
                _crossed(sent, RadioLink(snr_db), np.random.default_rng([index, n, int(100 * ratio)]), receiver, image, target)
                for snr_db in SNRS_DB
            ]
            for name, column in zip(("log_mse", "airtime_s", "delivered"), zip(*across, strict=True), strict=True):
                figures[name].append(list(column))
    return figures


def _crossed(
    sent: Transmission, link: RadioLink, rng: np.random.Generator, receiver: Receiver, image: np.ndarray, target: np.ndarray
) -> tuple[float, list[float], float]:
    """Several transmissions of one payload: mean ln MSE, seconds of each, share that was delivered."""
    whole, errors, times, delivered = log_mse(image, target), [], [], 0
    for _ in range(AIR_DRAWS):
        try:
            delivery = link.send(sent, rng)
        except NotDeliveredError as error:
            times.append(error.latency_s)
            errors.append(log_mse(np.full_like(target, NO_IMAGE), target))
            continue
        delivered += 1
        times.append(delivery.latency_s)
        errors.append(log_mse(receiver.decode(delivery.received), target) if delivery.parts_lost else whole)
    return float(np.mean(errors)), times, delivered / AIR_DRAWS


def measure(
    transmitter: Transmitter, receiver: Receiver, steps: Sequence[int], count: int, work: Path, on_prompt: Callable[[int], object]
) -> list[dict[str, Any]]:
    """Figures of `count` prompts; those that `work` holds of an earlier run are kept.

    Errors: InputError where `work` holds those of another backbone or of other decisions, or is being measured in.
    """
    backbone, rows = transmitter.backbone, []
    assert isinstance(backbone, EmbeddedBackbone)  # the judge knows no other world than its
    model = judge.load()
    recipe = {"receiver": receiver.codec.fingerprint, "backbone": _mark(backbone)[:16], "steps": steps, "snrs_db": SNRS_DB}
    with run_folder.held(work, {**recipe, "air_draws": AIR_DRAWS, "quantiser_bits": QUANTISER_BITS}):
        for i in range(count):
            path = work / f"prompt-{i:05d}.json"
            if not path.is_file():
                write_json(path, measure_prompt(transmitter, receiver, model, steps, i), None)
            rows.append(json.loads(read_text(path)))
            on_prompt(i + 1)
    return rows


def _mark(backbone: EmbeddedBackbone) -> str:
    """Of all that decides a latent: configuration, text encoder and denoiser."""
    nets = {k: v for k, v in backbone.state_dict().items() if k.startswith(("text.", "denoiser."))}
    return weights.digest(repr(backbone.config), nets)


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


def grid_of(rows: Sequence[dict[str, Any]], steps: Sequence[int], config: BackboneConfig, about: dict[str, Any]) -> QualityGrid:
    """The grid of measured prompts. Errors: InputError where there are too few for every class.

    Classes: terciles of a ridge regression of a prompt's mean ln MSE on its words; how well it does is measured by its
    correlation on prompts that it was not fitted to.
    """
    shape = (len(rows), len(steps), len(config.merge_ratios))
    if len(rows) < LEAST_PROMPTS:
        raise InputError(f"a quality grid needs at least {LEAST_PROMPTS} prompts, got {len(rows)}")
    log_mse = np.array([row["log_mse"] for row in rows]).reshape(*shape, len(SNRS_DB))
    fidelity, bits = (np.array([row[key] for row in rows], float).reshape(shape) for key in ("fidelity", "bits"))
    delivered = np.array([row["delivered"] for row in rows]).reshape(*shape, len(SNRS_DB)).mean((0, 1))
    prompts, words = [row["prompt"] for row in rows], tuple(config.text.vocabulary)
    bag, hard = quality.bag_of_words(prompts, words), log_mse.mean((1, 2, 3))
    half = np.arange(len(rows)) % 2 == 0
    held = float(np.corrcoef(bag[~half] @ quality.hardness_weights(bag[half], hard[half]), hard[~half])[0, 1])
    weights = quality.hardness_weights(bag, hard)
    score = bag @ weights
    edges = np.quantile(score, np.arange(1, CLASSES) / CLASSES)
    kind = np.searchsorted(edges, score)
    counts = np.bincount(kind, minlength=CLASSES)
    if counts.min() < 2:
        raise InputError("some prompt class has fewer than two prompts: measure more")

    def by_class(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_kind = [values[kind == k] for k in range(CLASSES)]
        return np.stack([v.mean(0) for v in by_kind]), np.stack([v.std(0, ddof=1) / len(v) ** 0.5 for v in by_kind])

    times = np.array([row["airtime_s"] for row in rows]).reshape(*shape, len(SNRS_DB), -1)  # [rows, N, R, G, draws]
    air, draws = _airtimes(times, kind, int(counts.min()) // 2)
    summary = {
        "backbone": config.name,
        "prompts": len(rows),
        "air_draws": AIR_DRAWS,
        "class_correlation_held_out": held,
        "hardness_of_class": [float(hard[kind == k].mean()) for k in range(CLASSES)],
    }
    (mse, mse_error), (share, share_error) = by_class(log_mse), by_class(fidelity)
    return QualityGrid(
        steps=np.array(steps),
        merge_ratios=np.array(config.merge_ratios),
        snr_db=np.array(SNRS_DB),
        log_mse=mse,
        log_mse_error=mse_error,
        fidelity=share,
        fidelity_error=share_error,
        payload_bits=by_class(bits)[0],
        airtime_s=air,
        airtime_draws_s=draws,
        delivered=delivered,
        counts=counts,
        word_weights=weights,
        class_edges=edges,
        words=words,
        about={**about, **summary},
    )
