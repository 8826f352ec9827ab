"""Device profiles: seconds of every stage and powers of one machine, with where each figure comes from.

A profile is a JSON file; `megen profile` measures one. Those in `assets/profiles/` are known by name.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megen.files import write_text

ASSETS = Path(__file__).parents[1] / "assets" / "profiles"
SECONDS = ("text_s", "step_s", "merge_s", "code_s", "arrive_s", "decode_s", "decode_torch_s")


class ProfileError(ValueError):
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
    decode_s: float  # rows and map to an image, by onnxruntime
    decode_torch_s: float  # the same in torch; no cost is made of it
    step_gflop: float
    decode_gflop: float  # without the restorer
    power_w: float  # while it works
    text_gflop: float = 0.0  # 0 where nobody counted; merging and coding run in NumPy, whose operations nothing counts
    assumed: tuple[str, ...] = ()

    def es_s(self, steps: int) -> float:
        """Seconds that the edge server works on one image: text + steps * step + merge + code."""
        return self.text_s + steps * self.step_s + self.merge_s + self.code_s

    def ue_s(self) -> float:
        """Seconds that the user equipment works on one image."""
        return self.arrive_s + self.decode_s


def save(profile: DeviceProfile, path: Path, about: dict[str, Any]) -> None:
    """Write a profile as JSON, its provenance under `made_by`."""
    write_text(path, json.dumps({**asdict(profile), "made_by": about}, indent=2) + "\n")


def load(name_or_path: str) -> DeviceProfile:
    """A shipped profile by name, or one from a file. Errors: ProfileError."""
    shipped = {p.stem: p for p in sorted(ASSETS.glob("*.json"))}
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        known = f"one of {', '.join(shipped)}, or " if shipped else ""
        raise ProfileError(f"no device profile {name_or_path!r}: give {known}a file that megen profile wrote")
    try:
        told = json.loads(path.read_text())
        names = {f.name for f in fields(DeviceProfile)}
        values: dict[str, Any] = {k: tuple(v) if k == "assumed" else v for k, v in told.items() if k in names}
        profile = DeviceProfile(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ProfileError(f"{path} is not a device profile ({error}): write it with megen profile") from error
    for name in (*SECONDS, "text_gflop", "step_gflop", "decode_gflop", "power_w"):
        value = getattr(profile, name)
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ProfileError(f"{path}: {name} must be a number that is not negative, got {value!r}")
    return profile
