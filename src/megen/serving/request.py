"""One request at the edge server: what was asked, what was decided, and all that was made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from megen.protocol.messages import Accepted, Choice, Coded, Generate, Message
from megen.scenes.completion import Completion
from megen.serving.decider import Decided
from megen.serving.scheduler import Waiting
from megen.types import ChannelState, Payload

State = Literal["queued", "running", "sent", "failed", "cancelled"]


@dataclass(frozen=True)
class Piece:
    """What goes out as a binary frame."""

    kind: int
    part: int
    data: bytes


Follower = Callable[["Served", "Message | Piece"], None]


@dataclass(eq=False)
class Served:
    """One request, and all that was made of it."""

    asked: Generate
    owner: str
    completed: Completion
    decided: Decided
    channel: ChannelState
    backlog_s: float
    arrived_s: float  # by the service's clock
    previews: tuple[str, ...] = ()
    decodes: bool = True  # whether its pieces are a picture's, where this server can decode
    streams: bool = False  # whether a part goes out while the next is coded
    state: State = "queued"
    place: Waiting[Served] | None = None
    position: int = 0
    attempts: int = 0
    task: asyncio.Task[None] | None = None
    payload: Payload | None = None
    pieces: tuple[Piece, ...] = ()  # that can be sent; of a payload those that are coded so far
    parts: int = 0  # how many pieces there will be
    picture: str | None = None  # the type of the file that they make, where this server decodes
    last: Message | None = None  # done, cancelled or an error
    ended_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    work_s: float = 0.0
    rows: float = 0.0  # of its batches, in the mean
    air_s: float = 0.0  # acknowledged
    logged: bool = False
    followers: list[Follower] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.asked.id

    def tell(self, event: Message | Piece) -> None:
        """Hand an event to all who follow."""
        for follower in list(self.followers):
            follower(self, event)

    def accepted(self) -> Accepted:
        """What is said first."""
        d, full = self.decided, self.completed
        choice = Choice(steps=d.decision.steps, merge_ratio=d.decision.merge_ratio, quantiser_bits=d.decision.quantiser_bits)
        missing = full.understanding.foreign + full.understanding.unknown
        return Accepted(
            id=self.id,
            position=self.position,
            decision=choice,
            why=d.why,
            fits=d.fits,
            expected_s=d.expected_s,
            prompt=full.text,
            added=tuple(full.added),
            missing=tuple(missing),
            conflict=full.conflict or None,
        )

    def coded(self) -> Coded:
        """What is said before the parts."""
        return Coded(id=self.id, parts=self.parts, bytes=sum(len(p.data) for p in self.pieces), picture=self.picture)
