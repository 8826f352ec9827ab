"""Muon: momentum whose update is orthogonalised, for the matrices of convolutions and linear layers.

Jordan et al. 2024; the scale 0.2 * sqrt(max(rows, columns)) gives AdamW-sized updates (Liu et al.,
arXiv 2502.16982). PyTorch's own takes no convolution kernels and always multiplies in bf16, which a CPU
without bf16 units emulates a hundred times slower than fp32; here it is a choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TINY = 1e-15  # the momentum of a dead unit decays to subnormal numbers, which make a CPU's products ten times slower


def orthogonalised(matrix: Float[Tensor, "m n"], iterations: int = 5, bf16: bool = False) -> Float[Tensor, "m n"]:
    """About U V^T of the singular value decomposition U S V^T, by a quintic Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = F.hardshrink(x / (x.norm() + 1e-7), TINY)
    x = x.bfloat16() if bf16 else x
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for parameters of two or more dimensions (rows = the first)."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0, bf16: bool = False) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "bf16": bf16})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                momentum.copy_(F.hardshrink(momentum, TINY**2))
                update = p.grad.lerp(momentum, group["momentum"]).flatten(1)
                update = orthogonalised(update, bf16=group["bf16"]) * (0.2 * max(update.shape) ** 0.5)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"])
