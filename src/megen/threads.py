"""How PyTorch's threads wait for each other on a CPU; it reads that when it loads. Without torch."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

SPINS = "1000"  # some 20 us: the time between two operations of a step, and short beside other work


def ready_threads(*, spinning: bool = True) -> None:
    """Have threads spin for `SPINS` rounds before they sleep, where the OpenMP that PyTorch brings allows that; else not at all.

    A step of one image takes 18 instead of 28 ms then, but 40 instead of 30 where another process wants a core (`experiments/spinning`).
    What the environment says already stays.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    if not (spinning and _brings_libgomp()):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        return
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"  # else threads do not spin where they are more than the cores, idle ones counted
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _brings_libgomp() -> bool:
    """Whether PyTorch is there with GNU's OpenMP; another one would spin without end."""
    found = find_spec("torch")
    return found is not None and found.origin is not None and any(Path(found.origin).with_name("lib").glob("libgomp*"))
