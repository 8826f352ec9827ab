"""Below the app: requests that do not come to an end and readers that take nothing in are cut off, and open connections are bounded.

The web server waits for both for ever. With TLS a connection is seen here once its handshake is over.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from megen.serving.access import entered, left

REQUEST_S = 10.0  # for a whole request, headers and body, from its first byte or the connection on
STUCK_S = 10.0  # without a byte that was taken in, before what waits to be sent is given up
PING_BYTES = 64  # by which pings make what waits longer
MOST_OPEN = 4096  # connections of all addresses
SPARE_FILES = 100  # of the process's limit, for all that is no connection
PROXIES = ("127.0.0.1", "::1")  # whose connections are those of many clients


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
    """How many connections may be open, of one address and in all, how long a request may take; and who is connected."""

    each: int  # of one address that is no proxy
    open: int = field(default_factory=most_open)
    request_s: float = REQUEST_S
    proxies: tuple[str, ...] = PROXIES
    connected: Counter[str] = field(default_factory=Counter)


class Reading:
    """Drops a connection of whose waiting bytes the other side takes none in for `STUCK_S`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._waiting = transport, 0
        self._later()

    def stop(self) -> None:
        """The connection is over."""
        self._timer.cancel()

    def _look(self) -> None:
        before, self._waiting = self._waiting, self._transport.get_write_buffer_size()
        if 0 < before <= self._waiting <= before + PING_BYTES:
            self._transport.abort()
        else:
            self._later()

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(STUCK_S, self._look)


class Bounded(H11Protocol):
    """uvicorn's HTTP protocol within bounds."""

    bounds: Bounds
    _address: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _reading: Reading | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        most = math.inf if address in self.bounds.proxies else self.bounds.each
        if len(self.connections) > self.bounds.open or not entered(self.bounds.connected, address, most):
            return transport.abort()
        self._address = address
        self._reading = Reading(transport)
        return self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._leave()
        super().handle_websocket_upgrade(event)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # the next request has its own time
            self._rest()
        if self._address is not None:
            self._watch()

    def _watch(self) -> None:
        """Begin or end the time of a request, by whether one is unfinished."""
        state, idle = self.conn.their_state, self.cycle is not None and not self.conn.trailing_data[0]
        if state is h11.SEND_BODY or (state is h11.IDLE and not idle):
            self._timer = self._timer or self.loop.call_later(self.bounds.request_s, self.transport.abort)
            return
        self._rest()
        if state is h11.IDLE and self.timeout_keep_alive_task is None:  # its body came after the answer
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        """The connection is gone, or is a WebSocket from here on, which the app counts."""
        self._rest()
        if self._reading is not None:
            self._reading.stop()
        if self._address is not None:
            left(self.bounds.connected, self._address)
            self._address = None


def http_within(bounds: Bounds) -> type[Bounded]:
    """The protocol of connections that share bounds."""
    return type("Within", (Bounded,), {"bounds": bounds})


class Droppable(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, of which the app can let go: `abort` in the scope's state. A stuck reader is dropped anyhow."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], **more: Any) -> None:
        super().__init__(config, server_state, {**app_state, "abort": self.abort}, **more)
        self._reading: Reading | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._reading = Reading(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reading is not None:
            self._reading.stop()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection at once, whatever was not sent."""
        self.transport.abort()
