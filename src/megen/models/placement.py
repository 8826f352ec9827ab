"""Where and in which memory order a module's weights lie."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from megen.errors import InputError

CPU_INFO = Path("/proc/cpuinfo")
M = TypeVar("M", bound=nn.Module)


def place(module: M, device: torch.device | str) -> M:
    """Move a module to a device, convolution kernels channels-last (on a CPU 2 to 3 times faster)."""
    return cast(M, cast(Any, module).to(device, memory_format=torch.channels_last))


@functools.cache
def bf16_pays(device: torch.device) -> bool:
    """Whether this device multiplies bf16 matrices in hardware: AVX-512 BF16 or AMX on a CPU, any GPU that does not emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(CPU_INFO.read_text().split())
    except OSError:  # not Linux
        return False


def device_of(name: str) -> torch.device:
    """auto: a GPU where there is one. Errors: InputError on a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"the device must be auto, cpu, or cuda where there is one, got {name!r}")
    return torch.device(name)
