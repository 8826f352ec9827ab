"""The measured quality grid: what every decision costs in distortion, bits and airtime, by prompt class and SNR.

`megen measure` makes it by running a backbone; the constrained MDP reads it. Modelled by the digital link abstraction
(`link/digital.py`): the airtime of the measured payloads at 1 MHz, and which of their parts a link loses, hence `delivered` and how
`log_mse` and `seen` depend on the SNR. An image that never arrives counts as a grey one, and with the airtime that it spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megen.cost.device_profile import DeviceProfile
from megen.files import read_npz, write_npz
from megen.types import QUANTISER_BITS, Decision, InputError
from megen.words import words as words_of

Array = NDArray[np.float64]
FORMATS = "megen-quality-3", "megen-quality-2"  # the second has neither quantisers nor what is seen
ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = ASSETS / "quality.npz"
MAIN_V0 = ASSETS / "quality-main-v0.npz"  # of the benchmark `megen/Main-v0`, whose tables stay as they are
CLEAN_DB = (36.2, 49.1)  # PSNR of a coded picture to what was made
SHARP = (0.22, 0.81)  # sharpness of a blurred picture over its original's
REWARDS = ("seen", "reference", "attributes")
OPTIONAL = ("fidelity", "fidelity_error", "sharpness", "clean", "seen", "seen_error")


# where each array has its codings
CODING_AXIS = dict.fromkeys(("merge_ratios", "quantiser_bits", "delivered"), 0) | dict.fromkeys(("airtime_s",), 1)
CODING_AXIS |= dict.fromkeys(("log_mse", "log_mse_error", "fidelity", "fidelity_error", "payload_bits", "airtime_draws_s"), 2)
CODING_AXIS |= dict.fromkeys(("clean", "seen", "seen_error"), 2)


class QualityError(InputError):
    """A file that holds no quality grid of this version."""


@dataclass(frozen=True)
class QualityGrid:
    """Means over held-out prompts; axes: P prompt classes, N step counts, M codings, G SNRs, K equiprobable values, H prompts of
    half a class. A coding is a merge ratio with a quantiser.

    `log_mse` is the mean of ln MSE to the reference image (pixels in [0, 1]; same seed, most steps, no merging, no
    link), `fidelity` the share of named attributes that the judge finds, None where there is no judge of such pictures, `sharpness` the
    second-finest octave of what was made over the reference's, `clean` the `opinion` of coding and losses. `seen` is the mean over prompts
    of fidelity x opinion of sharpness x clean. Their `_error` are standard errors.
    """

    steps: NDArray[np.int64]  # [N]
    merge_ratios: Array  # [M]
    quantiser_bits: Array  # [M]
    snr_db: Array  # [G]
    log_mse: Array  # [P, N, M, G]
    log_mse_error: Array
    fidelity: Array | None  # [P, N, M]
    fidelity_error: Array | None
    payload_bits: Array  # [P, N, M]
    airtime_s: Array  # [P, M, G, K], modelled; retransmissions counted
    airtime_draws_s: Array  # [2, P, M, G, H]: one transmission of each prompt of two halves, to calibrate on and to test with
    delivered: Array  # [M, G]
    counts: NDArray[np.int64]  # [P] prompts
    word_weights: Array  # [V]: how much harder a word makes a prompt, in ln MSE
    class_edges: Array  # [P - 1]
    words: tuple[str, ...]  # [V]
    about: dict[str, Any]  # commit, device, command, how the classes were drawn
    sharpness: Array | None = None  # [P, N]
    clean: Array | None = None  # [P, N, M, G]
    seen: Array | None = None  # [P, N, M, G]
    seen_error: Array | None = None

    def __post_init__(self) -> None:
        _check(self)
        _check_ranges(self)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions, steps outermost."""
        codings = list(zip(self.merge_ratios.tolist(), self.quantiser_bits.tolist(), strict=True))
        return tuple(Decision(int(n), *coding) for n in self.steps for coding in codings)

    def reward(self, kind: str) -> Array:
        """What a request earns [P, N, M, G]: what is seen, -ln MSE to the reference, or the share of named attributes that come out
        right. Errors: QualityError on another kind, and where the grid does not hold it.
        """
        if kind == "reference":
            return -self.log_mse
        if kind not in REWARDS:
            raise QualityError(f"the reward must be one of {', '.join(REWARDS)}, got {kind!r}")
        if kind == "attributes" and self.fidelity is not None:
            return np.asarray(self.fidelity[..., None] * self.delivered)
        if kind == "seen" and self.seen is not None:
            return self.seen
        lacks = "what is seen" if kind == "seen" else "how many attributes come out right"
        raise QualityError(
            f"this quality grid does not say {lacks}: take the reward 'reference', or a grid that was judged (megen measure)"
        )

    def with_quantisers(self, bits: Sequence[float]) -> QualityGrid:
        """The grid of the codings with some quantisers alone; none: all. Errors: QualityError where it has none of them."""
        kept = np.flatnonzero(np.isin(self.quantiser_bits, bits)) if len(bits) else np.arange(len(self.quantiser_bits))
        if not len(kept):
            have = ", ".join(f"{x:g}" for x in sorted(set(self.quantiser_bits.tolist())))
            raise QualityError(f"this quality grid has the quantisers of {have} bits, not {', '.join(f'{x:g}' for x in bits)}")
        if len(kept) == len(self.quantiser_bits):
            return self
        held = {name: (getattr(self, name), axis) for name, axis in CODING_AXIS.items()}
        taken: dict[str, Any] = {name: np.take(value, kept, axis) for name, (value, axis) in held.items() if value is not None}
        return replace(self, **taken)

    @property
    def classes(self) -> int:
        return len(self.counts)

    def prompt_class(self, prompt: str) -> int:
        """0 (plain) to P - 1 (hard to compress), from the prompt's words alone."""
        return int(np.searchsorted(self.class_edges, float(bag_of_words([prompt], self.words)[0] @ self.word_weights)))


def bundled(reward: str) -> Path:
    """The file of the grid that is bundled for a reward: the source's has the tables of `megen/Main-v0`."""
    return MAIN_V0 if reward == "reference" else BUNDLED


def opinion(values: Array, worst_and_best: tuple[float, float]) -> Array:
    """Values on a scale of opinions: 0 at "bad", 1 from where on an observer who sees picture and original side by side notices nothing.

    Those are SSIMULACRA 2 scores of 10 and 80, measured by `experiments/seen_quality`; linear between them, as the scores about are.
    """
    worst, best = worst_and_best
    out: Array = np.clip((values - worst) / (best - worst), 0, 1)
    return out


def check_same_backbone(grid: QualityGrid, server: DeviceProfile, phone: DeviceProfile) -> None:
    """Refuse figures of unlike backbones. Errors: InputError."""
    names = {server.backbone, phone.backbone, str(grid.about.get("backbone", server.backbone))}
    if len(names) > 1:
        raise InputError(
            f"grid and profiles are of unlike backbones: {', '.join(sorted(names))};"
            " megen profile --backbone measures one, for --server and --phone"
        )


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
    header = {"format": FORMATS[0], "words": grid.words, "about": grid.about}
    write_npz(path, header, {name: value for name, value in arrays.items() if value is not None})


def load(path: Path | None = None) -> QualityGrid:
    """Read a grid, the bundled one where no path is given. Errors: QualityError where the file is missing, broken or not one of these."""
    path = path or BUNDLED
    if not path.is_file():
        raise QualityError(f"no quality grid at {path}: make one with megen measure")
    try:
        header, arrays = read_npz(path, *FORMATS)
        arrays.setdefault("quantiser_bits", np.full(len(arrays["merge_ratios"]), QUANTISER_BITS))
        known: dict[str, Any] = {f.name: arrays.get(f.name) for f in fields(QualityGrid) if f.name not in ("words", "about")}
        return QualityGrid(**known, words=tuple(header["words"]), about=header["about"])
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise QualityError(f"{path} is not a whole quality grid ({error}): make it again with megen measure") from error


def _check(grid: QualityGrid) -> None:
    axes = (("steps", 1), ("merge_ratios", 0), ("quantiser_bits", 0), ("snr_db", -np.inf), ("counts", 0), ("class_edges", -np.inf))
    for axis, least in axes:
        value = getattr(grid, axis)
        if value.ndim != 1 or value.dtype.kind not in "iuf" or not (np.isfinite(value) & (value >= least)).all():
            raise QualityError(f"{axis} must be a row of finite numbers, none below {least}")
    p, n, m, g = len(grid.counts), len(grid.steps), len(grid.merge_ratios), len(grid.snr_db)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("log_mse", "log_mse_error", "clean", "seen", "seen_error"), (p, n, m, g))
    shapes |= dict.fromkeys(("fidelity", "fidelity_error", "payload_bits"), (p, n, m))
    shapes |= {
        "sharpness": (p, n),
        "quantiser_bits": (m,),
        "delivered": (m, g),
        "class_edges": (p - 1,),
        "word_weights": (len(grid.words),),
    }
    for name, shape in shapes.items():
        value = getattr(grid, name)
        if value is None and name in OPTIONAL:
            continue
        if value.shape != shape:
            raise QualityError(f"{name} has the shape {value.shape}, expected {shape}")
        if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise QualityError(f"{name} holds values that are not finite numbers")
    for name, shape, last in (("airtime_s", (p, m, g), "quantiles"), ("airtime_draws_s", (2, p, m, g), "transmissions")):
        value = getattr(grid, name)
        if value.shape[:-1] != shape or value.dtype.kind not in "iuf" or not (np.isfinite(value) & (value > 0)).all():
            raise QualityError(f"{name} must be positive, of shape {shape} and {last}")


def _check_ranges(grid: QualityGrid) -> None:
    """Shares beyond [0, 1], payloads of no bits and axes that do not rise are refused. Errors: QualityError."""
    for name in ("fidelity", "clean", "seen", "delivered"):
        value = getattr(grid, name)
        if value is not None and not ((value >= 0) & (value <= 1)).all():
            raise QualityError(f"{name} must lie in [0, 1]")
    if not (grid.payload_bits > 0).all():
        raise QualityError("payload_bits must be positive")
    if not (np.diff(grid.class_edges) >= 0).all() or not all((np.diff(axis) > 0).all() for axis in (grid.steps, grid.snr_db)):
        raise QualityError("steps, snr_db and class_edges must rise")
