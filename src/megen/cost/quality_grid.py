"""The measured quality grid: what every decision costs in distortion, bits and airtime, by prompt class and SNR.

`megen measure` makes it by running a backbone; the constrained MDP reads it. Modelled by the digital link abstraction
(`link/digital.py`): the airtime of the measured payloads at 1 MHz, and which of their parts a link loses, hence `delivered` and how
`log_mse` depends on the SNR. An image that never arrives counts as a grey one, and with the airtime that it spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.cost.device_profile import DeviceProfile
from megen.files import read_npz, write_npz
from megen.types import Decision, InputError
from megen.words import words as words_of

Array = NDArray[np.float64]
FORMAT = "megen-quality-2"
BUNDLED = Path(__file__).parents[1] / "assets" / "quality.npz"


class QualityError(InputError):
    """A file that holds no quality grid of this version."""


@dataclass(frozen=True)
class QualityGrid:
    """Means over held-out prompts; axes: P prompt classes, N step counts, R merge ratios, G SNRs, K equiprobable values,
    H prompts of half a class.

    `log_mse` is the mean of ln MSE to the reference image (pixels in [0, 1]; same seed, most steps, no merging, no
    link), `fidelity` the share of named attributes that the judge finds. Their `_error` are standard errors.
    """

    steps: NDArray[np.int64]  # [N]
    merge_ratios: Array  # [R]
    snr_db: Array  # [G]
    log_mse: Array  # [P, N, R, G]
    log_mse_error: Array
    fidelity: Array  # [P, N, R]
    fidelity_error: Array
    payload_bits: Array  # [P, N, R]
    airtime_s: Array  # [P, R, G, K], modelled; retransmissions counted
    airtime_draws_s: Array  # [2, P, R, G, H]: one transmission of each prompt of two halves, to calibrate on and to test with
    delivered: Array  # [R, G]
    counts: NDArray[np.int64]  # [P] prompts
    word_weights: Array  # [V]: how much harder a word makes a prompt, in ln MSE
    class_edges: Array  # [P - 1]
    words: tuple[str, ...]  # [V]
    about: dict[str, Any]  # commit, device, command, how the classes were drawn

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions, steps outermost."""
        return tuple(Decision(int(n), float(r)) for n in self.steps for r in self.merge_ratios)

    @property
    def classes(self) -> int:
        return len(self.counts)

    def prompt_class(self, prompt: str) -> int:
        """0 (plain) to P - 1 (hard to compress), from the prompt's words alone."""
        return int(np.searchsorted(self.class_edges, float(bag_of_words([prompt], self.words)[0] @ self.word_weights)))


def check_same_backbone(grid: QualityGrid, server: DeviceProfile, phone: DeviceProfile) -> None:
    """Refuse figures of unlike backbones. Errors: InputError."""
    names = {server.backbone, phone.backbone, str(grid.about.get("backbone", server.backbone))}
    if len(names) > 1:
        raise InputError(f"grid and profiles are of unlike backbones: {', '.join(sorted(names))}")


def bag_of_words(prompts: Sequence[str], words: Sequence[str]) -> Array:
    """1 where a prompt [n] holds a word [v], else 0."""
    held = [set(words_of(p)) for p in prompts]
    return np.array([[w in there for w in words] for there in held], float).reshape(len(prompts), len(words))


def hardness_weights(bag: Array, log_mse: Array, ridge: float = 4.0) -> Array:
    """Weight of each word [v] in a ridge regression of the prompts' mean ln MSE [n] on their bags of words [n, v]."""
    x, y = bag - bag.mean(0), log_mse - log_mse.mean()
    out: Array = np.linalg.solve(x.T @ x + ridge * np.eye(bag.shape[1]), x.T @ y)
    return out


def save(grid: QualityGrid, path: Path) -> None:
    """Write a grid as npz, its words and provenance as JSON in it."""
    arrays = {f.name: getattr(grid, f.name) for f in fields(grid) if f.name not in ("words", "about")}
    write_npz(path, {"format": FORMAT, "words": grid.words, "about": grid.about}, arrays)


def load(path: Path | None = None) -> QualityGrid:
    """Read a grid, the bundled one where no path is given. Errors: QualityError where the file is missing, broken or not one of these."""
    path = path or BUNDLED
    if not path.is_file():
        raise QualityError(f"no quality grid at {path}: make one with megen measure")
    try:
        header, arrays = read_npz(path, FORMAT)
        known = {f.name: arrays[f.name] for f in fields(QualityGrid) if f.name not in ("words", "about")}
        return QualityGrid(**known, words=tuple(header["words"]), about=header["about"])
    except (InputError, LookupError, TypeError, ValueError) as error:
        raise QualityError(f"{path} is not a whole quality grid ({error}): make it again with megen measure") from error


def _check(grid: QualityGrid) -> None:
    for axis, least in (("steps", 1), ("merge_ratios", 0), ("snr_db", -np.inf), ("counts", 0), ("class_edges", -np.inf)):
        value = getattr(grid, axis)
        if value.ndim != 1 or value.dtype.kind not in "iuf" or not (np.isfinite(value) & (value >= least)).all():
            raise QualityError(f"{axis} must be a row of finite numbers, none below {least}")
    p, n, r, g = len(grid.counts), len(grid.steps), len(grid.merge_ratios), len(grid.snr_db)
    shapes = {"log_mse": (p, n, r, g), "log_mse_error": (p, n, r, g), "fidelity": (p, n, r), "fidelity_error": (p, n, r)}
    shapes |= {"payload_bits": (p, n, r), "delivered": (r, g), "class_edges": (p - 1,), "word_weights": (len(grid.words),)}
    for name, shape in shapes.items():
        value = getattr(grid, name)
        if value.shape != shape:
            raise QualityError(f"{name} has the shape {value.shape}, expected {shape}")
        if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise QualityError(f"{name} holds values that are not finite numbers")
    for name, shape, last in (("airtime_s", (p, r, g), "quantiles"), ("airtime_draws_s", (2, p, r, g), "transmissions")):
        value = getattr(grid, name)
        if value.shape[:-1] != shape or value.dtype.kind not in "iuf" or not (np.isfinite(value) & (value > 0)).all():
            raise QualityError(f"{name} must be positive, of shape {shape} and {last}")
