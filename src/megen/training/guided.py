"""A teacher's guided velocity, for any net of its kind and any context."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from megen.diffusion.path import Velocity
from megen.models.backbone import Backbone, Context


def velocity_of(net: torch.nn.Module, context: Context) -> Velocity:
    """The net's own answer, in single precision."""
    return lambda z, s, t: net(z, s, t, context.text, context.pooled, context.there).float()


def rows(context: Context, chosen: slice) -> Context:
    """Some rows of a context."""
    return Context(context.text[chosen], context.pooled[chosen], context.there[chosen])


def joined(first: Context, second: Context) -> Context:
    """The rows of both; a single row of the second stands for as many as the first has."""
    n, words = len(first.text), max(first.text.shape[1], second.text.shape[1])

    def wide(context: Context) -> tuple[Tensor, Tensor, Tensor]:
        missing = words - context.text.shape[1]
        text = F.pad(context.text, (0, 0, 0, missing)).expand(n, -1, -1)
        return text, context.pooled.expand(n, -1), F.pad(context.there, (0, missing)).expand(n, -1)

    (text, pooled, there), (more_text, more_pooled, more_there) = wide(first), wide(second)
    return Context(
        torch.cat([text, more_text.to(text.dtype)]), torch.cat([pooled, more_pooled.to(pooled.dtype)]), torch.cat([there, more_there])
    )


@torch.no_grad()
def field_of(teacher: Backbone, net: torch.nn.Module, guidance: float, device: torch.device) -> Callable[[Context], Velocity]:
    """For a context, v_null + guidance * (v_text - v_null) at z and s, whatever end is asked for; `net` is the teacher's, maybe compiled.

    On a GPU the null prompt is padded to the longest, so that a compiled net sees one shape.
    """
    empty = teacher.text.tokenise([""]).to(device)
    null = Context(*teacher.text(F.pad(empty, (0, teacher.config.text.max_words - 1)) if device.type != "cpu" else empty))

    def of(context: Context) -> Velocity:
        answer = velocity_of(net, joined(context, null))

        def velocity(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
            told, untold = answer(torch.cat([z, z]), torch.cat([s, s]), torch.cat([s, s])).chunk(2)
            guided: Tensor = untold + guidance * (told - untold)
            return guided

        return velocity

    return of
