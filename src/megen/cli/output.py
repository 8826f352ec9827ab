"""What commands share: where pictures go, and how results are shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF")


def picture_format(path: Path) -> str:
    """The picture format of a file's ending, PNG where there is none. Errors: InputError."""
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower(), "") if path.suffix else "PNG"
    if kind not in PICTURE_FORMATS:
        raise InputError(f"no picture can be written as {path.suffix}: use .png, .jpg, .webp, .avif, .bmp or .tiff")
    return kind


def save_image(image: np.ndarray, path: Path) -> None:
    """Write an image [H, W, 3] whole, in the format of the file's ending."""
    from PIL import Image

    from megen.files import replacing

    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format=picture_format(path))


def say(message: str) -> None:
    """One line on stderr."""
    print(f"megen: {message}", file=sys.stderr)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned text columns, a header line first."""
    cells = [[*columns], *([_cell(row.get(c)) for c in columns] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join(
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))) for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def refuse(args: argparse.Namespace, options: Sequence[str], why: str) -> None:
    """Refuse options that were given although they cannot act. Errors: InputError."""
    for option in options:
        if getattr(args, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} {why}")


def bounded(option: str, value: float | None, low: float, high: float) -> None:
    """Refuse an option outside its bounds. Errors: InputError."""
    if value is not None and not low <= value <= high:  # also refuses NaN
        raise InputError(f"{option} must lie in [{low:g}, {high:g}], got {value:g}")
