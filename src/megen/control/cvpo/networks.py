"""Small networks side by side, for the policy and its critics."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Networks(nn.Module):
    """`count` networks of one shape side by side: features [n, d] to values [count, n, actions]."""

    def __init__(self, count: int, inputs: int, width: int, actions: int) -> None:
        super().__init__()
        sizes = (inputs, width, width, actions)
        self.weights = nn.ParameterList(
            torch.randn(count, a, b) * (0.01 if i == 2 else math.sqrt(2 / a)) for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
        self.biases = nn.ParameterList(torch.zeros(count, 1, b) for b in sizes[1:])

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "k n a"]:
        y = x.expand(len(self.weights[0]), *x.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = torch.baddbmm(bias, F.silu(y) if i else y, weight)
        return y
