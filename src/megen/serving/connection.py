"""One WebSocket: messages in, a writer task out. A slow reader is bounded in bytes and in time; of waiting previews the newest wins."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque

from starlette.websockets import WebSocket, WebSocketDisconnect

from megen.errors import InputError, RunError
from megen.protocol import FEATURES, PREVIEW, ProtocolError, ServerConnection
from megen.protocol.messages import Ack, Cancel, Error, ErrorCode, Generate, Hello, Message, Resume, Shown, Welcome
from megen.protocol.server import Goodput
from megen.serving.access import Access
from megen.serving.goodput import GoodputEstimate, Goodputs
from megen.serving.metrics import Metrics
from megen.serving.request import Piece, Served
from megen.serving.scheduler import BusyError
from megen.serving.service import Service
from megen.types import ChannelState

log = logging.getLogger("megen.serving")
CLOSE_S = 2.0  # for a last message
HELLO_S = 10.0  # for the first message
MOST_WAITING_BYTES = 4 * 2**20  # for a reader that is slow
SLACK_S = 0.05
MOST_IDLE = 0.25  # of a frame's seconds without anything to send, for them to tell how fast the link is
# a part that was coded this much later than the one before, and a rate from which on a message goes before it, for 1 ms at most
NO_IDLE_S, MARKED_BPS = 1e-3, 1e6
GOING_AWAY, POLICY, TOO_SLOW = 1001, 1008, 1013


class Connection:
    """State of one WebSocket; `serve` runs it to its end."""

    def __init__(
        self,
        socket: WebSocket,
        service: Service,
        access: Access,
        metrics: Metrics,
        offered: Welcome,
        goodputs: Goodputs,
        *,
        address: str = "",
        send_timeout_s: float = 20.0,
    ) -> None:
        self.socket, self.service, self.access, self.metrics, self.offered = socket, service, access, metrics, offered
        self.protocol, self.send_timeout_s = ServerConnection(), send_timeout_s
        self.goodputs, self.goodput, self.address = goodputs, GoodputEstimate(), address
        self.owner = ""
        self._followed: dict[str, Served] = {}
        self._out: deque[tuple[str, Message | Piece | str]] = deque()  # with the request's id
        self._bytes, self._wake = 0, asyncio.Event()
        self._closing = False
        self._sent_s = 0.0  # when the socket took the last message

    async def serve(self) -> None:
        """Take messages until either side ends it; requests go on without it."""
        await self.socket.accept()
        writer = asyncio.create_task(self._write())
        self.metrics.connections.inc()
        try:
            await self._greet()
            while True:
                await self._handle(await self._receive())
        except WebSocketDisconnect:
            pass
        except ProtocolError as error:
            code: ErrorCode = "unauthorised" if error.close_code == POLICY else "protocol"
            await self._close(error.close_code or 1002, code, str(error))
        except TimeoutError:
            await self._close(POLICY, "protocol", "no hello came")
        finally:
            self.metrics.connections.dec()
            if self.owner:
                self.goodputs.end((self.owner, self.address), self.goodput)
            for served in self._followed.values():
                with contextlib.suppress(ValueError):
                    served.followers.remove(self._tell)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _receive(self) -> str | bytes:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        text: str | None = message.get("text")
        data: bytes = message.get("bytes") or b""
        return text if text is not None else data

    async def _greet(self) -> None:
        async with asyncio.timeout(HELLO_S):
            hello = self.protocol.receive(await self._receive())
        assert isinstance(hello, Hello)
        owner = self.access.owner(hello.token or None)
        if owner is None:
            raise ProtocolError("this server asks for a token, and this is not one of its own", POLICY)
        self.owner = owner
        self.goodput = self.goodputs.begin((owner, self.address))
        self.offered = self.protocol.welcome(self.offered)
        self._put("", self.offered)

    async def _handle(self, data: str | bytes) -> None:
        try:
            event = self.protocol.receive(data)
        except ProtocolError as error:
            if error.close_code is not None:
                raise
            return self._refuse("bad_request", str(error), error.request)
        if isinstance(event, Goodput):
            # no frame took longer than it is since the one before, but for what clocks differ by
            seconds = min(event.seconds, time.monotonic() - event.since_s + SLACK_S)
            faster = 8 * event.bytes > self.goodput.bps * seconds  # whatever of these seconds was the coder's
            if faster or event.idle_s <= MOST_IDLE * seconds:
                self.goodput.observe(event.bytes, seconds)
                self.metrics.goodput.observe(self.goodput.bps)
            if event.kind == FEATURES:
                self.service.acknowledged(event.request, self.owner, seconds)
            return None
        assert not isinstance(event, Hello | Ack)
        try:
            self._act(event)
        except BusyError as error:
            self._refuse("busy", str(error), event.id, retry_after_s=error.retry_after_s)
        except InputError as error:
            self._refuse("unknown_request" if isinstance(event, Cancel | Resume | Shown) else "bad_request", str(error), event.id)
        except RunError as error:
            self._refuse("draining" if self.service.draining else "failed", str(error), event.id, retry_after_s=1.0)
        return None

    def _act(self, event: Generate | Cancel | Resume | Shown) -> None:
        if isinstance(event, Generate):
            payer = self.access.payer(self.owner, self.address)
            if wait_s := self.access.retry_after_s(payer):
                return self._refuse("too_many", f"too many requests: try again in {wait_s:.0f} s", event.id, retry_after_s=wait_s)
            hello = self.protocol.hello
            assert hello is not None
            channel = ChannelState(None, 0.0, self.goodput.bps)
            options = {"channel": channel, "decode_s": hello.decode_s, "previews": hello.previews}
            options |= {"decodes": True if self.offered.receiver is None else None}
            self._follow(self.service.submit(event, self.owner, self._tell, **options))  # type: ignore[arg-type]
            self.access.took(payer)
        elif isinstance(event, Resume):
            if self.offered.receiver is None and not self.service.of(event.id, self.owner).decodes:
                raise InputError("this request was begun by a client that decodes: ask again")
            self._follow(self.service.resume(event.id, self.owner, self._tell, event.have))
        elif isinstance(event, Cancel):
            self.service.cancel(self.service.of(event.id, self.owner))
        elif (latency_s := self.service.shown(event.id, self.owner, event.decode_s, event.latency_s)) is not None:
            self.metrics.shown(self.service.of(event.id, self.owner), latency_s)
        return None

    def _follow(self, served: Served) -> None:
        self._followed[served.id] = served

    def _refuse(self, code: ErrorCode, message: str, request: str | None, retry_after_s: float | None = None) -> None:
        self.metrics.refused.labels(code).inc()
        retryable = retry_after_s is not None
        self._put(request or "", Error(code=code, message=message, id=request, retryable=retryable, retry_after_s=retry_after_s))

    def _tell(self, served: Served, event: Message | Piece) -> None:
        """What a followed request has to say goes out in order; a preview takes the place of one that still waits."""
        if isinstance(event, Piece) and event.kind == PREVIEW:
            older = [entry for entry in self._out if entry[0] == served.id and isinstance(entry[1], Piece) and entry[1].kind == PREVIEW]
            for entry in older:
                self._out.remove(entry)
                self._bytes -= _size(entry[1])
        self._put(served.id, event)

    def _put(self, request: str, event: Message | Piece | str) -> None:
        self._out.append((request, event))
        self._bytes += _size(event)
        self._wake.set()

    async def _write(self) -> None:
        """The only one who sends."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._out:
                    if self._bytes > MOST_WAITING_BYTES:
                        return await self._close(TOO_SLOW, "failed", "this connection takes in less than it asks for")
                    request, event = self._out.popleft()
                    self._bytes -= _size(event)
                    async with asyncio.timeout(self.send_timeout_s):
                        await self._send(request, event)
        except TimeoutError:
            log.info("slow reader", extra={"owner": self.owner})
            await self._close(TOO_SLOW, "failed", "this connection takes nothing in")
        except (WebSocketDisconnect, RuntimeError, OSError):  # it is gone; the reader sees that too
            pass
        return None

    async def _send(self, request: str, event: Message | Piece | str) -> None:
        if isinstance(event, Piece):
            idle_s = time.monotonic() - self._sent_s
            if idle_s <= NO_IDLE_S:
                idle_s = 0.0
            elif self.goodput.bps > MARKED_BPS and event.kind == FEATURES:
                await self.socket.send_text(self._followed[request].coded().text())
                idle_s = 0.0
            await self.socket.send_bytes(self.protocol.frame(event.kind, request, event.part, event.data, idle_s, self._sent_s))
        else:
            await self.socket.send_text(event if isinstance(event, str) else event.text())
        self._sent_s = time.monotonic()

    async def _close(self, code: int, error: ErrorCode, message: str) -> None:
        if not self._closing:  # reader and writer may both find a fault
            self.metrics.refused.labels(error).inc()
        self._closing = True
        await close_with(self.socket, code, error, message)


async def close_with(socket: WebSocket, code: int, error: ErrorCode, message: str) -> None:
    """Say why, and close; a connection that does not take that in is dropped, so that its reader ends too."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await socket.send_text(Error(code=error, message=message).text())
            await socket.close(code)
    except TimeoutError:
        abort = socket.scope.get("state", {}).get("abort")
        if abort is not None:
            abort()
    except (WebSocketDisconnect, RuntimeError, OSError):  # it is gone
        pass


def _size(event: Message | Piece | str) -> int:
    return len(event.data) if isinstance(event, Piece) else 200
