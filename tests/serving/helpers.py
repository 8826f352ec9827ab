"""A server in a thread, clients on its socket, and an engine that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from websockets.sync.client import connect

from megen.protocol import ClientConnection, Frame
from megen.protocol.client import Parts
from megen.protocol.messages import Generate, Hello, Message
from megen.serving import server
from megen.serving.app import App
from megen.serving.job import Finished, Job, JobEvent, Progress
from megen.types import Payload, Transmission


@contextlib.contextmanager
def live(app: App) -> Iterator[str]:
    """Serve an app on a free port of this machine; gives its address."""
    listening = server.bound("127.0.0.1", 0)
    web = server.web_server(app)
    web.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=lambda: asyncio.run(web.serve([listening])), daemon=True)
    thread.start()
    until(lambda: web.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        web.should_exit = True
        thread.join(15)


def until(happened: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for something."""
    ends_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < ends_s, "it did not happen in time"
        time.sleep(0.01)


class Peer:
    """A user equipment whose every message a test sends and sees."""

    def __init__(self, url: str, token: str | None = None, said: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> None:
        self._connected = connect(url.replace("http", "ws") + "/v1/ws", compression=None, **options)
        self.socket = self._connected.__enter__()
        self.protocol = ClientConnection()
        self.socket.send(Hello(client="test", token=token, previews=("webp",), **said).text())
        self.first = self.receive()

    def receive(self, timeout_s: float = 10.0) -> Any:
        return self.protocol.receive(self.socket.recv(timeout=timeout_s))

    def send(self, message: Message) -> None:
        if isinstance(message, Generate):
            self.protocol.parts[message.id] = Parts()
        self.socket.send(message.text())

    def until(self, kind: str, timeout_s: float = 10.0, ms: float = 1.0) -> list[Any]:
        """Events up to one of a type, acknowledging frames, each as if it took `ms`."""
        out = []
        while True:
            event = self.receive(timeout_s)
            out.append(event)
            if isinstance(event, Frame):
                self.socket.send(self.protocol.ack(event, ms))
            elif event.type == kind:
                return out

    def close(self) -> None:
        self.socket.close()


class ToldEngine:
    """An engine without a backbone: `steps` are what a job does, each an error to raise, seconds to wait, or an event to give."""

    def __init__(self, *steps: Any) -> None:
        self.steps: tuple[Any, ...] = steps
        self.running, self.cancelled, self.jobs = 0, 0, list[Job]()

    async def run(self, job: Job) -> AsyncIterator[JobEvent]:
        self.jobs.append(job)
        self.running += 1
        try:
            for step in self.steps:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


class InTurn(ToldEngine):
    """The first engine runs the first job, and the second every later one."""

    def __init__(self, first: ToldEngine, second: ToldEngine) -> None:
        super().__init__()
        self.first, self.second = first, second

    def run(self, job: Job) -> AsyncIterator[JobEvent]:
        return (self.second if self.first.jobs else self.first).run(job)


def payload(size: int = 100) -> Payload:
    """What an engine makes."""
    return Payload(b"h" * 24, b"", (bytes(size), b"abc"))


def finished(size: int = 100) -> Finished:
    """What an engine ends with."""
    seconds = {"text": 0.001, "denoise": 0.01, "merge": 0.001, "code": 0.001}
    return Finished(Transmission(payload(size), None, (0.0,) * 3), seconds, 0.01, 1.0)


def progress(done: int, of: int = 4, preview: bytes = b"") -> Progress:
    """A step."""
    return Progress(done, of, preview)


class GreyReceiver:
    """Decodes whatever comes to a grey picture."""

    def decode(self, received: object) -> np.ndarray:
        return np.full((64, 64, 3), 128, np.uint8)

    def image_of(self, features: object) -> np.ndarray:
        return np.full((64, 64, 3), 128, np.uint8)
