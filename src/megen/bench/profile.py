"""Measures this machine's device profile: seconds and FLOPs of every stage, and its power where a counter tells it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from megen import codec, merging, pipeline
from megen.codec import Header
from megen.cost.profile import DeviceProfile
from megen.export import TorchReceiver
from megen.models.backbone import Backbone
from megen.pipeline import Clock
from megen.ue import Receiver, arrive

PROMPT = "a lighthouse at sunset, snowy mountains, pine trees"
RATIO = 0.25
RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


def joules(device: torch.device) -> Callable[[], float] | None:
    """A reader of a device's energy counter in J (a GPU's by NVML, the processor's by RAPL), or None where there is none."""
    if device.type == "cuda":
        with suppress(Exception):  # the library is missing, or its driver, or the counter
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        return None
    with suppress(OSError, ValueError):
        int(RAPL.read_text())
        return lambda: int(RAPL.read_text()) / 1e6
    return None


def median_s(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def gflops(work: Callable[[], object]) -> float:
    """Floating-point operations of a call in 10^9, a multiply-add counted twice."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e9


def profile(backbone: Backbone, receiver: Receiver, name: str, repeats: int, power_w: float) -> DeviceProfile:
    """Measure all stages of one image; `power_w` stands where no counter tells the power, and is marked assumed then."""
    strength, shape = backbone.config.guidance, backbone.latent_shape
    prompts = [PROMPT] if strength == 1.0 else [PROMPT, ""]
    with torch.inference_mode():
        context = backbone.encode_prompts(prompts)
        z = pipeline.noise_of(backbone, 0).to(backbone.latent_mean.device)
        start, end = torch.zeros(1, device=z.device), torch.full((1,), 0.1, device=z.device)

        def step() -> object:
            return backbone.velocity(z, start, end, context, strength)

        counter = joules(z.device)
        text_s = median_s(lambda: backbone.encode_prompts(prompts), repeats)
        began, before = time.perf_counter(), counter() if counter else 0.0
        step_s = median_s(step, repeats)
        spent_j = counter() - before if counter else 0.0
        if told := spent_j > 0:  # a counter that wrapped tells nothing
            power_w = spent_j / (time.perf_counter() - began)
        step_gflop, text_gflop = gflops(step), gflops(lambda: backbone.encode_prompts(prompts))
        decode_gflop = gflops(lambda: backbone.decode_latents(torch.zeros(1, *shape, device=z.device)))
    latent = pipeline.denoise(backbone, [PROMPT], [0], min(backbone.config.steps), Clock())
    tokens, grid = pipeline.as_tokens(latent), shape[1:]
    choice = merging.match(tokens, *grid, RATIO)
    mapping = merging.merge_map(choice, *grid)
    rows, _ = merging.merge(tokens, mapping)
    header = Header(*grid, shape[0], len(rows), receiver.identity, pipeline.DEPTH)
    payload = codec.encode(rows, choice, mapping, header, receiver.prior)
    arrival = arrive(payload, receiver)
    inputs = [torch.from_numpy(x).to(latent.device) for x in (arrival.rows, arrival.mapping, arrival.state)]
    in_torch = TorchReceiver(backbone)
    with torch.inference_mode():
        decode_torch_s = median_s(lambda: in_torch(*inputs), repeats)
    return DeviceProfile(
        name=name,
        source=f"measured by megen profile, median of {repeats}",
        backbone=backbone.config.name,
        text_s=text_s,
        step_s=step_s,
        merge_s=median_s(lambda: merging.merge(tokens, merging.merge_map(merging.match(tokens, *grid, RATIO), *grid)), repeats),
        code_s=median_s(lambda: codec.encode(rows, choice, mapping, header, receiver.prior), repeats),
        arrive_s=median_s(lambda: arrive(payload, receiver), repeats),
        decode_s=median_s(lambda: receiver(arrival), repeats),
        decode_torch_s=decode_torch_s,
        step_gflop=step_gflop,
        decode_gflop=decode_gflop,
        power_w=power_w,
        text_gflop=text_gflop,
        assumed=() if told else ("power_w",),
    )
