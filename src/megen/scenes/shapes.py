"""Shapes of the scenes world as signed distances, and the windows that they are painted through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Window:
    """A patch of the pictures of some rows around a point each, with coordinates local to it."""

    def __init__(self, image: Tensor, rows: list[int], x: Tensor, y: Tensor, half: tuple[float, float], scale: Tensor | float) -> None:
        size, n, device = image.shape[-1], len(rows), image.device
        scale = torch.as_tensor(scale, device=device, dtype=torch.float32).expand(n)
        largest = float(scale.max())
        w = min(size, 2 * math.ceil(half[0] * largest * size) + 2)
        h = min(size, 2 * math.ceil(half[1] * largest * size) + 2)
        self.left = ((x * size).long() - w // 2).clamp(0, size - w).tolist()
        self.top = ((y * size).long() - h // 2).clamp(0, size - h).tolist()
        at = torch.arange(max(w, h), device=device) + 0.5
        left, top = torch.tensor(self.left, device=device), torch.tensor(self.top, device=device)
        self.x = (((at[:w] + left[:, None]) / size - x[:, None]) / scale[:, None])[:, None, :]
        self.y = (((at[:h] + top[:, None]) / size - y[:, None]) / scale[:, None])[:, :, None]
        self.sharp = (size * scale)[:, None, None]
        self.image, self.rows, self.shape = image, rows, (h, w)
        self.patch = torch.stack([image[i, :, t : t + h, s : s + w] for i, t, s in zip(rows, self.top, self.left, strict=True)])

    def fill(self, distance: Tensor, colour: Tensor, alpha: Tensor | float = 1.0) -> None:
        """Composite the inside of `distance` [k, h, w] in `colour` [k, 3] or [k, 3, h, w]."""
        cover = (0.5 - distance * self.sharp).clamp_(0, 1)
        cover = cover * (alpha[:, None, None] if isinstance(alpha, Tensor) else alpha)
        self.patch.lerp_(colour[:, :, None, None] if colour.ndim == 2 else colour, cover[:, None])

    def close(self) -> None:
        h, w = self.shape
        for k, i in enumerate(self.rows):
            self.image[i, :, self.top[k] : self.top[k] + h, self.left[k] : self.left[k] + w] = self.patch[k]


def zigzag(x: Tensor) -> Tensor:
    return 4 * (x - torch.floor(x + 0.5)).abs() - 1


def mountains(x: Tensor, u: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    n = 4 - layer
    slots = (torch.arange(n, device=x.device) + 0.5) / n
    apex_x = slots + 0.16 * (u[:, 2 : 2 + n] - 0.5)
    apex_y = (0.33, 0.47)[layer] + 0.12 * u[:, 6 : 6 + n]
    steep = 0.85 + 0.5 * u[:, 10 : 10 + n]
    each = apex_y[..., None] + steep[..., None] * (x - apex_x[..., None]).abs()
    line, owner = each.min(1)
    rough = 0.006 * zigzag(x * 19 + u[:, 14:15]) + 0.003 * zigzag(x * 47 + u[:, 15:16])
    return line + rough, apex_x.gather(1, owner), apex_y.gather(1, owner)


def hills(x: Tensor, u: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    a = torch.sin(2 * math.pi * ((1.0 + 0.5 * u[:, 2:3]) * x + u[:, 3:4]))
    b = torch.sin(2 * math.pi * ((1.8 + 0.8 * u[:, 4:5]) * x + u[:, 5:6]))
    line = (0.50, 0.585)[layer] + 0.055 * a + 0.025 * b
    return line, torch.zeros_like(line), line


def dunes(x: Tensor, u: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    n = 3
    apex_x = (torch.arange(n, device=x.device) + 0.5) / n + 0.18 * (u[:, 2 : 2 + n] - 0.5)
    tall = (0.17, 0.10)[layer] * (0.6 + 0.4 * u[:, 5 : 5 + n])
    each = tall[..., None] * torch.exp(-(((x - apex_x[..., None]).abs() / 0.15) ** 1.15))
    height, owner = each.max(1)
    return (0.60, 0.64)[layer] - height, apex_x.gather(1, owner), (0.60, 0.64)[layer] - height


def circle(x: Tensor, y: Tensor, r: float) -> Tensor:
    return torch.hypot(x, y) - r


def box(x: Tensor, y: Tensor, half_w: float, half_h: float) -> Tensor:
    return torch.maximum(x.abs() - half_w, y.abs() - half_h)


def convex(x: Tensor, y: Tensor, corners: Sequence[tuple[float, float]]) -> Tensor:
    """Bound of the distance to a convex polygon, corners clockwise as seen (y down)."""
    edges = []
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = math.hypot(bx - ax, by - ay)
        edges.append(((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / length)
    return torch.stack(edges).amax(0)


def cabin(w: Window, t: Callable[..., Tensor], lamp: Tensor, u: Tensor) -> None:
    y = w.y - 0.16
    w.fill(box(w.x - 0.065, y + 0.185, 0.018, 0.045), t(0.42, 0.30, 0.28))
    w.fill(box(w.x, y + 0.055, 0.115, 0.055), t(0.56, 0.34, 0.20))
    for level in (0.035, 0.075):
        w.fill(box(w.x, y + level, 0.115, 0.0022), t(0.40, 0.23, 0.14))
    w.fill(convex(w.x, y, ((-0.150, -0.100), (-0.105, -0.200), (0.105, -0.200), (0.150, -0.100))), t(0.78, 0.20, 0.16))
    w.fill(box(w.x + 0.060, y + 0.040, 0.024, 0.040), t(0.32, 0.18, 0.12))
    w.fill(box(w.x - 0.045, y + 0.055, 0.036, 0.026), t(0.92, 0.88, 0.80))
    w.fill(box(w.x - 0.045, y + 0.055, 0.030, 0.020), lamp)


def lighthouse(w: Window, t: Callable[..., Tensor], lamp: Tensor, u: Tensor) -> None:
    y = w.y - 0.16
    tower = convex(w.x, y, ((-0.034, -0.250), (0.034, -0.250), (0.050, 0.010), (-0.050, 0.010)))
    w.fill(tower, t(0.97, 0.96, 0.94))
    for level in (0.205, 0.115, 0.025):
        w.fill(torch.maximum(tower, (y + level).abs() - 0.022), t(0.86, 0.18, 0.18))
    w.fill(box(w.x, y + 0.255, 0.050, 0.007), t(0.25, 0.22, 0.26))
    w.fill(box(w.x, y + 0.280, 0.028, 0.020), torch.lerp(lamp, w.patch.new_tensor((1.0, 0.92, 0.55)), 0.6))
    w.fill(convex(w.x, y, ((0.0, -0.345), (0.042, -0.298), (-0.042, -0.298))), t(0.80, 0.16, 0.16))
    w.fill(box(w.x, y + 0.012, 0.014, 0.020), t(0.30, 0.20, 0.20))


def castle(w: Window, t: Callable[..., Tensor], lamp: Tensor, u: Tensor) -> None:
    y = w.y - 0.16
    stone, dark = t(0.66, 0.65, 0.72), t(0.52, 0.51, 0.60)
    w.fill(box(w.x, y + 0.065, 0.120, 0.065), stone)
    for x in (-0.09, -0.03, 0.03, 0.09):
        w.fill(box(w.x - x, y + 0.138, 0.016, 0.010), stone)
    for x, top in ((-0.130, 0.190), (0.130, 0.190), (-0.058, 0.235), (0.058, 0.265)):
        w.fill(box(w.x - x, y + top / 2, 0.026, top / 2), dark)
        w.fill(convex(w.x - x, y + top, ((0.0, -0.075), (0.038, 0.0), (-0.038, 0.0))), t(0.24, 0.36, 0.72))
        w.fill(box(w.x - x, y + top - 0.035, 0.008, 0.013), lamp)
    gate = torch.minimum(box(w.x, y + 0.025, 0.024, 0.028), circle(w.x, y + 0.053, 0.024))
    w.fill(gate, t(0.26, 0.18, 0.18))


def windmill(w: Window, t: Callable[..., Tensor], lamp: Tensor, u: Tensor) -> None:
    y = w.y - 0.16
    w.fill(convex(w.x, y, ((-0.036, -0.190), (0.036, -0.190), (0.064, 0.010), (-0.064, 0.010))), t(0.90, 0.80, 0.64))
    w.fill(convex(w.x, y, ((0.0, -0.245), (0.046, -0.188), (-0.046, -0.188))), t(0.52, 0.26, 0.18))
    w.fill(box(w.x, y + 0.018, 0.016, 0.028), t(0.36, 0.22, 0.16))
    w.fill(box(w.x, y + 0.105, 0.012, 0.014), lamp)
    for quarter in range(4):
        angle = (0.35 + 0.5 * u + quarter * math.pi / 2)[:, None, None]
        along = w.x * torch.cos(angle) + (y + 0.195) * torch.sin(angle)
        across = -w.x * torch.sin(angle) + (y + 0.195) * torch.cos(angle)
        w.fill(box(along - 0.075, across, 0.075, 0.0045), t(0.36, 0.24, 0.20))
        w.fill(box(along - 0.092, across - 0.018, 0.052, 0.014), t(0.98, 0.94, 0.86))
    w.fill(circle(w.x, y + 0.195, 0.011), t(0.30, 0.20, 0.18))
