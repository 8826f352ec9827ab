"""Files appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place when the block ends well.

    A symbolic link is followed, the file's mode follows the umask, and nothing stays after a failure.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse, before any work, a place where no ordinary file can be written. Errors: ValueError."""
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe: name an ordinary file")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} to write {path.name} into: make it first")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable: choose another place for {path.name}")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def emit(found: Mapping[str, Any], target: str) -> None:
    """One JSON object to a file, or in one line to stdout where `target` is "-"; what is no number becomes null."""
    text = json.dumps(_finite(found), indent=2 if target != "-" else None) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_text(Path(target), text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
