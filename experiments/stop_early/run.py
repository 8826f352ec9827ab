"""Whether the edge server may leave its last denoising step to the receiver's, which the analog link's noise asks for anyway.

`python -m experiments.stop_early.run` (a quarter of an hour): held-out prompts over AWGN of each SNR, the prompt known to the receiver.
"stopped": all steps but the last one at the server; its state, which is noise in part, crosses as tokens, and one step of the flow map
alone takes away both its noise and the link's; "stopped, refined": the refiner draws on its end there, from the noise of the request's
seed, as it does at the server. "whole": all steps at the server, transform coefficients, and the receiver as it ships,
with phone's denoiser and restorer beside the flow map; "whole, tokens": the same with the symbols that "stopped" has. PSNR is to the
picture of all steps without a link, `attributes_alike` the share of what it shows, by the examiner, that the received one shows too.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from experiments import common
from experiments.channel_denoising.run import agreement, crossed
from megen.diffusion import denoise
from megen.evaluation.link import prompts
from megen.halves import FlowReceiver, Transmitter, halves, tokens_of
from megen.link import RadioLink
from megen.metrics import psnr_db
from megen.models import embedded, phone_denoiser, tiles
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import judge
from megen.types import Features

SNRS_DB = (-6.0, 0.0, 6.0, 12.0, 18.0)
STEPS = (2, 4, 8)
ARMS = ("whole", "whole, tokens", "stopped", "stopped, refined")


@torch.inference_mode()
def states(backbone: EmbeddedBackbone, prompt: str, seed: int, steps: int) -> tuple[torch.Tensor, float, torch.Tensor, float]:
    """The state before the last step and its time, the state after it, and the last step's seconds."""
    rows = denoise.start(backbone, backbone.condition([prompt]), [seed], [backbone.spec.times[steps]])
    for _ in range(steps - 1):
        rows = denoise.advance(backbone, rows)
    began_s = time.perf_counter()
    last = denoise.advance(backbone, rows)
    return rows.z, backbone.spec.times[steps][-2], last.z, time.perf_counter() - began_s


@torch.inference_mode()
def finished(backbone: EmbeddedBackbone, features: Features, noise: float, prompt: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture of a state x + noise * n that crossed, by one step of the flow map; and that with what the refiner draws on its end."""
    left = features.equalised
    assert left is not None
    _, height, width = backbone.latent_shape
    y = torch.from_numpy(left.values.T.reshape(1, -1, height, width).copy())
    deviation = torch.from_numpy(np.hypot(left.deviation, noise).reshape(1, 1, height, width).astype(np.float32))
    condition = backbone.condition([prompt], 1.0)
    end, at = backbone.denoised(y, deviation, condition)
    refined = backbone.refined(end, denoise.noise_of(backbone.latent_shape, seed, 1), at, condition)
    plain, whole = (tiles.to_bytes(backbone.decode(z)).numpy() for z in (end, refined))
    return plain, whole


def pictures(transmitter: Transmitter, prompt: str, seed: int, steps: int, shipped: FlowReceiver) -> tuple[np.ndarray, dict, float]:
    """The picture without a link; by arm and SNR what arrives; the seconds of the last step."""
    backbone = transmitter.backbone
    assert isinstance(backbone, EmbeddedBackbone)
    before, at, whole, last_s = states(backbone, prompt, seed, steps)
    made: dict[tuple[str, float], np.ndarray] = {}
    for snr_db in SNRS_DB:
        link = RadioLink(snr_db, fading="awgn")
        for arm, reduction in (("whole", "transform"), ("whole, tokens", "merging")):
            made[arm, snr_db] = shipped.decode(crossed(whole, transmitter, link, [seed, steps], reduction))
        features = transmitter.codec.decode(crossed(before / at, transmitter, link, [seed, steps], "merging"))
        made["stopped", snr_db], made["stopped, refined", snr_db] = finished(backbone, features, (1 - at) / at, prompt, seed)
    return shipped.image_of(Features.clean(tokens_of(whole))), made, last_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    transmitter, _ = halves(device="cpu")
    examiner, cleaner = judge.load(), phone_denoiser.load(embedded.folder_of("scenes"))
    levels: dict[tuple[int, str, float], list[float]] = {}
    alike: dict[tuple[int, str, float], list[float]] = {}
    seconds: list[float] = []
    for i, prompt in enumerate(prompts(args.prompts, args.seed)):
        shipped = FlowReceiver(transmitter, prompt, cleaner)
        for steps in STEPS:
            clean, made, last_s = pictures(transmitter, prompt, 1000 * args.seed + i, steps, shipped)
            seconds.append(last_s)
            shown = judge.seen(examiner, clean)
            for (arm, snr_db), image in made.items():
                levels.setdefault((steps, arm, snr_db), []).append(psnr_db(image, clean))
                alike.setdefault((steps, arm, snr_db), []).append(agreement(judge.seen(examiner, image), shown))
        print(f"prompt {i + 1}/{args.prompts}", file=sys.stderr)

    def table(values: dict[tuple[int, str, float], list[float]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        one = {s: {a: {f"{d:g}": common.estimate(values[s, a, d]) for d in SNRS_DB} for a in ARMS} for s in STEPS}
        return {str(s): rows for s, rows in one.items()}

    times = {str(s): transmitter.backbone.spec.times[s][-2] for s in STEPS}
    result = {"psnr_db": table(levels), "attributes_alike": table(alike), "last_step_starts_at": times, "step_s": float(np.median(seconds))}
    common.write("stop_early", result)


if __name__ == "__main__":
    main()
