"""The exceptions that megen raises on purpose.

MegenError
├── InputError     a wrong input: a file, a number, a word (exit code 2); also a ValueError
└── RunError       a run that failed although its inputs were right (exit code 1)
"""

from __future__ import annotations


class MegenError(Exception):
    """Whatever megen raises on purpose."""


class InputError(MegenError, ValueError):
    """A wrong input: what was wrong, the bound, the mend, in one line."""


class RunError(MegenError, RuntimeError):
    """A run that failed although its inputs were right."""


EXTRAS = {  # which extra brings a package
    "torch": "server",
    "scipy": "server",
    "jaxtyping": "server",
    "onnx": "server",
    "torchmetrics": "server",
    "starlette": "server",
    "uvicorn": "server",
    "prometheus_client": "server",
    "segno": "server",
    "gymnasium": "control",
    "stable_baselines3": "baselines",
    "ray": "cluster",
    "diffusers": "published",
    "accelerate": "published",
    "huggingface_hub": "published",
    "onnxscript": "published",
    "transformers": "published",
}
LARGER = {"train": "train", "control train": "train", "control evaluate": "control", "Controller": "control"}  # what needs another


def extra_of(package: str | None, user: str = "") -> str | None:
    """The extra to install where a command, or a name of `import megen`, lacks a package; None: no extra brings it."""
    extra = EXTRAS.get(package or "")
    return LARGER.get(user, extra) if extra in ("server", "control") else extra
