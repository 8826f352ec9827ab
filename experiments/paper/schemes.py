"""The schemes that the source compares, in a corrected setting: one link budget, fair files, equal steps, equal or better distortion.

MEG-CVPO alone decides its own steps and distortion, to a picture of those steps; a WebP file as good as that stands beside it. The pruned
net is the bundled one without one block, which nobody trained for that.

Parts of our payloads cross while others are coded and decoded, as an edge server sends them; a file leaves when it is whole.

Every prompt has a place in the source's cell (200 to 300 m, 1 MHz); what crosses goes over one digital link at that SNR. Seconds of
both machines are those of the bundled profiles. Files cost nothing to encode or decode here, which flatters them. The phone's profile is
assumed to be as fast as the server's, which flatters the generation on the device; the claim's map has slower ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from experiments import common
from experiments.paper.as_released import FARTHEST_M, NEAREST_M, snr_db
from megen.control.controller import Controller
from megen.cost import device_profile
from megen.evaluation.device_profile import SERVED, gflops
from megen.evaluation.link import Sample, airtime, coded, depth_for, file_at, file_kinds, int8, png_bits, prompts, reference_fp16, samples
from megen.halves import Receives, Transmitter, halves, tokens_of
from megen.metrics import psnr_db
from megen.types import ChannelState, Decision, Features, Observation

STEPS, MOST_STEPS = 4, 12
WEBP_QUALITY = 80
SIDE_PX = 1024
SPEED = 6  # of AVIF's encoder: slower settings make smaller files
BANDWIDTH_HZ = 1e6
MOST_SIMULATED_BITS = 2e6  # of a larger file one of so many equal pieces crosses, and counts for all
LEFT_OUT = 1  # blocks of the pruned net

FILES = (  # each as good as a scheme of ours, or as good as it gets
    ("WebP", "webp", "MEG, fixed"),
    ("AVIF", "avif", "MEG, fixed"),
    ("JPEG XL", "jpeg xl", "MEG, fixed"),
    ("WebP, finer", "webp", "MEG, 5 bits a value"),
)

PAIRS = (
    ("MEG, fixed", "file, WebP 80"),
    ("MEG, fixed", "file, WebP"),
    ("MEG, fixed", "file, AVIF"),
    ("MEG, fixed", "file, JPEG XL"),
    ("MEG, fixed", "file, PNG"),
    ("MEG, fixed", "file, raw"),
    ("MEG, fixed", "plain split, int8"),
    ("MEG, fixed", "on the device"),
    ("MEG-CVPO", "file, WebP, as MEG-CVPO"),
    ("MEG, 5 bits a value", "file, WebP, finer"),
    ("MEG, 5 bits a value", "file, PNG"),
    ("MEG, 5 bits a value", "file, raw"),
    ("plain split, int8", "file, WebP, finer"),
)

Row = dict[str, float]


def measure(count: int, seed: int, on_progress: Callable[[str], object]) -> dict[str, Any]:
    """Bits, PSNR, seconds of every scheme: means over prompts with standard errors, and savings paired by prompt."""
    transmitter, receiver = halves()
    pruned, share = _pruned(transmitter)
    es, ue = device_profile.load("cpu"), device_profile.load("phone")
    rng, texts = np.random.default_rng(seed), prompts(count, seed)
    decides = Controller.load("cvpo", server="cpu", phone="phone", rng=np.random.default_rng([seed, 1]))
    chosen: list[Decision] = []
    distances_m = rng.uniform(NEAREST_M, FARTHEST_M, count)
    rows: list[dict[str, Row]] = []
    for i, sample in enumerate(samples(transmitter, receiver, count, seed, STEPS)):
        sent = _of_one(sample, transmitter, receiver)
        near_db = float(snr_db(distances_m[i : i + 1])[0])
        decision = decides(Observation(ChannelState(near_db, BANDWIDTH_HZ), prompt=texts[i]))
        chosen.append(decision)
        sent |= _decided(decision, texts[i], 1000 * seed + i, transmitter, receiver)
        latent = pruned.denoise([texts[i]], [1000 * seed + i], STEPS)
        sent["plain split, pruned net"] = _row(
            sample, sent["plain split, int8"]["bits"], receiver.image_of(Features.clean(tokens_of(latent)))
        )
        for name, row in sent.items():
            steps = decision.steps if name.endswith("MEG-CVPO") else STEPS
            pieces = math.ceil(row["bits"] / MOST_SIMULATED_BITS)
            air_s, row["arrived"] = airtime(int(row["bits"] / pieces), near_db, BANDWIDTH_HZ, np.random.default_rng([seed, i]))
            row["air_s"] = pieces * air_s
            step_s = share * es.step_s if "pruned" in name else es.step_s
            row["s"] = row["air_s"] + _machines_s(name, es, ue, row) + steps * step_s + (0.0 if "pruned" in name else es.refine_s)
        alone_s = ue.text_s + STEPS * ue.step_s + es.refine_s + ue.decode_s  # the phone's profile has no refiner, and is as fast
        sent["on the device"] = {"bits": 0.0, "psnr_db": math.inf, "air_s": 0.0, "s": alone_s, "arrived": True}
        rows.append(sent)
        on_progress(f"prompts {i + 1}/{count}")
    names = list(rows[0])
    keys = ("bits", "psnr_db", "air_s", "s", "arrived")
    table = {n: {k: common.estimate([r[n][k] for r in rows if math.isfinite(r[n][k])] or [math.inf] * 2) for k in keys} for n in names}
    savings = {
        f"{ours} instead of {theirs}": common.estimate([1 - r[ours]["s"] / r[theirs]["s"] for r in rows])
        for ours, theirs in PAIRS
        if theirs in rows[0]
    }
    return {
        "prompts": count,
        "steps": STEPS,
        "cell_m": [NEAREST_M, FARTHEST_M],
        "profiles": ["cpu", "phone"],
        "assumed": decides.assumptions,
        "pruned_step_flops_share": share,
        "decided": {str(d): chosen.count(d) for d in dict.fromkeys(chosen)},
        "table": table,
        "savings": savings,
        "modelled": ["air_s", "s"],
    }


def _pruned(transmitter: Transmitter) -> tuple[Transmitter, float]:
    """The edge server with a block of its net left out, and the share of a step's FLOPs that is left."""
    import torch

    whole = transmitter.backbone
    net = copy.copy(whole)
    net.velocity = partial(whole.velocity, skipped=LEFT_OUT)  # type: ignore[method-assign, attr-defined]
    with torch.inference_mode():
        asked = torch.zeros(1, *whole.spec.latent_shape), torch.zeros(1), torch.ones(1), whole.condition(["a boat"], 1.0)
        share = gflops(lambda: net.velocity(*asked)) / gflops(lambda: whole.velocity(*asked))  # type: ignore[attr-defined]
    return replace(transmitter, backbone=net), share


def _of_one(sample: Sample, transmitter: Transmitter, receiver: Receives) -> dict[str, Row]:
    """Bits and PSNR of one latent by every scheme; the reference is the same latent, decoded undisturbed."""
    row = partial(_row, sample)

    kinds = file_kinds(SPEED)
    webp = _webp_80(sample.image)
    out = {"file, raw": {"bits": 16.0 * 3 * SIDE_PX**2, "psnr_db": math.inf}}
    out["file, PNG"] = {"bits": float(png_bits(sample.image)), "psnr_db": math.inf}
    out["file, WebP 80"] = row(*webp)
    depth, bits, _ = depth_for(
        sample, out["file, WebP 80"]["psnr_db"], transmitter, receiver, order=SERVED
    )  # as good as that file, or better
    out["MEG, fixed"] = {"depth": float(depth), **row(bits, coded(sample, 0.0, depth / 4, transmitter, receiver, order=SERVED)[1])}
    out["MEG, 5 bits a value"] = row(*coded(sample, 0.0, 5.0, transmitter, receiver, order=SERVED))
    for name, own, like in FILES:
        if own in kinds:
            size, level_db, _ = file_at(kinds[own], sample.image, out[like]["psnr_db"])
            out[f"file, {name}"] = {"bits": size, "psnr_db": level_db}
    out["plain split, int8"] = row(*int8(sample, receiver))
    for ratio in (0.0, 0.5, 0.75):
        out[f"as released, fp16, merge ratio {ratio:g}"] = row(*reference_fp16(sample, ratio, receiver))
        if ratio:
            merged = {"merge_ratio": ratio}
            tuned = row(*reference_fp16(sample, ratio, receiver, tuned=True))
            out[f"split and tuned receiver, fp16, merge ratio {ratio:g}"] = merged | tuned
            out[f"MEG, merge ratio {ratio:g}"] = merged | row(*coded(sample, ratio, 5.0, transmitter, receiver, order=SERVED))
    return out


def _row(sample: Sample, bits: float, image: np.ndarray) -> Row:
    return {"bits": float(bits), "psnr_db": psnr_db(image, sample.image)}


def _decided(decision: Decision, prompt: str, seed: int, transmitter: Transmitter, receiver: Receives) -> dict[str, Row]:
    """A picture as a policy decides for it, and a file as good as that; the reference has the same steps."""
    latent = transmitter.denoise([prompt], [seed], decision.steps)
    sample = Sample(latent, receiver.image_of(Features.clean(tokens_of(latent))))
    ours = _row(sample, *coded(sample, decision.merge_ratio, decision.quantiser_bits, transmitter, receiver, order=SERVED))
    size, level_db, _ = file_at(file_kinds(SPEED)["webp"], sample.image, ours["psnr_db"])
    ours |= {"depth": 4 * decision.quantiser_bits, "merge_ratio": decision.merge_ratio}
    return {"MEG-CVPO": ours, "file, WebP, as MEG-CVPO": {"bits": size, "psnr_db": level_db}}


def _webp_80(image: np.ndarray) -> tuple[float, np.ndarray]:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=WEBP_QUALITY, method=6)
    return 8.0 * len(out.getvalue()), np.asarray(Image.open(out).convert("RGB"))


def _machines_s(name: str, es: device_profile.DeviceProfile, ue: device_profile.DeviceProfile, row: Row) -> float:
    """Seconds of both machines beside steps and link: whoever decodes, what cleans merged or coarse features before, and the coder where
    there is one."""
    if name.startswith("file"):
        return es.text_s + es.decode_s
    coder = name.startswith("MEG")
    known = coder or "tuned" in name  # how the features were degraded
    cleaned = known and (row.get("merge_ratio", 0.0) > 0 or row.get("depth", 4 * ue.fine_bits) < 4 * ue.fine_bits)
    coding_s = es.merge_s + es.code_s + ue.arrive_s - float(device_profile.overlap_s(es, ue, row["air_s"]))
    return es.text_s + coding_s * coder + ue.decode_s + ue.clean_s * cleaned
