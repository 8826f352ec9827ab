"""One call for one image."""

from __future__ import annotations

from functools import cache
from typing import Any

from megen.pipeline import Pipeline, Result


@cache
def _loaded(backbone: str) -> Pipeline:
    return Pipeline.load(backbone)


def generate(prompt: str, *, backbone: str = "scenes", **options: Any) -> Result:
    """One image by a bundled backbone over a digital link at 10 dB; `options` are those of a `Pipeline`'s call (seed, steps, ...).

    The backbone is loaded once a process. Errors: InputError, RunError.
    """
    return _loaded(backbone)(prompt, **options)
