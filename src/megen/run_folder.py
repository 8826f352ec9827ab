"""A folder that a run may be resumed in: one mark says by which recipe, one lock says that a run is at work in it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megen.errors import InputError
from megen.files import read_text, to_json, write_json, write_text

MARK, LOCK = "recipe.json", ".lock"
SHOWN = 5  # differences that an error names
RESULTS = (".json", ".npz", ".safetensors")  # what runs leave

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def kept(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """The JSON value that `folder` holds by this name, else what `make` gives, put there. None: made, and kept nowhere.

    Errors: InputError where the file is damaged.
    """
    value = found(folder, name)
    if value is None:
        text = to_json(make())
        if folder is not None:
            write_text(folder / f"{name}.json", text + "\n")
        value = json.loads(text)
    return value


def found(folder: Path | None, name: str) -> Any:
    """The JSON value that `folder` holds by this name, or None. Errors: InputError where the file is damaged."""
    if folder is None or not (folder / f"{name}.json").is_file():
        return None
    try:
        return json.loads(read_text(folder / f"{name}.json"))
    except json.JSONDecodeError as error:
        raise InputError(f"{folder / name}.json is damaged ({error}): remove it") from error


@contextmanager
def held(folder: Path | None, recipe: Mapping[str, Any], mark: str = MARK) -> Iterator[None]:
    """Hold `folder` (made where there is none) for a run of `recipe`, which its first run writes to the file `mark`. None: nothing is held.

    The operating system frees the lock when the process ends, however it ends.
    Errors: InputError where another run holds the folder, or where its recipe is another (the first differences are named) or unknown.
    """
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): name another folder") from error
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{folder} is not writable ({error.strerror}): name another folder") from error
    try:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            raise InputError(f"another run is at work in {folder}: wait for it, or name another folder") from error
        _check(folder / mark, recipe)
        yield
    finally:
        os.close(file)


def _check(mark: Path, recipe: Mapping[str, Any]) -> None:
    if not mark.exists():
        left = sorted(path.name for path in mark.parent.iterdir() if path.suffix in RESULTS and path.is_file())
        if left:
            raise InputError(f"{mark.parent} holds {left[0]} but no {mark.name}, so nobody knows by which recipe: name another folder")
        write_json(mark, recipe)
        return
    try:
        recorded = json.loads(read_text(mark))
    except json.JSONDecodeError as error:
        raise InputError(f"{mark} is not a recipe ({error}): name another folder, or remove this one") from error
    check_same(recipe, recorded, str(mark.parent))


def check_same(recipe: Mapping[str, Any], recorded: Any, where: str) -> None:
    """Refuse to go on with what was begun by another recipe. Errors: InputError naming what differs."""
    differing = differences(json.loads(to_json(recipe)), recorded)
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        listing = "; ".join(differing[:SHOWN])
        raise InputError(f"{where} holds another training or measurement ({listing}{more}): name another folder, or remove it")


def differences(recipe: Any, recorded: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, as "teacher.lr is 0.002 there, 0.001 here"."""
    if isinstance(recipe, dict) and isinstance(recorded, dict):
        keys = dict.fromkeys((*recipe, *recorded))
        return [d for k in keys for d in differences(recipe.get(k), recorded.get(k), f"{name}.{k}" if name else k)]
    return [] if recipe == recorded else [f"{name or 'the recipe'} is {_short(recorded)} there, {_short(recipe)} here"]


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
