"""Device profiles: seconds of every stage and powers of one machine, with where each figure comes from.

A profile is a JSON file; `megen profile` measures one. Those in `assets/profiles/` are known by name.
"""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from megen.errors import InputError
from megen.files import read_text, write_json
from megen.types import Decision

SERVER, PHONE = "cpu", "phone"  # the bundled ones that are taken where none is named
MAIN_V0 = "main-v0-cpu", "main-v0-phone"  # of the benchmark `megen/Main-v0`, whose tables stay as they are
LONG_RUN = "long-run-cpu", "long-run-phone"  # of the benchmark `megen/LongRun-v0`, whose tables stay as long as the quality grid does
ASSETS = Path(__file__).parents[1] / "assets" / "profiles"
SECONDS = (
    "text_s",
    "step_s",
    "refine_s",
    "merge_s",
    "code_s",
    "code_first_s",
    "arrive_s",
    "arrive_last_s",
    "decode_s",
    "clean_s",
    "decode_torch_s",
)
COMPARED = "step_gflop", "refine_gflop", "decode_gflop"  # other ones, and the figures are of other networks
FLOPS = *COMPARED, "text_gflop"
MOST = 1e9  # of any figure
EARLIER = 0.58  # of a payload's bits, in its parts but the last
BUSY = 0.25  # load a core from which on other work makes seconds too long
SAME_FLOPS = 0.1  # relative: more apart, and the figures are of other networks (PyTorch counts attention on some devices alone, 5 %)
BY_ITSELF = "this machine, measured by itself"  # the name of a profile that nobody asked for


class ProfileError(InputError):
    """A device profile that is missing or broken."""


@dataclass(frozen=True)
class DeviceProfile:
    """What one machine takes for each stage of a generation; `assumed` names the fields that nobody measured."""

    name: str
    source: str
    backbone: str  # whose stages these are
    text_s: float  # one prompt, once for each guidance pass
    step_s: float  # one denoising step of one image, guidance counted
    merge_s: float
    code_s: float
    arrive_s: float  # received bits to rows and map
    decode_s: float  # rows and map to an image, by onnxruntime, of features that need no cleaning
    decode_torch_s: float  # the same in torch; no cost is made of it
    step_gflop: float
    decode_gflop: float  # without the restorer
    power_w: float  # while it works
    spread: float = 0.0  # of a stage's seconds around their mean, relative; 0 where nobody measured it
    batch_fixed: float = 0.0  # share of a step's seconds that a batch pays once, whatever its rows; 0 where nobody measured it
    load: float = 0.0  # other work on the machine just before it was measured, in processes a core; 0 where nobody asked
    clean_s: float = 0.0  # the phone's denoiser before, where features are merged or coarse; 0 where there is none, or it is in decode_s
    fine_bits: float = 0.0  # the coarsest quantiser whose features need no cleaning, in bits
    code_first_s: float = 0.0  # of code_s, until the first parts can leave: header, map and base; 0 where nobody measured it
    arrive_last_s: float = 0.0  # of arrive_s, what is left to do when the last part arrives; 0 where nobody measured it
    refine_s: float = 0.0  # of one image, by the refiner after its last step; 0 where there is none
    refine_gflop: float = 0.0  # of the same
    text_gflop: float = 0.0  # 0 where nobody counted; merging and coding run in NumPy, whose operations nothing counts
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*SECONDS, "spread", "batch_fixed", "load", "fine_bits", *FLOPS, "power_w"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
                raise ProfileError(f"{name} must be a number in [0, {MOST:g}], got {value!r}")
        if self.batch_fixed >= 1:
            raise ProfileError(f"batch_fixed must be below 1, got {self.batch_fixed!r}")
        for name in ("name", "source", "backbone"):
            if not isinstance(getattr(self, name), str):
                raise ProfileError(f"{name} must be a text, got {getattr(self, name)!r}")

    def batch_step_s(self, rows: float) -> float:
        """Seconds of one denoising step of a batch of so many rows."""
        return self.step_s * (self.batch_fixed + (1 - self.batch_fixed) * rows)

    def batch_refine_s(self, rows: float) -> float:
        """Seconds of refining so many rows at once, by the rule of a step."""
        return self.refine_s * (self.batch_fixed + (1 - self.batch_fixed) * rows) if rows else 0.0

    @property
    def beside_s(self) -> float:
        """Seconds of an image at the edge server beside its net's: text + merge + code."""
        return self.text_s + self.merge_s + self.code_s

    def es_s(self, steps: int, rows: int = 1) -> float:
        """Seconds that an image takes at the edge server, in batches of so many rows: text + steps + refine + merge + code."""
        return self.text_s + steps * self.batch_step_s(rows) + self.batch_refine_s(rows) + self.merge_s + self.code_s

    def es_share_s(self, steps: int, rows: int = 1) -> float:
        """Seconds that the edge server works on one image: of a batch of so many rows its share."""
        return self.es_s(0) + (self.es_s(steps, rows) - self.es_s(0)) / rows

    @property
    def code_beside_s(self) -> float:
        """Seconds of coding that can run while earlier parts cross; 0 where nobody measured it."""
        return max(self.code_s - self.code_first_s, 0.0) if self.code_first_s else 0.0

    @property
    def arrive_beside_s(self) -> float:
        """Seconds of receiving that can run while later parts cross; 0 where nobody measured it."""
        return max(self.arrive_s - self.arrive_last_s, 0.0) if self.arrive_last_s else 0.0

    def scaled(self, factor: float, spread: float, source: str) -> DeviceProfile:
        """The same machine with `factor` times the seconds, and another spread of them. Errors: ProfileError on what cannot be."""
        return replace(self, **{name: factor * getattr(self, name) for name in SECONDS}, spread=spread, source=source)

    def ue_s(self, decision: Decision | None = None) -> float:
        """Seconds that the user equipment works on one image; None: on one whose features need no cleaning."""
        cleaned = decision is not None and (decision.merge_ratio > 0 or decision.quantiser_bits < self.fine_bits)
        return self.arrive_s + self.decode_s + self.clean_s * cleaned


def overlap_s(server: DeviceProfile, phone: DeviceProfile, air_s: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Seconds of coding, and of receiving, that run while the parts of a payload cross for `air_s`: at most those of all but the last."""
    earlier_s = EARLIER * np.asarray(air_s, float)
    return np.asarray(np.minimum(earlier_s, server.code_beside_s) + np.minimum(earlier_s, phone.arrive_beside_s))


def save(profile: DeviceProfile, path: Path, about: dict[str, Any]) -> None:
    """Write a profile as JSON, its provenance under `made_by`."""
    write_json(path, {**asdict(profile), "made_by": about})


def cached() -> Path:
    """Where `megen profile` keeps this machine's own profile."""
    return Path(platformdirs.user_cache_dir("megen")) / "profile.json"


def this_machine() -> DeviceProfile | None:
    """This machine's own profile, where it was measured with the bundled backbone. Errors: ProfileError where the file is broken."""
    own = load(str(cached())) if cached().is_file() else None
    return own if own is not None and own.backbone == load(SERVER).backbone else None


@functools.cache
def load_a_core() -> float:
    """Processes a core that ran or waited for one in the minute before this process first asked; 0 where the system does not say."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0


def to_measure() -> str:
    """Why this machine should be measured, for the bundled backbone; empty where its own profile is as good as one can be now."""
    if not cached().is_file():
        return "for auto to decide by"
    try:
        own = load(str(cached()))
    except ProfileError:
        return ""  # whoever reads it says so
    if own.backbone != load(SERVER).backbone:
        return "again, as its profile is of another backbone"
    if of_other_weights(own):
        return "again, as its profile is of other weights"
    if own.name == BY_ITSELF and not own.fine_bits and load(SERVER).fine_bits:
        return "again, as its profile does not tell what cleaning takes"
    if own.name == BY_ITSELF and not own.code_first_s and load(SERVER).code_first_s:
        return "again, as its profile does not tell what can run while parts cross"
    return "again, as it was busy the last time" if own.name == BY_ITSELF and own.load > BUSY >= load_a_core() else ""


def of_other_weights(profile: DeviceProfile) -> bool:
    """Whether a profile of the bundled backbone was measured with other networks than today's, by their FLOPs."""
    usual = load(SERVER)
    pairs = [(getattr(profile, name), getattr(usual, name)) for name in COMPARED]
    return profile.backbone == usual.backbone and not all(math.isclose(*pair, rel_tol=SAME_FLOPS) for pair in pairs)


def cautions(measured: DeviceProfile | None) -> list[str]:
    """What whoever takes this machine's seconds from `this_machine()` should say of them."""
    mend = "megen profile measures it"
    if measured is None:
        return [f"no profile of this machine yet: its seconds are taken from bundled profiles; {mend}"]
    if of_other_weights(measured):
        return [f"this machine's profile is of other weights, whose networks are larger or smaller; {mend} again"]
    if measured.load > BUSY:
        return [f"this machine was busy when it was measured (load {measured.load:.1f} a core) and may be faster; {mend} again"]
    return []


def bundled(reward: str) -> tuple[str, str]:
    """The names of the profiles of server and phone of the benchmark with a reward: the source's is `megen/Main-v0`."""
    return MAIN_V0 if reward == "reference" else LONG_RUN


def load(name_or_path: str) -> DeviceProfile:
    """A bundled profile by name, or one from a file. Errors: ProfileError."""
    known = {p.stem: p for p in sorted(ASSETS.glob("*.json"))}
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        listing = f"one of {', '.join(known)}, or " if known else ""
        raise ProfileError(f"no device profile {name_or_path!r}: give {listing}a file that megen profile wrote")
    try:
        values_ = json.loads(read_text(path))
        names = {f.name for f in fields(DeviceProfile)}
        values: dict[str, Any] = {k: tuple(v) if k == "assumed" else v for k, v in values_.items() if k in names}
        return DeviceProfile(**values)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProfileError(f"{path} is not a device profile ({error}): write it with megen profile") from error
