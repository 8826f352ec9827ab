"""What every training shares: learning-rate schedule, checkpoint that resumes exactly, progress."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from megen import console, run_folder
from megen.errors import RunError
from megen.models import weights


def lr_factor(step: int, steps: int, warmup: int = 100, decay_share: float = 0.3) -> float:
    """Warm up linearly, stay, then fall linearly to zero over the last `decay_share` of the steps."""
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, (steps - step) / max(1.0, decay_share * steps))
    return min(rising, falling)


def set_lr(optimisers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's base rate (`base_lr`) by `factor`."""
    for group in (g for o in optimisers for g in o.param_groups):
        group["lr"] = group["base_lr"] * factor


def descend(value: Tensor, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """One step of every optimiser down the gradient of `value`, its norm over the model clipped to 1."""
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random generator of one training step, so that a resumed run draws what the first would have."""
    return torch.Generator(device).manual_seed(seed * 10_000_019 + step)


def save_checkpoint(
    path: Path,
    models: dict[str, nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
    metadata: dict[str, Any],
) -> None:
    """Everything that the next step depends on, in one safetensors file."""
    tensors: dict[str, Tensor] = {}
    for name, model in models.items():
        tensors.update({f"{name}/{k}": v for k, v in model.state_dict().items()})
    for number, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser/{number}/{index}/{k}": torch.as_tensor(v) for k, v in state.items()})
    weights.write_safely(tensors, path, metadata)


def load_checkpoint(
    path: Path, models: dict[str, nn.Module], optimisers: Sequence[torch.optim.Optimizer], recipe: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote, and return its metadata.

    Errors: weights.WeightsError; InputError where it was made by another `recipe`.
    """
    tensors, metadata = weights.read(path)
    if recipe is not None:
        run_folder.check_same(recipe, metadata.get("recipe"), str(path))
    for name, model in models.items():
        tensors_of = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
        weights.load_into(model, tensors_of, f"{path} ({name})")
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, number, index, field = key.split("/", 3)
            states[int(number)].setdefault(int(index), {})[field] = value
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return metadata


def compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """The module compiled where that pays within one training: on a GPU."""
    return cast(nn.Module, torch.compile(module, dynamic=False)) if device.type == "cuda" else module


class Smoothed:
    """A loss averaged over about 50 steps on its own device: reading it every step would stall a GPU."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None

    def add(self, value: Tensor) -> None:
        value = value.detach().float()
        self._mean = value.clone() if self._mean is None else self._mean.lerp_(value, 0.02)

    def read(self) -> float:
        """The mean. Errors: RunError where some value of it was NaN or infinite."""
        mean = float("nan") if self._mean is None else float(self._mean)
        if mean != mean or abs(mean) == float("inf"):
            raise RunError(f"the loss is {mean}: train into another folder with a lower --lr")
        return mean


def progress(start: int, steps: int, what: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield (step, shown): the caller puts numbers into `shown`, the bar on stderr shows them.

    Where stderr is no terminal, one line is printed every 50 steps instead.
    """
    shown: dict[str, float] = {}
    began = time.monotonic()
    with console.bar(what, steps, start, every=50) as update:
        for step in range(start, steps):
            yield step, shown
            update(step + 1, "  ".join(f"{k} {v:.4f}" for k, v in shown.items()) + f"  {time.monotonic() - began:.0f} s")


class Average:
    """Exponential moving average of a module's weights, with a warm-up: decay min(d, (1+n)/(10+n))."""

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        self.average, self.decay = average, decay
        average.load_state_dict(model.state_dict())
        average.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(model.parameters()), 1 - decay)
