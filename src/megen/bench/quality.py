"""Measures the quality grid of `cost/quality.py` by running a backbone: `megen measure`.

Each held-out prompt is denoised at every number of steps, merged at every ratio, coded, and sent over the digital
link at every SNR. The image is decoded again only where parts of it were lost. Finished prompts are kept in a work
folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megen import pipeline
from megen.bench import judge
from megen.cost import quality
from megen.cost.quality import QualityGrid
from megen.files import write_text
from megen.models import weights
from megen.models.backbone import Backbone, BackboneConfig
from megen.pipeline import Clock, Link, NotDeliveredError
from megen.ue import Receiver, arrive

SNRS_DB = tuple(float(s) for s in range(-6, 25, 3))
QUANTILES = 8  # of the airtime
AIR_DRAWS = 4  # transmissions of a payload at each SNR
CLASSES = 3
LEAST_PROMPTS = 4 * CLASSES
PROMPT_OFFSET = 50_000  # held-out prompts that no other bench uses
NO_IMAGE = 128  # what is shown where nothing arrived


def _log_mse(image: np.ndarray, target: np.ndarray) -> float:
    """ln of the mean squared error of bytes, pixels in [0, 1]; that of one level in a thousand pixels where they are equal."""
    return math.log(max(float(np.square(image.astype(float) - target).mean()), 1e-3) / 255**2)


def measure_prompt(backbone: Backbone, receiver: Receiver, model: judge.Classifier, steps: Sequence[int], index: int) -> dict[str, Any]:
    """All figures of one prompt: lists over steps x ratios, and x SNRs."""
    _, text = judge.held_out_prompt(PROMPT_OFFSET + index, unseen=False)
    config, seed = backbone.config, PROMPT_OFFSET + index
    target = pipeline.reference(backbone, text, seed, receiver)
    found: dict[str, Any] = {"prompt": text, "log_mse": [], "fidelity": [], "bits": [], "airtime_s": [], "delivered": []}
    for n in steps:
        latent = pipeline.denoise(backbone, [text], [seed], n, Clock())
        for ratio in config.merge_ratios:
            sent = pipeline.send(latent, ratio, Link(), np.random.default_rng(0), receiver, Clock())
            told = judge.compared(text, judge.predict(model, torch.from_numpy(sent.image).permute(2, 0, 1)[None].float() / 255)[0])
            found["fidelity"].append(sum(a == b for a, b in told.values()) / len(told))
            found["bits"].append(sent.payload.bits()["total"])
            whole, errors, times, arrived = _log_mse(sent.image, target), [], [], []
            for snr_db in SNRS_DB:
                rng, link = np.random.default_rng([index, n, int(100 * ratio)]), Link("digital", snr_db)
                here = 0
                draws: list[float] = []
                seconds: list[float] = []
                for _ in range(AIR_DRAWS):
                    try:
                        crossed, result = pipeline.cross(sent.payload, link, link.gain(rng), rng)
                    except NotDeliveredError as error:
                        seconds.append(error.latency_s)
                        draws.append(_log_mse(np.full_like(target, NO_IMAGE), target))
                        continue
                    here += 1
                    seconds.append(result.transmit_s)
                    draws.append(_log_mse(receiver(arrive(crossed, receiver)), target) if result.parts_lost else whole)
                errors.append(float(np.mean(draws)))
                times.append(seconds)
                arrived.append(here / AIR_DRAWS)
            found["log_mse"].append(errors)
            found["airtime_s"].append(times)
            found["delivered"].append(arrived)
    return found


def measure(
    backbone: Backbone, receiver: Receiver, steps: Sequence[int], count: int, work: Path, on_prompt: Callable[[int], object]
) -> list[dict[str, Any]]:
    """Figures of `count` prompts; those in `work` of the same backbone and decisions are kept."""
    work.mkdir(parents=True, exist_ok=True)
    model = judge.load()
    about = [receiver.identity, _mark(backbone), [*steps], [*SNRS_DB], AIR_DRAWS, pipeline.DEPTH]
    rows = []
    for i in range(count):
        path = work / f"prompt-{i:05d}.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known.get("about") != about:
            known = {"about": about, **measure_prompt(backbone, receiver, model, steps, i)}
            write_text(path, json.dumps(known))
        rows.append(known)
        on_prompt(i + 1)
    return rows


def _mark(backbone: Backbone) -> str:
    """Of all that decides a latent: configuration, text encoder and denoiser."""
    nets = {k: v for k, v in backbone.state_dict().items() if k.startswith(("text.", "denoiser."))}
    return weights.digest(repr(backbone.config), nets)


def grid_of(rows: Sequence[dict[str, Any]], steps: Sequence[int], config: BackboneConfig, about: dict[str, Any]) -> QualityGrid:
    """The grid of measured prompts. Errors: ValueError where there are too few for every class.

    Classes: terciles of a ridge regression of a prompt's mean ln MSE on its words; how well it does is told by its
    correlation on prompts that it was not fitted to.
    """
    shape = (len(rows), len(steps), len(config.merge_ratios))
    if len(rows) < LEAST_PROMPTS:
        raise ValueError(f"a quality grid needs at least {LEAST_PROMPTS} prompts, got {len(rows)}")
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
        raise ValueError("some prompt class has fewer than two prompts: measure more")

    def by_class(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = [values[kind == k] for k in range(CLASSES)]
        return np.stack([v.mean(0) for v in own]), np.stack([v.std(0, ddof=1) / len(v) ** 0.5 for v in own])

    times = np.array([row["airtime_s"] for row in rows]).reshape(*shape, len(SNRS_DB), -1)  # [rows, N, R, G, draws]
    # one transmission of each prompt is kept: several of one prompt are alike, and would count for more than they are
    one = np.random.default_rng(0)
    kept = int(counts.min()) // 2
    air = np.empty((CLASSES, *times.shape[2:4], QUANTILES))
    draws = np.empty((2, CLASSES, *times.shape[2:4], kept))
    for k, r, g in np.ndindex(air.shape[:3]):
        own = times[kind == k, :, r, g]
        air[k, r, g] = [part.mean() for part in np.array_split(np.sort(own, axis=None), QUANTILES)]  # equiprobable, and the mean is kept
        single = own.reshape(len(own), -1)[np.arange(len(own)), one.integers(own[0].size, size=len(own))]
        draws[:, k, r, g] = single[: 2 * kept].reshape(kept, 2).T
    told = {
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
        about={**about, **told},
    )
