"""UE decode of one 1024 x 1024 image through onnxruntime, beside diffusers' AutoencoderTiny in the same run.

Fine features, and coarse ones that the phone's denoiser cleans before: as they are decoded, and with graphs whose threads spin when they
are done, as is onnxruntime's default.
Needs the extra `diffusers`. AutoencoderTiny has random weights (4 x 128 x 128 latent): its time does not
depend on them. The runs alternate, so that both meet the same load of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import torch

from experiments import common
from megen.export import receiver_of
from megen.models import embedded
from megen.types import Features
from megen.ue import receiver as receivers


def tiny_session(folder: Path) -> onnxruntime.InferenceSession:
    from diffusers import AutoencoderTiny

    path = folder / "taesd.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(AutoencoderTiny().decoder.eval(), (torch.randn(1, 4, 128, 128),), str(path), opset_version=18, dynamo=False)
    return onnxruntime.InferenceSession(str(path), receivers._options(0), providers=["CPUExecutionProvider"])  # as ours: no spinning


def spinning(threads: int) -> onnxruntime.SessionOptions:
    """A receiver's options by onnxruntime's default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    backbone = embedded.load("scenes")
    receiver = receiver_of(backbone, embedded.folder_of("scenes"))
    channels, height, width = backbone.latent_shape
    rows = np.random.default_rng(0).standard_normal((height * width, channels)).astype(np.float32)
    features = Features.clean(rows)
    coarse = replace(features, degradation=np.full_like(features.degradation, 0.3))
    with mock.patch.object(receivers, "_options", spinning):
        restless = receivers.Receiver.load("scenes")
        restless.image_of(coarse)  # loads its denoiser
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_session(Path(folder))
    latent = {tiny.get_inputs()[0].name: np.random.default_rng(0).standard_normal((1, 4, 128, 128)).astype(np.float32)}
    ways: dict[str, Callable[[], object]] = {
        "megen": lambda: receiver.image_of(features),
        "coarse": lambda: receiver.image_of(coarse),
        "coarse, spinning": lambda: restless.image_of(coarse),
        "autoencoder_tiny": lambda: tiny.run(None, latent),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(args.repeats + 1):  # the first of each is a warm-up
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if k:
                seconds[name].append(time.perf_counter() - began)
    median = {k: statistics.median(v) for k, v in seconds.items()}
    common.write("decode", {"median_s": median, "ratio": median["autoencoder_tiny"] / median["megen"], "seconds": seconds})


if __name__ == "__main__":
    main()
