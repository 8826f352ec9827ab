"""A teacher's guided velocity, for any net of its kind and any condition."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from megen.backbone import Condition
from megen.diffusion.flow_map import Velocity
from megen.models.embedded import EmbeddedBackbone
from megen.models.text import TextEncoder


def encoded(text: TextEncoder | torch.nn.Module, tokens: Tensor) -> Condition:
    """The condition of tokens [b, n], without guidance."""
    vectors, pooled, mask = text(tokens)
    return Condition(vectors, pooled, mask, torch.ones(len(tokens), device=tokens.device))


def velocity_of(net: torch.nn.Module, condition: Condition) -> Velocity:
    """The net's own answer, in single precision."""
    return lambda z, s, t: net(z, s, t, condition.text, condition.pooled, condition.mask).float()


@torch.no_grad()
def field_of(teacher: EmbeddedBackbone, net: torch.nn.Module, guidance: float, device: torch.device) -> Callable[[Condition], Velocity]:
    """For a condition, v_null + guidance * (v_text - v_null) at z and s, whatever end is asked for; `net` is the teacher's, maybe compiled.

    On a GPU the null prompt is padded to the longest, so that a compiled net sees one shape.
    """
    empty = teacher.text.tokenise([""]).to(device)
    null = encoded(teacher.text, F.pad(empty, (0, teacher.config.text.max_words - 1)) if device.type != "cpu" else empty)

    def of(condition: Condition) -> Velocity:
        answer = velocity_of(net, Condition.cat([condition, null.expand(len(condition))]))

        def velocity(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
            conditioned, unconditioned = answer(torch.cat([z, z]), torch.cat([s, s]), torch.cat([s, s])).chunk(2)
            guided: Tensor = unconditioned + guidance * (conditioned - unconditioned)
            return guided

        return velocity

    return of
