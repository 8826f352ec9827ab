"""Files appear whole or not at all; one reader of text, one writer of JSON."""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megen.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place when the block ends well.

    A symbolic link is followed, a file that is replaced keeps its mode, and nothing stays after a failure.
    Errors: InputError where the file is read-only.
    """
    target = path.resolve()
    _check_not_read_only(target)
    temporary = _beside(target)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    # a new file's mode is the umask's to say; what replaces a private file is private from its first byte
    opened = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode & 0o600)
    try:
        mode = stat.S_IMODE(os.fstat(opened).st_mode) if mode is None else mode
        os.close(opened)
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse, before any work, a place where no ordinary file can be written: an empty one is made there and removed.

    Errors: InputError.
    """
    try:
        target = path.resolve()  # where a symbolic link leads
        with suppress(FileNotFoundError):
            target.stat()  # refuses a name that is too long
        if target.is_dir():
            raise InputError(f"{path} is a folder: name a file in it")
        if target.exists() and not target.is_file():
            raise InputError(f"{path} is a device or a pipe: name an ordinary file")
        if not target.parent.is_dir():
            raise InputError(f"there is no folder {target.parent} to write {target.name} into: make it first")
        _check_not_read_only(target)
        temporary = _beside(target)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.unlink()
    except (OSError, RuntimeError) as error:  # a RuntimeError: links that lead in a circle
        raise InputError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): choose another place or name") from error


def _beside(target: Path) -> Path:
    """A temporary name in the same folder and of the same ending, no longer than any name may be."""
    return target.with_name(f".{os.urandom(8).hex()}.tmp{target.suffix[:16]}")


def _check_not_read_only(path: Path) -> None:
    # the mode is asked as well: to root every file is writable
    if path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        raise InputError(f"{path} is read-only: choose another place, or make it writable")


def read_text(path: Path) -> str:
    """A text file's text: UTF-8, or UTF-16 where its first bytes say so. Errors: InputError naming file and encoding."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    encoding, name = ("utf-16", "UTF-16") if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ("utf-8-sig", "UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not {name} text (byte {error.start}): save it as UTF-8") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of plain values, NumPy scalars and arrays; NaN and infinity become null, so that every parser reads it."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write one JSON value to a file, whole."""
    write_text(path, to_json(value, indent) + "\n")


def emit(value: Mapping[str, Any], target: str) -> None:
    """One JSON object to a file, or in one line to stdout where `target` is "-"."""
    if target == "-":
        sys.stdout.write(to_json(value) + "\n")
    else:
        write_json(Path(target), value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without importing it
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_npz(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and a JSON header as one compressed npz."""
    import numpy as np  # the command line starts without it

    members: dict[str, Any] = {"header": np.array(to_json(header)), **arrays}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **members)


def read_npz(path: Path, *expected: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of an npz whose header names one of the formats `expected`. Errors: InputError on any other file."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header" if "header" in file else "told"]))  # the first version's name
            if header["format"] not in expected:
                raise KeyError(f"format {header['format']}")
            return header, {name: file[name] for name in file.files}
    except Exception as error:  # NumPy, zipfile and json raise classes of their own for each kind of damage
        raise InputError("no zip file" if "pickle" in str(error) else str(error)) from error
