"""Draws scenes as flat illustrations: batched torch, signed distances, any resolution.

Lengths are in units of the picture's side, y grows downwards. A shape is a signed distance
(negative inside); its coverage of a pixel is clamp(1/2 - distance * size_px, 0, 1). Everything a
scene leaves open is read from one row of uniform numbers that its seed gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from megen.scenes.captions import ATTRIBUTES, Scene
from megen.scenes.shapes import Window, box, cabin, castle, circle, convex, dunes, hills, lighthouse, mountains, windmill, zigzag

HORIZON = 0.64
GROUND = 0.845
N_UNIFORMS = 64
N_FLAKES = 150

_SKY = {  # top, middle, low
    "dawn": ((0.48, 0.50, 0.78), (0.80, 0.66, 0.83), (0.99, 0.83, 0.78)),
    "noon": ((0.16, 0.52, 0.90), (0.42, 0.72, 0.96), (0.80, 0.92, 0.99)),
    "sunset": ((0.30, 0.16, 0.42), (0.86, 0.34, 0.42), (1.00, 0.68, 0.36)),
    "night": ((0.05, 0.07, 0.22), (0.10, 0.14, 0.36), (0.20, 0.26, 0.52)),
}
_AMBIENT = {"dawn": (0.93, 0.80, 0.90), "noon": (1.0, 1.0, 1.0), "sunset": (0.92, 0.66, 0.66), "night": (0.36, 0.42, 0.68)}
_CLOUD = {"dawn": (1.0, 0.90, 0.90), "noon": (1.0, 1.0, 1.0), "sunset": (1.0, 0.66, 0.50), "night": (0.34, 0.40, 0.64)}
BODY = {"sun": (1.0, 0.93, 0.62), "full moon": (0.97, 0.96, 0.88), "crescent moon": (1.0, 0.96, 0.80)}
_RIDGE = {"mountains": (0.46, 0.52, 0.66), "hills": (0.36, 0.62, 0.42), "dunes": (0.94, 0.76, 0.46)}
_GROUND = {"mountains": (0.30, 0.50, 0.36), "hills": (0.28, 0.50, 0.26), "dunes": (0.80, 0.60, 0.34)}


def render(
    scenes: Sequence[Scene], size_px: int = 1024, device: torch.device | str = "cpu", *, doubled: bool = False
) -> Float[Tensor, "b 3 h w"]:
    """Draw scenes as sRGB in [0, 1], shape [b, 3, size_px, size_px].

    With `doubled` every object stands twice, at its side and at another one: what a judge must learn to refuse.
    """
    return _Painter(scenes, size_px, torch.device(device), doubled).paint().clamp_(0, 1)


class _Painter:
    def __init__(self, scenes: Sequence[Scene], size: int, device: torch.device, doubled: bool = False) -> None:
        self.scenes, self.size, self.device = scenes, size, device
        rngs = [np.random.default_rng(s.seed) for s in scenes]
        self.u = self._t(np.stack([r.random(N_UNIFORMS) for r in rngs]))
        self.flakes = self._t(np.stack([r.random((N_FLAKES, 4)) for r in rngs]))
        self.axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
        self.image = torch.empty(len(scenes), 3, size, size, device=device)
        self.low = self._table(_SKY)[:, 2]
        self.ambient = self._table(_AMBIENT)
        u = self.u
        side = torch.tensor([ATTRIBUTES["side"].index(s.side) for s in scenes], device=device)
        has_object = torch.tensor([s.object != "no object" for s in scenes], device=device)
        self.object_x = (0.26 + 0.24 * side) + 0.05 * (u[:, 0] - 0.5)
        other = (side + 1 + (u[:, 57] < 0.5).long()) % 3
        self.object_places = [self.object_x, *([(0.26 + 0.24 * other) + 0.05 * (u[:, 58] - 0.5)] if doubled else [])]
        sun_left = torch.where(has_object & (side != 1), side == 2, u[:, 1] < 0.5)
        self.body_x = torch.where(sun_left, 0.22, 0.78) + 0.10 * (u[:, 2] - 0.5)
        height = torch.tensor([{"noon": 0.16, "dawn": 0.27, "sunset": 0.32, "night": 0.17}[s.time] for s in scenes])
        self.body_y = height.to(device) + 0.05 * (u[:, 3] - 0.5)

    def _t(self, values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self.device)

    def _table(self, table: Mapping[str, object], key: str = "time") -> Tensor:
        return self._t([table[getattr(s, key)] for s in self.scenes])

    def _where(self, **wanted: str) -> list[int]:
        return [i for i, s in enumerate(self.scenes) if all(getattr(s, k) == v for k, v in wanted.items())]

    def _tint(self, rows: list[int], rgb: tuple[float, float, float]) -> Tensor:
        return self._t(rgb) * self.ambient[rows]

    def paint(self) -> Tensor:
        self._sky()
        self._stars()
        self._body()
        self._clouds()
        for layer in (0, 1):
            self._ridges(layer)
        self._fog(0.50)
        self._trees_far()
        self._water()
        for x in self.object_places:
            self._sailboat(x)
        self._ground()
        self._trees_near()
        for x in self.object_places:
            self._buildings(x)
        self._fog(0.22)
        self._falling()
        return self.image

    # ---- whole-width layers -------------------------------------------------------------

    def _rows(self, top: float, bottom: float) -> tuple[int, int, Tensor]:
        first, last = int(top * self.size), min(self.size, math.ceil(bottom * self.size))
        return first, last, self.axis[first:last]

    def _over(self, rows: list[int], first: int, last: int, colour: Tensor, alpha: Tensor) -> None:
        """Composite `colour` [k, 3, h|1, w|1] with `alpha` [k, h|1, w|1] on picture rows first..last."""
        for k, i in enumerate(rows):
            self.image[i, :, first:last].lerp_(colour[k], alpha[k])

    def _sky(self) -> None:
        sky = self._table(_SKY)
        y = (self.axis / 0.66).clamp(max=1.0)
        grey = self._t([{"clear": 0.0, "rain": 0.30, "snow": 0.22, "fog": 0.25}[s.weather] for s in self.scenes])
        luma = sky.mean(-1, keepdim=True) * 0.9 + 0.06
        sky = torch.lerp(sky, luma.expand_as(sky), grey[:, None, None])
        self.low = sky[:, 2]
        upper, lower = (y * 2).clamp(max=1)[None, :, None], (y * 2 - 1).clamp(min=0)[None, :, None]
        column = torch.lerp(torch.lerp(sky[:, None, 0], sky[:, None, 1], upper), sky[:, None, 2], lower)
        self.image.copy_(column.transpose(1, 2)[..., None].expand_as(self.image))
        first, last, rows = self._rows(0, 0.75)
        everyone = list(range(len(self.scenes)))
        width = self._t([{"noon": 0.13, "dawn": 0.20, "sunset": 0.24, "night": 0.10}[s.time] for s in self.scenes])
        strength = self._t([0.55 if s.weather == "clear" else 0.3 for s in self.scenes])
        gx = torch.exp(-((self.axis[None] - self.body_x[:, None]) ** 2) / (2 * width[:, None] ** 2))
        gy = torch.exp(-((rows[None] - self.body_y[:, None]) ** 2) / (2 * width[:, None] ** 2)) * strength[:, None]
        colour = torch.lerp(self._table(BODY, "body"), self.low, 0.35)
        self._over(everyone, first, last, colour[:, :, None, None], gy[:, :, None] * gx[:, None, :])

    def _ridges(self, layer: int) -> None:
        for kind, outline in (("mountains", mountains), ("hills", hills), ("dunes", dunes)):
            rows = self._where(ridges=kind)
            if not rows:
                continue
            first, last, y = self._rows((0.30, 0.40)[layer], 0.86)
            u = self.u[rows, 4 + 18 * layer : 22 + 18 * layer]
            line, crest_x, crest_y = outline(self.axis, u, layer)
            slope = torch.gradient(line, spacing=1 / self.size, dim=1)[0]
            depth = y[None, :, None] - line[:, None, :]
            alpha = (0.5 + depth * (self.size / torch.sqrt(1 + slope**2))[:, None, :]).clamp_(0, 1)
            fade, low = (0.42, 0.12)[layer], self.low[rows]
            colour = torch.lerp(self._tint(rows, _RIDGE[kind]), low, fade)[:, :, None, None]
            if kind == "hills":
                lit = 1.12 - 0.9 * depth.clamp(0, 0.35)
            else:  # a sunlit and a shaded flank meet at a line that falls from the crest
                wander = 0.02 * zigzag(depth * 9 + u[:, 0, None, None]) if kind == "mountains" else 0.35 * depth
                shade = ((self.axis - crest_x[:, None] - wander) * self.size / 2 + 0.5).clamp_(0, 1)
                lit = 1.10 - (0.26 if kind == "mountains" else 0.20) * shade
            colour = colour * lit[:, None]
            if kind == "mountains":
                reach = (0.105, 0.06)[layer] + 0.02 * zigzag(self.axis * 17 + u[:, 1:2])
                snow = 0.5 + (crest_y + reach)[:, None].sub(y[None, :, None]) * self.size / 2
                cap = torch.lerp(self._tint(rows, (1.0, 1.0, 1.0)), low, fade * 0.4)[:, :, None, None]
                cap = cap * (0.45 + 0.5 * lit)[:, None]
                colour.lerp_(cap, snow.clamp_(0, 1)[:, None])
            haze = ((y - 0.46) / 0.4).clamp(0, 1)[None, None, :, None] * 0.4
            self._over(rows, first, last, colour.lerp_(low[:, :, None, None].expand_as(colour), haze), alpha)

    def _water(self) -> None:
        first, last, y = self._rows(HORIZON, 0.92)
        for kind in ("lake", "sea"):
            rows = self._where(water=kind)
            if not rows:
                continue
            fall = ((y - HORIZON) / 0.28)[None, None, :, None]
            far = torch.lerp(self.low[rows], self._tint(rows, (0.62, 0.80, 0.92)), 0.5)[:, :, None, None]
            deep = (0.20, 0.50, 0.70) if kind == "lake" else (0.05, 0.36, 0.56)
            near = torch.lerp(self._tint(rows, deep), self.low[rows], 0.15)[:, :, None, None]
            tint = torch.lerp(far, near, (fall if kind == "lake" else (fall * 2.2).clamp(max=1)))
            ripple = 0.006 * torch.sin(260 * (y - HORIZON) ** 0.8) * (1 + 6 * (y - HORIZON))
            mirrored = ((2 * HORIZON - y + ripple) * self.size).long().clamp(0, first - 1)
            for k, i in enumerate(rows):
                if kind == "lake":
                    self.image[i, :, first:last] = self.image[i][:, mirrored].lerp_(tint[k], 0.22 + 0.38 * fall[0])
                else:
                    self.image[i, :, first:last] = tint[k]
            if kind == "sea":
                self._waves(rows)
            shore = torch.lerp(self.low[rows], torch.ones(3, device=self.device), 0.4)[:, :, None, None]
            edge = (1 - (y - HORIZON).abs() * 260).clamp(0, 1)[None, :, None].expand(len(rows), -1, 1) * 0.7
            self._over(rows, first, last, shore, edge)

    def _waves(self, rows: list[int]) -> None:
        u = self.u[rows]
        for j in range(4):
            level = HORIZON + 0.030 + 0.014 * j * (j + 3) / 2
            scale = 0.45 + 0.22 * j
            phase = u[:, 40 + j, None]
            # cusped crests: |sin| arches, foam on the arch
            line = level - 0.016 * scale * torch.sin(math.pi * (self.axis / (0.075 * scale + 0.02) + phase)).abs()
            first, last, y = self._rows(level - 0.03 * scale, level + 0.012)
            below = y[None, :, None] - line[:, None]
            foam = (0.5 + (0.0028 * (0.6 + scale) - below.abs()) * self.size).clamp(0, 1) * 0.75
            white = torch.lerp(self._tint(rows, (1.0, 1.0, 1.0)), self.low[rows], 0.25)[:, :, None, None]
            self._over(rows, first, last, white, foam)

    def _ground_line(self, x: Tensor) -> Tensor:
        """Height of the near ground at x [k or b, n], for all scenes: [b, n]."""
        u = self.u
        dry = self._t([0.03 if s.water == "no water" else 0.0 for s in self.scenes])[:, None]
        wave = torch.sin(2 * math.pi * ((0.7 + 0.4 * u[:, 46, None]) * x + u[:, 47, None]))
        return GROUND - dry + 0.016 * wave

    def _ground(self) -> None:
        everyone = list(range(len(self.scenes)))
        first, last, y = self._rows(0.78, 1.0)
        line = self._ground_line(self.axis[None])
        depth = y[None, :, None] - line[:, None]
        snowy = self._t([s.weather == "snow" for s in self.scenes])[:, None]
        colour = torch.lerp(self._table(_GROUND, "ridges"), self._t((0.95, 0.97, 1.0)), snowy) * self.ambient
        lit = (1.12 - 2.6 * depth.clamp(0, 0.16))[:, None]
        self._over(everyone, first, last, colour[:, :, None, None] * lit, (0.5 + depth * self.size).clamp(0, 1))

    def _fog(self, strength: float) -> None:
        rows = self._where(weather="fog")
        if rows:
            white = torch.lerp(self.low[rows], self._tint(rows, (0.95, 0.96, 0.98)), 0.5)[:, :, None, None]
            alpha = strength * (0.25 + torch.exp(-(((self.axis - 0.60) / 0.17) ** 2)))
            self._over(rows, 0, self.size, white, alpha.clamp(max=0.9)[None, :, None].expand(len(rows), -1, 1))

    # ---- many small marks: one scatter --------------------------------------------------

    def _marks(self, rows: list[int], centre: Tensor, radius: Tensor, run: tuple[float, float], strength: Tensor) -> Tensor:
        """Coverage [k, size, size] of capsules centred at [k, n, 2] of half-length `run` and `radius` [k, n]."""
        size = self.size
        reach_x = math.ceil((abs(run[0]) + float(radius.max())) * size) + 1
        reach_y = math.ceil((abs(run[1]) + float(radius.max())) * size) + 1
        pixel = (centre * size).long()
        dx = torch.arange(-reach_x, reach_x + 1, device=self.device)
        dy = torch.arange(-reach_y, reach_y + 1, device=self.device)
        px, py = pixel[..., 0, None, None] + dx, pixel[..., 1, None, None] + dy[:, None]
        x = (px + 0.5) / size - centre[..., 0, None, None]
        y = (py + 0.5) / size - centre[..., 1, None, None]
        length = run[0] ** 2 + run[1] ** 2
        along = ((x * run[0] + y * run[1]) / length).clamp(-1, 1) if length else torch.zeros(())
        distance = torch.hypot(x - along * run[0], y - along * run[1]) - radius[..., None, None]
        cover = (0.5 - distance * size).clamp(0, 1) * strength[..., None, None]
        inside = (px >= 0) & (px < size) & (py >= 0) & (py < size)
        flat = (py.clamp(0, size - 1) * size + px.clamp(0, size - 1)).flatten(1)
        mask = torch.zeros(len(rows), size * size, device=self.device)
        mask.scatter_reduce_(1, flat, (cover * inside).flatten(1), "amax")
        return mask.view(len(rows), size, size)

    def _stars(self) -> None:
        rows = self._where(stars="stars")
        if rows:
            f = self.flakes[rows][:, :80]
            radius = 0.0014 + 0.0024 * f[..., 2] ** 3
            place = f[..., :2] * self._t((1.0, 0.46))
            mask = self._marks(rows, place, radius, (0.0, 0.0), 0.45 + 0.55 * f[..., 3])
            self._over(rows, 0, self.size, self._t((0.98, 0.97, 0.90))[None, :, None, None].expand(len(rows), -1, 1, 1), mask)

    def _falling(self) -> None:
        for kind in ("rain", "snow"):
            rows = self._where(weather=kind)
            if not rows:
                continue
            f = self.flakes[rows]
            light = torch.lerp(self._tint(rows, (0.90, 0.95, 1.0)), torch.ones(3, device=self.device), 0.45)[:, :, None, None]
            veil = torch.full((len(rows), 1, 1), 0.10, device=self.device)
            self._over(rows, 0, self.size, self.low[rows][:, :, None, None], veil)
            if kind == "rain":
                mask = self._marks(rows, f[:, :110, :2], 0.0010 + 0.0006 * f[:, :110, 2], (-0.007, 0.026), 0.30 + 0.35 * f[:, :110, 3])
            else:
                mask = self._marks(rows, f[..., :2], 0.0030 + 0.0040 * f[..., 2] ** 2, (0.0, 0.0), 0.7 + 0.3 * f[..., 3])
            self._over(rows, 0, self.size, light, mask)

    # ---- shapes in windows --------------------------------------------------------------

    def _window(self, rows: list[int], x: Tensor, y: Tensor, half: tuple[float, float], scale: Tensor | float = 1.0) -> Window:
        return Window(self.image, rows, x, y, half, scale)

    def _body(self) -> None:
        everyone = list(range(len(self.scenes)))
        radius = self._t([{"sun": 0.052, "full moon": 0.055, "crescent moon": 0.060}[s.body] for s in self.scenes])
        radius = radius * self._t([1.4 if s.time == "sunset" else 1.0 for s in self.scenes])
        dim = self._t([{"clear": 1.0, "rain": 0.55, "snow": 0.65, "fog": 0.65}[s.weather] for s in self.scenes])
        w = self._window(everyone, self.body_x, self.body_y, (0.085, 0.085))
        disc = torch.hypot(w.x, w.y) - radius[:, None, None]
        bite = torch.hypot(w.x + 0.030, w.y + 0.012) - 0.053
        crescent = self._t([s.body == "crescent moon" for s in self.scenes]).bool()[:, None, None]
        w.fill(torch.where(crescent, torch.maximum(disc, -bite), disc), self._table(BODY, "body"), dim)
        w.close()

    def _clouds(self) -> None:
        rows = self._where(clouds="clouds")
        if not rows:
            return
        u, body = self.u[rows], self.body_x[rows]
        left = body < 0.5
        colour = torch.lerp(
            self._table(_CLOUD)[rows], self.low[rows], self._t([0.0 if self.scenes[i].weather == "clear" else 0.35 for i in rows])[:, None]
        )
        for j, (if_left, if_right) in enumerate(((0.52, 0.14), (0.86, 0.46))):
            x = torch.where(left, if_left, if_right) + 0.06 * (u[:, 48 + j] - 0.5)
            y = 0.13 + 0.10 * u[:, 50 + j]
            w = self._window(rows, x, y, (0.16, 0.09), 0.85 + 0.35 * u[:, 52 + j])
            puffs = ((-0.085, -0.008, 0.030), (-0.035, -0.028, 0.046), (0.030, -0.020, 0.038), (0.080, -0.004, 0.026))
            shape = torch.stack([circle(w.x - px, w.y - py, r) for px, py, r in puffs]).amin(0)
            shape = torch.minimum(shape, box(w.x, w.y - 0.008, 0.095, 0.014))
            shape = torch.maximum(shape, w.y - 0.022)
            shade = (0.80 + 0.20 * ((0.03 - w.y) / 0.07).clamp(0, 1))[:, None]
            w.fill(shape, torch.lerp(self.low[rows][:, :, None, None], colour[:, :, None, None], shade), 0.93)
            w.close()

    def _pine(self, rows: list[int], x: Tensor, base: Tensor, height: Tensor, colour: Tensor) -> None:
        w = self._window(rows, x, base - 0.5 * height, (0.34, 0.56), height)
        for top, bottom, width in ((-0.50, -0.12, 0.17), (-0.28, 0.14, 0.235), (-0.04, 0.40, 0.30)):
            reach = width * ((w.y - top) / (bottom - top)).clamp(0, 1)
            w.fill(torch.maximum(0.85 * (w.x.abs() - reach), torch.maximum(w.y - bottom, top - w.y)), colour)
        w.fill(box(w.x, w.y - 0.45, 0.035, 0.06), colour * 0.6)
        w.close()

    def _trees_far(self) -> None:
        rows = self._where(trees="trees")
        colour = torch.lerp(self._tint(rows, (0.16, 0.38, 0.34)), self.low[rows], 0.30)
        for j in range(9 if rows else 0):
            f = self.flakes[rows, 100 + j]
            x = (j + 0.2 + 0.6 * f[:, 0]) / 9
            self._pine(rows, x, HORIZON + 0.006 + 0 * x, 0.065 + 0.035 * f[:, 1], colour)

    def _trees_near(self) -> None:
        for j in range(6):
            f = self.flakes[:, 120 + j]
            x = (j + 0.25 + 0.5 * f[:, 0]) / 6
            clear = [
                i for i in self._where(trees="trees") if self.scenes[i].object == "no object" or abs(float(x[i] - self.object_x[i])) > 0.17
            ]
            if clear:
                base = self._ground_line(x[:, None])[clear, 0] + 0.03 + 0.05 * f[clear, 2]
                self._pine(clear, x[clear], base, 0.15 + 0.06 * f[clear, 1], self._tint(clear, (0.09, 0.27, 0.22)))

    def _sailboat(self, x: Tensor) -> None:
        rows = self._where(object="sailboat")
        if not rows:
            return
        w = self._window(rows, x[rows], 0.66 + 0.02 * self.u[rows, 54], (0.16, 0.19))

        def t(r: float, g: float, b: float) -> Tensor:
            return self._tint(rows, (r, g, b))

        y = w.y - 0.12
        hull = convex(w.x, y, ((-0.115, 0.0), (0.125, 0.0), (0.085, 0.045), (-0.085, 0.045)))
        w.fill(box(w.x, y + 0.135, 0.0045, 0.135), t(0.30, 0.20, 0.16))
        w.fill(convex(w.x, y, ((0.012, -0.255), (0.110, -0.018), (0.012, -0.018))), t(1.0, 0.97, 0.90))
        w.fill(convex(w.x, y, ((-0.012, -0.225), (-0.012, -0.018), (-0.090, -0.018))), t(0.90, 0.26, 0.20))
        w.fill(hull, t(0.50, 0.24, 0.16))
        w.fill(torch.maximum(hull, y - 0.012), t(0.95, 0.90, 0.80))
        w.close()

    def _buildings(self, x: Tensor) -> None:
        for kind, draw in (("cabin", cabin), ("lighthouse", lighthouse), ("castle", castle), ("windmill", windmill)):
            rows = self._where(object=kind)
            if rows:
                base = self._ground_line(x[:, None])[rows, 0] + 0.02
                w = self._window(rows, x[rows], base - 0.16, (0.20, 0.20), 0.95 + 0.15 * self.u[rows, 55])
                glow = self._t([1.0 if self.scenes[i].time in ("night", "sunset") else 0.0 for i in rows])[:, None]
                lamp = torch.lerp(self._tint(rows, (0.72, 0.86, 0.95)), self._t((1.0, 0.86, 0.42)), glow)
                draw(w, lambda *rgb, rows=rows: self._tint(rows, rgb), lamp, self.u[rows, 56])
                w.close()
