"""The edge server's side of one connection: what arrived to events, and goodput from acknowledgements."""

from __future__ import annotations

from dataclasses import dataclass, field

from megen.protocol.frames import Frame
from megen.protocol.messages import PROTOCOLS, Ack, FromClient, Hello, ProtocolError, Welcome, from_client

MOST_UNACKNOWLEDGED = 1024  # frames whose bytes are remembered


@dataclass(frozen=True)
class Goodput:
    """An acknowledged frame of a request: bytes that arrived in so many seconds; up to `idle_s` of them there was nothing to send.

    The message before it left at `since_s` of the server's clock: no more seconds than since then can be true.
    """

    request: str
    kind: int
    bytes: int
    seconds: float
    idle_s: float = 0.0
    since_s: float = 0.0


Event = FromClient | Goodput


@dataclass
class ServerConnection:
    """States: greeting, until a hello; then open. An acknowledgement is checked against what was sent, so that none can be made up."""

    hello: Hello | None = None
    _sequence: int = 0
    # request, kind, bytes, seconds without anything to send before and when the message before left, of frames nobody acknowledged
    _sent: dict[int, tuple[str, int, int, float, float]] = field(default_factory=dict)

    def receive(self, data: str | bytes) -> Event:
        """What a WebSocket message means. Errors: ProtocolError; where its `close_code` is None the connection goes on."""
        if isinstance(data, bytes):
            raise ProtocolError("the user equipment sends no binary frames", 1003)
        message = from_client(data)
        if isinstance(message, Hello):
            if self.hello is not None:
                raise ProtocolError("a second hello")
            if not set(PROTOCOLS) & set(message.protocols):
                ours, theirs = (", ".join(map(str, known)) for known in (PROTOCOLS, message.protocols))
                raise ProtocolError(f"this server speaks protocol {ours}, the client {theirs}: update one")
            self.hello = message
        elif self.hello is None:
            raise ProtocolError("the first message must be a hello")
        elif isinstance(message, Ack):
            return self._acknowledged(message)
        return message

    def _acknowledged(self, ack: Ack) -> Goodput:
        request, kind, size, idle_s, since_s = self._sent.pop(ack.sequence, ("", 0, 0, 0.0, 0.0))
        if request != ack.id or ack.bytes != size:
            raise ProtocolError(f"frame {ack.sequence} was not sent, or not with {ack.bytes} bytes", None, ack.id)
        return Goodput(ack.id, kind, size, ack.ms / 1000, idle_s, since_s)

    def welcome(self, offered: Welcome) -> Welcome:
        """The answer to the hello: what is offered, in the latest protocol that both sides speak."""
        assert self.hello is not None
        return offered.for_protocol(max(set(PROTOCOLS) & set(self.hello.protocols)))

    def frame(self, kind: int, request: str, part: int, data: bytes, idle_s: float = 0.0, since_s: float = 0.0) -> bytes:
        """The next binary frame, before which there was nothing to send for `idle_s`; the message before it left at `since_s`."""
        packed = Frame(kind, request, self._sequence, part, data).pack()
        self._sent[self._sequence] = (request, kind, len(packed), idle_s, since_s)
        if len(self._sent) > MOST_UNACKNOWLEDGED:
            del self._sent[next(iter(self._sent))]
        self._sequence += 1
        return packed
