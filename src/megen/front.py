"""One call for one image."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from megen.models import checkpoints, embedded, weights
from megen.pipeline import Pipeline, Result


@lru_cache(maxsize=1)
def _loaded(backbone: str, content: str) -> Pipeline:
    return Pipeline.load(backbone)


def generate(prompt: str, *, backbone: str = "scenes", as_typed: bool = False, **options: Any) -> Result:
    """One image by a bundled or published backbone, over a digital link at 10 dB; `options` are those of a `Pipeline`'s call (seed, ...).

    What a prompt of the bundled world leaves open is drawn from the seed, with `as_typed` it is not. The last backbone stays loaded for
    as long as its files hold the same. Errors: InputError, RunError.
    """
    if checkpoints.is_published(backbone):
        named = Path(backbone) if backbone.endswith(".json") else Path(backbone) / checkpoints.INDEX
        pipe = _loaded(backbone, named.read_text(encoding="utf-8") if named.is_file() else "")
    else:
        folder = embedded.folder_of(backbone).resolve()
        pipe = _loaded(str(folder), weights.content(folder))
    return (replace(pipe, complete=None) if as_typed else pipe)(prompt, **options)
