"""The user equipment's side of one connection: what arrived to events, and the payload of a request from its parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from megen.protocol import frames
from megen.protocol.frames import FEATURES, Frame
from megen.protocol.messages import MOST_PARTS, Ack, Coded, FromServer, Hello, ProtocolError, Welcome, from_server
from megen.types import PROTECTED, Payload, Received

Event = FromServer | Frame


@dataclass
class Parts:
    """The parts of one payload that have arrived, by number; they outlive a connection. `total` is None until the server says it.

    `picture`: the type of the file that they make, where the server decodes.
    """

    arrived: dict[int, bytes] = field(default_factory=dict)
    total: int | None = None
    picture: str | None = None

    @property
    def readable(self) -> bool:
        """Whether a picture can be decoded: header, map and base are there."""
        return self.total is not None and all(k in self.arrived for k in range(min(self.total, PROTECTED + 1)))

    @property
    def whole(self) -> bool:
        """Whether all parts are there."""
        return self.total is not None and len(self.arrived) == self.total

    def received(self) -> Received:
        """What the codec decodes; parts that have not arrived are empty, as lost ones are. Errors: ProtocolError before header and map."""
        if self.total is None or not {0, 1} <= self.arrived.keys():
            raise ProtocolError("the payload's header and map have not arrived", None)
        features = tuple(self.arrived.get(k, b"") for k in range(PROTECTED, self.total))
        return Received(Payload(self.arrived[0], self.arrived[1], features))


@dataclass
class ClientConnection:
    """States: greeting, until the welcome; then open. `parts` are those of the requests that this side waits for."""

    parts: dict[str, Parts] = field(default_factory=dict)
    welcome: Welcome | None = None
    _sequence: int = 0

    def hello(self, client: str, token: str | None = None, decode_s: float | None = None, previews: Iterable[str] = ()) -> str:
        """The first message."""
        fields = {"client": client, "token": token, "decode_s": decode_s, "previews": tuple(previews)}
        return Hello.model_validate(fields).text()

    def receive(self, data: str | bytes) -> Event:
        """What a WebSocket message means. Errors: ProtocolError; the connection is then of no more use."""
        if isinstance(data, str):
            return self._control(from_server(data))
        frame = frames.unpack(data)
        if self.welcome is None:
            raise ProtocolError("a binary frame before the welcome")
        if frame.sequence != self._sequence:
            raise ProtocolError(f"binary frame {frame.sequence} came where {self._sequence} was due")
        self._sequence += 1
        if frame.kind == FEATURES and (parts := self.parts.get(frame.request)) is not None:
            if parts.total is None or frame.part >= parts.total:
                raise ProtocolError(f"part {frame.part} of a payload of {parts.total} parts")
            parts.arrived[frame.part] = frame.data
        return frame

    def _control(self, message: FromServer) -> FromServer:
        if isinstance(message, Welcome):
            if self.welcome is not None:
                raise ProtocolError("a second welcome")
            self.welcome = message
        elif self.welcome is None and message.type != "error":
            raise ProtocolError("the server's first message must be a welcome")
        elif isinstance(message, Coded) and (parts := self.parts.get(message.id)) is not None:
            least = PROTECTED if message.picture is None else 1
            if not least <= message.parts <= MOST_PARTS:
                raise ProtocolError(f"a payload of {message.parts} parts")
            parts.total, parts.picture = message.parts, message.picture
        return message

    def ack(self, frame: Frame, ms: float) -> str:
        """The acknowledgement of a binary frame that took so many milliseconds."""
        return Ack(id=frame.request, sequence=frame.sequence, bytes=frames.HEADER_BYTES + len(frame.data), ms=ms).text()
