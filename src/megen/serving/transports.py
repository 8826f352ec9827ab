"""Below the app: requests that do not come to an end are cut off, open connections are bounded, and a WebSocket can be dropped.

The web server waits for the rest of a request for ever, and for a reader that takes nothing in too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

REQUEST_S = 10.0  # for a whole request, headers and body, from its first byte or the connection on
MOST_OPEN = 4096  # connections of all addresses
SPARE_FILES = 100  # of the process's limit, for all that is no connection


def most_open() -> int:
    """Connections that the process has files for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_OPEN
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_OPEN if files == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, files - SPARE_FILES))


@dataclass
class Bounds:
    """How many connections may be open, how many of one address may wait for the rest of a request, and who waits."""

    unfinished: int  # of one address at a time
    open: int = field(default_factory=most_open)
    request_s: float = REQUEST_S
    waiting: Counter[str] = field(default_factory=Counter)


def http_within(bounds: Bounds) -> type[H11Protocol]:
    """uvicorn's HTTP protocol, with connections and unfinished requests bounded."""

    class Bounded(H11Protocol):
        _address = ""
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            if len(self.connections) > bounds.open or bounds.waiting[self._address] >= bounds.unfinished:
                transport.abort()
            else:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._timer is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()
            super().data_received(data)
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._came()

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._came()
            super().handle_websocket_upgrade(event)

        def _wait(self) -> None:
            """A request begins."""
            bounds.waiting[self._address] += 1
            self._timer = self.loop.call_later(bounds.request_s, self.transport.abort)

        def _came(self) -> None:
            """The request is whole, or the connection is gone."""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                bounds.waiting[self._address] -= 1
                if not bounds.waiting[self._address]:
                    del bounds.waiting[self._address]

    return Bounded


class Droppable(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, of which the app can let go: `abort` in the scope's state."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, {**app_state, "abort": self.abort}, **more)

    def abort(self) -> None:
        """Close the connection at once, whatever was not sent."""
        self.transport.abort()
