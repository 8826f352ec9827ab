"""Piecewise rectified flow as a scheduler that diffusers' SDXL pipeline can run, in numbers of Python, one step at a time.

Within a window from training time a to b < a, the net's noise e and the state x at time c give the window's end,
x_b = l x_a + m e with x = x_a + (c - a) / (b - a) (x_b - x_a), whence x_a and x_b; the state moves on straight (arXiv:2405.07510).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class PeRFlowReference:
    """Four windows of equal length."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, signals: Tensor, windows: int = 4) -> None:
        self.signals, self.windows = [float(a) for a in signals], windows
        self.config = {"num_train_timesteps": len(self.signals)}
        self.timesteps = torch.zeros(0)

    def set_timesteps(self, count: int, device: object = None) -> None:
        times = []
        for k in range(self.windows):
            own = count // self.windows + (1 if k < count % self.windows else 0)
            times += [1 - (k + j / own) / self.windows for j in range(own)]
        self.timesteps = torch.tensor([int(1000 * time + 1e-9) for time in times])

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, noise: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        place = int((self.timesteps == timestep).nonzero())
        after = int(self.timesteps[place + 1]) if place + 1 < len(self.timesteps) else 0
        c, d = int(timestep) / 1000, after / 1000
        k = next(k for k in range(self.windows) if c > 1 - (k + 1) / self.windows + 1e-9)
        a, b = 1 - k / self.windows, 1 - (k + 1) / self.windows
        first, last = self.signals[round(1000 * a) - 1], self.signals[max(round(1000 * b) - 1, 0)]
        l = math.sqrt(last / first)
        m = math.sqrt(1 - last) - l * math.sqrt(1 - first)
        w = (c - a) / (b - a)  # x = (1 - w) x_a + w (l x_a + m e)
        start = (sample - w * m * noise) / (1 - w + w * l)
        end = l * start + m * noise
        return (sample + (d - c) / (b - a) * (end - start),)
