"""One call for one image."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from megen.models import embedded, weights
from megen.pipeline import Pipeline, Result


@lru_cache(maxsize=1)
def _loaded(folder: Path, content: str) -> Pipeline:
    return Pipeline.load(str(folder))


def generate(prompt: str, *, backbone: str = "scenes", as_typed: bool = False, **options: Any) -> Result:
    """One image by a bundled backbone over a digital link at 10 dB; `options` are those of a `Pipeline`'s call (seed, steps, ...).

    What a prompt of the bundled world leaves open is drawn from the seed, with `as_typed` it is not. The last backbone stays loaded for
    as long as its files hold the same. Errors: InputError, RunError.
    """
    folder = embedded.folder_of(backbone).resolve()
    pipe = _loaded(folder, weights.content(folder))
    return (replace(pipe, complete=None) if as_typed else pipe)(prompt, **options)
