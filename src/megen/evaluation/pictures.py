"""Statistics that tell sets of pictures apart: density and coverage, what a prompt asked for, and the floor of a distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from megen.scenes import judge
from megen.scenes.captions import Scene, parse, sample_scene

NEIGHBOURS = 5
OPEN_STREAM = 22  # of what a caption leaves out


def density_and_coverage(real: Float[Tensor, "n d"], made: Float[Tensor, "m d"], neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Density and coverage in features (Naeem et al. 2020): how many balls of true pictures a made one lies in, over the neighbours that
    span them; and the share of those balls that hold a made one.
    """
    neighbours = min(neighbours, len(real) - 1)
    radii = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values
    inside = torch.cdist(real, made) <= radii[:, None]
    return float(inside.sum() / (neighbours * len(made))), float(inside.any(1).float().mean())


def rights(texts: Sequence[str], seen: Sequence[dict[str, str]]) -> dict[str, float | None]:
    """Share of the named attributes that the judge finds, its standard error over prompts, and the share of prompts all right.

    None where no prompt names any.
    """
    rows = [judge.compared(text, shown) for text, shown in zip(texts, seen, strict=True)]
    rows = [row for row in rows if row]
    if not rows:
        return dict.fromkeys(("right", "right_error", "all_right"))
    hits, named = (np.array([f(row) for row in rows], float) for f in (lambda r: sum(a == b for a, b in r.values()), len))
    share = hits.sum() / named.sum()
    error = np.sqrt(((hits - share * named) ** 2).sum()) / named.sum()
    return {"right": float(share), "right_error": float(error), "all_right": float((hits == named).mean())}


def all_right(texts: Sequence[str], seen: Sequence[dict[str, str]]) -> list[bool]:
    """Whether the judge finds all that a prompt names, by prompt."""
    return [all(a == b for a, b in judge.compared(text, shown).values()) for text, shown in zip(texts, seen, strict=True)]


def paired(ours: Sequence[bool], theirs: Sequence[bool]) -> dict[str, float]:
    """How many prompts only one of two got right, and the chance of a difference as large where both are as good (McNemar's exact test)."""
    only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    differ = only_ours + only_theirs
    return {"only_ours": only_ours, "only_theirs": only_theirs, "p": float(binomtest(only_ours, differ).pvalue) if differ else 1.0}


def asks_for_object(named: dict[str, str]) -> bool:
    """Whether a prompt that names these attributes asks for an object."""
    return named.get("object", "no object") != "no object"


def short_figures(texts: Sequence[str], seen: Sequence[dict[str, str]], alone: Sequence[bool] | None = None) -> dict[str, Any]:
    """What short prompts got; the share of those that name no weather whose picture shows some; and of those that ask for an object the
    share whose picture shows it, once (`alone`: nothing stands in it twice). None where no prompt does.
    """
    found = {f"{name}_short": value for name, value in rights(texts, seen).items()}
    named = [parse(text) for text in texts]
    unnamed = [shown["weather"] != "clear" for asked, shown in zip(named, seen, strict=True) if "weather" not in asked]
    objects = [
        shown["object"] == asked["object"] and one
        for asked, shown, one in zip(named, seen, alone or [], strict=alone is not None)
        if asks_for_object(asked)
    ]
    share = {"unasked_weather": unnamed, "one_object_short": objects}
    return {**found, **{name: float(np.mean(flags)) if flags else None for name, flags in share.items()}}


def same_caption(text: str, number: int, repeat: int = 0) -> Scene:
    """A scene of which the caption is as true: what it leaves out is drawn again."""
    return sample_scene(np.random.default_rng([OPEN_STREAM, repeat, number]), parse(text))
