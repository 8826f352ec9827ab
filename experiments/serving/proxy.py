"""A TCP proxy in this process that stands for a link: a rate, a delay, a stall, a cut."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK_BYTES = 1024
LINGER_S = 5.0  # for what a closed connection still holds
BUFFER_BYTES = 8 * 1024  # that wait in the proxy: a link has no deep queue of its own


@dataclass
class Proxy:
    """Forwards to `port` of this machine. `down_bps` bounds what the server sends, `delay_s` is added to each direction.

    `down_bytes` counts what went through, by connection; `cut` ends all connections, and `stalled` holds them.
    """

    port: int
    down_bps: float | None = None
    delay_s: float = 0.0
    stalled: bool = False
    down_bytes: list[int] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _free_at_s: float = 0.0  # the link is shared by all connections

    def cut(self) -> None:
        """End all connections, as a phone that is gone."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.down_bytes)
        self.down_bytes.append(0)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port, limit=BUFFER_BYTES)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server_writer}
        self._writers |= both
        for end in both:
            end.transport.set_write_buffer_limits(BUFFER_BYTES)
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, None)),
            asyncio.create_task(self._pump(server_reader, writer, number)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in both:
            end.close()  # what it holds is still sent
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(end.wait_closed(), LINGER_S)
            end.transport.abort()
        self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: int | None) -> None:
        """Chunks in order, each at the time at which the link has carried it."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(BUFFER_BYTES // CHUNK_BYTES)

        async def out() -> None:
            while True:
                at_s, data = await waiting.get()
                await asyncio.sleep(max(0.0, at_s - time.monotonic()))
                while self.stalled:
                    await asyncio.sleep(0.01)
                writer.write(data)
                await writer.drain()
                waiting.task_done()

        sender = asyncio.create_task(out())
        try:
            while data := await reader.read(CHUNK_BYTES):
                now_s = time.monotonic()
                carried_s = now_s
                if down is not None:
                    self.down_bytes[down] += len(data)
                    if self.down_bps:
                        self._free_at_s = max(now_s, self._free_at_s) + 8 * len(data) / self.down_bps
                        carried_s = self._free_at_s
                await waiting.put((carried_s + self.delay_s, data))
            joined = asyncio.create_task(waiting.join())
            await asyncio.wait([joined, sender], return_when=asyncio.FIRST_COMPLETED)
            joined.cancel()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            sender.cancel()


@contextlib.asynccontextmanager
async def proxied(port: int, down_bps: float | None = None, delay_s: float = 0.0) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a port of this machine, and its address."""
    proxy = Proxy(port, down_bps, delay_s)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0, limit=BUFFER_BYTES)
    try:
        yield proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        proxy.cut()
