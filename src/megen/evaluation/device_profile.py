"""Measures this machine's device profile: seconds and FLOPs of every stage, and its power where a counter tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from megen import merging
from megen.backbone import Backbone
from megen.codec import FeatureCodec
from megen.cost import device_profile
from megen.cost.device_profile import DeviceProfile
from megen.diffusion import denoise
from megen.evaluation.quality_grid import captions
from megen.export import TorchReceiver, net_of
from megen.halves import Receives, Transmitter, tokens_of
from megen.merging import Merged
from megen.provenance import provenance
from megen.types import LEAST_QUANTISER_BITS, MOST_QUANTISER_BITS, PROTECTED, Features, Payload, Received
from megen.ue import Receiver
from megen.ue.receiver import is_degraded

PROMPT = "a lighthouse at sunset, snowy mountains, pine trees"
RATIO = 0.25
SERVED = "stage"  # the order of parts in which a server sends
BATCH = 8  # rows of the step that tells what batching saves
QUICK_REPEATS = 3  # of each stage, where there is no profile of this machine
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
    return float(np.median(seconds(work, repeats)))


def spread_of(taken: Sequence[float]) -> float:
    """The relative spread of a normal distribution whose 95th percentile is as far above the median as that of these seconds."""
    return max(float(np.quantile(taken, 0.95) / np.median(taken)) - 1, 0.0) / 1.645


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call, after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return taken


def gflops(work: Callable[[], object]) -> float:
    """Floating-point operations of a call in 10^9, a multiply-add counted twice."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e9


def step_of(backbone: Backbone, rows: int, *, last: bool = False) -> Callable[[], object]:
    """A denoising step of so many rows, the first one of the most steps; the `last` one ends at data, where a refiner draws."""
    times = backbone.spec.times[max(backbone.spec.steps)]
    started = denoise.start(backbone, backbone.condition([PROMPT] * rows), [0] * rows, [times] * rows)
    begun = replace(started, done=(len(times) - 2,) * rows) if last else started
    return lambda: denoise.advance(backbone, begun)


def _refining(backbone: Backbone, step_s: float, step_gflop: float, repeats: int) -> dict[str, float]:
    """By how many seconds and operations the last step takes more than another, where a backbone has a refiner."""
    if not backbone.spec.refines:
        return {}
    last = step_of(backbone, 1, last=True)
    return {"refine_s": max(median_s(last, repeats) - step_s, 0.0), "refine_gflop": gflops(last) - step_gflop}


def fixed_share(alone_s: float, batch_s: float) -> float:
    """What share f of a lone row's step a batch of `BATCH` pays once: its seconds are alone_s (f + (1 - f) BATCH)."""
    return min(max((BATCH - batch_s / max(alone_s, 1e-9)) / (BATCH - 1), 0.0), 0.99)


def profile(transmitter: Transmitter, receiver: Receives, name: str, repeats: int, power_w: float) -> DeviceProfile:
    """Measure all stages of one image; `power_w` stands where no counter tells the power, and is marked assumed then. So are the FLOPs
    of decoding, which are those of the backbone's own decoder, where a published one has a lighter receiver."""
    backbone, load = transmitter.backbone, device_profile.load_a_core()
    shape, device = backbone.spec.latent_shape, backbone.device
    with torch.inference_mode():
        step = step_of(backbone, 1)
        counter = joules(device)
        prompts = iter(captions(repeats + 1))  # each a new one: some backbones keep what they have encoded
        text_s = median_s(lambda: backbone.condition([next(prompts)]), repeats)
        since, before = time.perf_counter(), counter() if counter else 0.0
        step_s = median_s(step, repeats)
        spent_j = counter() - before if counter else 0.0
        if measured := spent_j > 0:  # a counter that wrapped says nothing
            power_w = spent_j / (time.perf_counter() - since)
        batch_fixed = fixed_share(step_s, median_s(step_of(backbone, BATCH), repeats))
        step_gflop, text_gflop = gflops(step), gflops(lambda: backbone.condition([f"{PROMPT}, fog"]))
        decode_gflop = gflops(lambda: backbone.decode(torch.zeros(1, *shape, device=device)))
    latent = transmitter.denoise([PROMPT], [0], min(backbone.spec.steps))
    merged = merging.merged(tokens_of(latent), shape[1:], RATIO)
    received = Received(transmitter.codec.encode(merged, order=SERVED).payload)
    first_s: list[float] = []
    code_s = median_s(lambda: first_s.append(_first_parts_s(transmitter.codec, merged)), repeats)
    features = transmitter.codec.decode(Received(transmitter.encode(latent).payload))
    clean_s, fine_bits = cleaning(transmitter, receiver, latent, repeats)
    inputs = [torch.from_numpy(x).to(device) for x in (features.rows, features.merge_map, features.degradation)]
    lighter = getattr(getattr(backbone, "checkpoint", None), "receiver", None) is not None
    in_torch = TorchReceiver(net_of(backbone), shape)

    def service() -> object:
        made = transmitter.denoise([PROMPT], [0], min(backbone.spec.steps))
        return receiver.decode(Received(transmitter.encode(made, RATIO).payload))

    with torch.inference_mode():
        decode_torch_s = median_s(lambda: in_torch(*inputs), repeats)
    return DeviceProfile(
        name=name,
        source=f"measured by megen profile, median of {repeats}",
        backbone=backbone.spec.name,
        text_s=text_s,
        step_s=step_s,
        **_refining(backbone, step_s, step_gflop, repeats),
        merge_s=median_s(lambda: merging.merged(tokens_of(latent), shape[1:], RATIO), repeats),
        code_s=code_s,
        code_first_s=float(np.median(first_s[1:])),
        arrive_s=median_s(lambda: transmitter.codec.decode(received), repeats),
        arrive_last_s=_last_part_s(transmitter.codec, received.payload, repeats),
        decode_s=median_s(lambda: receiver.image_of(features), repeats),
        clean_s=clean_s,
        fine_bits=fine_bits,
        decode_torch_s=decode_torch_s,
        step_gflop=step_gflop,
        decode_gflop=decode_gflop,
        power_w=power_w,
        spread=spread_of(seconds(service, repeats)),
        batch_fixed=batch_fixed,
        load=load,
        text_gflop=text_gflop,
        assumed=tuple(name for name, unmeasured in (("power_w", not measured), ("decode_gflop", lighter)) if unmeasured),
    )


def _first_parts_s(codec: FeatureCodec, merged: Merged) -> float:
    """Codes a payload, and says how long it takes until its first parts can leave: header, map and base."""
    began, left = time.perf_counter(), []
    codec.encode(merged, order=SERVED, on_part=lambda part: left.append(time.perf_counter()) if part.number == PROTECTED else None)
    return left[0] - began


def _last_part_s(codec: FeatureCodec, payload: Payload, repeats: int) -> float:
    """Median seconds of what is left to do when the last part of a payload arrives."""
    taken = []
    for _ in range(repeats + 1):
        arriving = codec.arriving(payload.header, payload.merge_map, len(payload.features))
        for number, part in enumerate(payload.features[:-1]):
            arriving.take(number, part)
        began = time.perf_counter()
        arriving.take(len(payload.features) - 1, payload.features[-1])
        arriving.features()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


def cleaning(transmitter: Transmitter, receiver: Receives, latent: Tensor, repeats: int) -> tuple[float, float]:
    """What cleaning the coarsest features takes here, in s, and the coarsest quantiser whose features need none, in bits."""
    if not isinstance(receiver, Receiver) or receiver.denoiser is None:
        return 0.0, 0.0

    def quantised(bits: float) -> Features:
        return transmitter.codec.decode(Received(transmitter.encode(latent, quantiser_bits=bits).payload))

    low, high = round(4 * LEAST_QUANTISER_BITS), round(4 * MOST_QUANTISER_BITS)  # cleaned, and not cleaned, in quarters of a bit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_degraded(quantised(middle / 4)) else (low, middle)
    coarsest = quantised(LEAST_QUANTISER_BITS)
    return median_s(lambda: receiver.denoised(coarsest), repeats), high / 4


def measure_once(transmitter: Transmitter, receiver: Receives, say: Callable[[str], object]) -> None:
    """This machine's profile into the user's cache folder, where there is none of these weights, or it was busy when it was measured."""
    if not (why := device_profile.to_measure()):
        return
    say(f"measuring this machine {why} (megen profile does it more closely)")
    known = device_profile.this_machine() or device_profile.load(device_profile.SERVER)  # the power that somebody gave stays
    measured = profile(transmitter, receiver, device_profile.BY_ITSELF, QUICK_REPEATS, known.power_w)
    try:
        device_profile.cached().parent.mkdir(parents=True, exist_ok=True)
        device_profile.save(measured, device_profile.cached(), provenance())
    except OSError as error:
        say(f"its profile cannot be kept ({error}): auto decides by the bundled ones")
