"""One denoising step of one image: how fast in which form, and where the time goes against the machine's matrix rates.

`python -m experiments.step.run` measures, in one run and alternating: the step in single precision and with weights
in bf16, both as they are and compiled, one image alone and eight together; the machine's rates on large matrix
products in both precisions; and the share of each kind of operation in the fastest form that needs no compiling.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from experiments import common
from megen.diffusion.denoise import noise_of
from megen.evaluation.device_profile import PROMPT, gflops
from megen.halves import halves
from megen.models import embedded
from megen.types import Received

SIDE = 2048  # of the matrices that tell the machine's rate
KINDS = {
    "convolutions": ("convolution", "mkldnn_conv", "conv2d"),
    "matrix products": ("addmm", "linear", "matmul", "bmm", "::mm", "baddbmm", "einsum"),
    "attention": ("attention",),
    "norms": ("norm",),
    "copies and casts": ("copy_", "_to_copy", "::to", "contiguous", "clone", "cat"),
}


def fastest(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns so that all meet the same load."""
    taken: dict[str, list[float]] = defaultdict(list)
    for k in range(repeats + 2):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if k >= 2:
                taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(v)) for name, v in taken.items()}


def rates(repeats: int) -> dict[str, float]:
    """GFLOP/s of a large matrix product in both precisions."""
    wide, narrow = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE).bfloat16()
    works: dict[str, Callable[[], object]] = {"fp32": lambda: wide @ wide, "bf16": lambda: narrow @ narrow}
    return {name: 2 * SIDE**3 / s / 1e9 for name, s in fastest(works, repeats).items()}


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Share of the time by kind of operation, from the profiler's self times."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(10):
            work()
    spent: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        kind = next((k for k, marks in KINDS.items() if any(m in event.key for m in marks)), "the rest")
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    return {k: v / total for k, v in sorted(spent.items(), key=lambda item: -item[1])}


def image_seconds(name: str, repeats: int) -> dict[str, float]:
    """Median seconds from prompt to pixels in a running process, without the link's time, by number of steps."""
    transmitter, receiver = halves(name)

    def image(steps: int) -> object:
        sent = transmitter.encode(transmitter.denoise([PROMPT], [0], steps), 0.25)
        return receiver.decode(Received(sent.payload))

    works: dict[str, Callable[[], object]] = {str(n): (lambda n=n: image(n)) for n in (1, 2, 4, 8, 12)}
    return fastest(works, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="scenes")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="also measure the step compiled, and the compiling")
    args = parser.parse_args()
    forms = {"fp32": embedded.load(args.backbone), "bf16": embedded.load(args.backbone)}
    forms["bf16"].denoiser.bfloat16()
    found: dict[str, object] = {"backbone": args.backbone, "threads": torch.get_num_threads()}
    with torch.inference_mode():
        works: dict[str, Callable[[], object]] = {}
        for batch in (1, 8):
            for precision, backbone in forms.items():
                condition = backbone.condition([PROMPT] * batch, 1.0)
                z = torch.cat([noise_of(backbone.latent_shape, i) for i in range(batch)]).contiguous(memory_format=torch.channels_last)
                inputs = (z, torch.zeros(batch), torch.full((batch,), 0.1), condition)
                form = f"{precision}, {batch} together"
                works[form] = lambda f=backbone.velocity, x=inputs: f(*x)
                if args.compile:
                    compiled = torch.compile(backbone.velocity, dynamic=False)
                    began = time.perf_counter()
                    compiled(*inputs)
                    found[f"compiling {form}_s"] = time.perf_counter() - began
                    works[f"compiled {form}"] = lambda f=compiled, x=inputs: f(*x)
        seconds = fastest(works, args.repeats)
        machine = rates(5)
        cost = gflops(works["fp32, 1 together"])
        found["step_gflop"], found["machine_gflop_per_s"] = cost, machine
        found["step_ms_per_image"] = {k: 1e3 * v / int(k.split()[-2]) for k, v in seconds.items()}
        found["share_of_rate"] = {k: cost * int(k.split()[-2]) / v / machine["bf16" if "bf16" in k else "fp32"] for k, v in seconds.items()}
        best = min((v, k) for k, v in seconds.items() if k.endswith("1 together") and not k.startswith("compiled"))[1]
        found["where the time goes"] = {"form": best, **shares(works[best])}
    found["prompt_to_pixels_s"] = image_seconds(args.backbone, args.repeats)
    common.write("step", found)


if __name__ == "__main__":
    main()
