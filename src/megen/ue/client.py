"""The user equipment in Python: asks an edge server for a picture over a WebSocket, and decodes it here. Without torch.

It comes back where the connection is lost, asks the next server where one fails or is busy, and gives up after `patience_s`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import numpy as np
import platformdirs
from PIL import Image
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection as Socket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

from megen import __version__
from megen.codec import prior
from megen.errors import InputError, RunError
from megen.files import replacing
from megen.protocol import FEATURES, ClientConnection, Frame, ProtocolError
from megen.protocol.client import Parts
from megen.protocol.messages import Accepted, Cancel, Cancelled, Coded, Done, Error, Generate, Resume, Shown, Stepped, Welcome, first_fault
from megen.types import Received
from megen.ue.decoding import Decoding
from megen.ue.receiver import DENOISER, GRAPH, TAIL, Receiver, ReceiverError

LEAST_WAIT_S, MOST_WAIT_S = 0.2, 5.0  # between two tries
OPEN_S, SILENT_S = 10.0, 30.0  # to connect, and without any message while a request runs
LEAST_DEADLINE_S = 1e-3  # that is asked for where loading and connecting took all of it
PATH = "/v1/ws"
MOST_MESSAGE_BYTES = 16 * 2**20
MOST_FILE_BYTES = 256 * 2**20

Event = Accepted | Stepped | Coded | Frame | str  # a text says what goes wrong and is tried again
OnEvent = Callable[[Event], object]


class ServerError(RunError):
    """What a server answered instead of a picture."""


@dataclass(frozen=True)
class Answer:
    """The image [H, W, 3] in bytes, what was received (None: the server decodes, and sent the picture itself), the server's report, and
    what this side measured, in s: `latency_s` from the call on, with connecting and loading, `decode_s` from the last part on."""

    image: np.ndarray
    received: Received | None
    accepted: Accepted
    report: dict[str, Any]
    latency_s: float
    decode_s: float
    reconnects: int
    bytes: int  # that crossed, previews included


@dataclass
class _Try:
    """A request in transit, whatever connection it is on."""

    message: Generate
    deadline_s: float | None  # of the caller, from the call on
    sent_s: float | None = None  # when the message with this id was first sent
    parts: Parts = field(default_factory=Parts)
    decoding: Decoding | None = None  # of the parts
    server: str = ""  # that has accepted it
    accepted: Accepted | None = None
    connections: int = 0
    bytes: int = 0

    def reset(self) -> None:
        """Forget what became of the request: no server has it."""
        self.message, self.sent_s = self.message.model_copy(update={"id": secrets.token_hex(16)}), None
        self.accepted, self.server, self.parts, self.decoding = None, "", Parts(), None

    def leave(self, began_s: float) -> float:
        """When the request is first sent: now, or before. What is left of its deadline then is the server's to plan with; a message that
        a server may have must stay as it was."""
        if self.sent_s is None:
            self.sent_s = time.monotonic()
            if self.deadline_s is not None:
                left_s = max(round(self.deadline_s - (self.sent_s - began_s), 3), LEAST_DEADLINE_S)
                self.message = self.message.model_copy(update={"deadline_s": left_s})
        return self.sent_s


@dataclass(frozen=True)
class Client:
    """A user equipment: its servers (ws, wss, http or https addresses) in the order in which they are asked, and its receiver.

    `receiver` None: the bundled backbone's, or what the server offers, which is kept in the user's cache folder.
    """

    servers: Sequence[str]
    token: str | None = None
    receiver: Receiver | None = None
    patience_s: float = 120.0
    decode_s: float | None = None  # what decoding takes here, for the server to plan with
    on_event: OnEvent = lambda event: None
    _loaded: dict[tuple[int, str | None], Receiver] = field(default_factory=dict, init=False, repr=False, compare=False)
    _loading: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.servers:
            raise InputError("a client needs a server's address")
        for server in self.servers:
            _address(server)

    async def ask(
        self,
        prompt: str,
        *,
        seed: int = 0,
        deadline_s: float | None = None,
        energy_j: float | None = None,
        steps: int | None = None,
        merge_ratio: float | None = None,
        quantiser_bits: float | None = None,
        as_typed: bool = False,
        previews: bool = True,
    ) -> Answer:
        """One picture; what of the decision is None the server's controller chooses.

        Errors: InputError on what the server cannot make; ServerError where it fails; RunError where no server is there for
        `patience_s`; CodecError on a broken payload.
        """
        fields = {"prompt": prompt, "seed": seed, "deadline_s": deadline_s, "energy_j": energy_j, "steps": steps, "as_typed": as_typed}
        fields |= {"merge_ratio": merge_ratio, "quantiser_bits": quantiser_bits, "previews": previews, "id": secrets.token_hex(16)}
        try:
            state = _Try(Generate.model_validate(fields), deadline_s)
        except ValidationError as error:
            raise InputError(first_fault(error)) from None
        began_s, wait_s, number = time.monotonic(), LEAST_WAIT_S, 0
        while True:
            server = self.servers[number % len(self.servers)]
            try:
                return await self._on(server, state, began_s)
            except _AgainError as error:
                said, wanted_s = str(error), error.retry_after_s
                number += error.elsewhere
            except (WebSocketException, OSError, TimeoutError) as error:
                said, wanted_s = f"{server}: {_reason(error)}", None
                number += state.server != server  # one that has the request is asked again first
                state.server = ""
            left_s = self.patience_s - (time.monotonic() - began_s)
            pause_s = max(wanted_s or 0.0, wait_s * random.uniform(0.5, 1.5))
            if pause_s > left_s:
                raise RunError(f"no picture within {self.patience_s:g} s; last: {said}")
            self.on_event(f"{said}; trying again in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            wait_s = min(2 * wait_s, MOST_WAIT_S)

    async def _on(self, server: str, state: _Try, began_s: float) -> Answer:
        """One connection, to the end of the request."""
        protocol = ClientConnection({state.message.id: state.parts})
        options: dict[str, Any] = {"open_timeout": OPEN_S, "max_size": MOST_MESSAGE_BYTES, "compression": None}
        async with connect(_address(server), **options) as socket:
            await socket.send(protocol.hello(f"megen {__version__}", self.token, self.decode_s, ("webp",)))
            welcome = protocol.receive(await _next(socket))
            if isinstance(welcome, Error):
                raise (InputError if welcome.code == "unauthorised" else ServerError)(f"{server}: {welcome.message}")
            assert isinstance(welcome, Welcome)
            if welcome.receiver is None and self.receiver is not None:
                raise InputError(f"{server} decodes itself and sends pictures: leave --receiver out")
            receiver = await self._receiver_of(welcome, server)
            if receiver is not None and (state.decoding is None or state.decoding.receiver is not receiver):
                state.decoding = Decoding(receiver, state.parts)
            state.connections += 1
            begun = state.accepted is not None
            sent_s = state.leave(began_s)
            first = Resume(id=state.message.id, have=tuple(sorted(state.parts.arrived))) if begun else state.message
            try:
                await socket.send(first.text())
                done = await self._until_done(socket, protocol, state, server)
            except asyncio.CancelledError:
                await asyncio.shield(socket.send(Cancel(id=state.message.id).text()))
                raise
            decode_began_s = time.monotonic()
            received = None if state.parts.picture else state.parts.received()
            image = picture_of(state.parts) if state.decoding is None or received is None else await state.decoding.image()
            now_s = time.monotonic()
            decode_s, latency_s = now_s - decode_began_s, now_s - began_s
            worked_s = decode_s if state.decoding is None or received is None else decode_s + state.decoding.beside_s
            await socket.send(Shown(id=state.message.id, decode_s=worked_s, latency_s=now_s - sent_s).text())
            assert state.accepted is not None
            return Answer(image, received, state.accepted, done.report, latency_s, decode_s, state.connections - 1, state.bytes)

    async def _receiver_of(self, welcome: Welcome, server: str) -> Receiver | None:
        """What decodes here, loaded once for each backbone and denoiser; None: the server does."""
        if welcome.receiver is None:
            return None
        which = welcome.backbone.fingerprint, welcome.denoiser
        if which not in self._loaded:
            await asyncio.to_thread(self._load, which, welcome, server)
        return self._loaded[which]

    def _load(self, which: tuple[int, str | None], welcome: Welcome, server: str) -> None:
        with self._loading:
            if which not in self._loaded:
                self._loaded[which] = receiver_for(welcome, server, self.receiver)

    async def _until_done(self, socket: Socket, protocol: ClientConnection, state: _Try, server: str) -> Done:
        last_s, coded = time.monotonic(), False
        while True:
            data = await _next(socket)
            now_s = time.monotonic()
            state.bytes += len(data)
            event = protocol.receive(data)
            if isinstance(event, Frame):
                await socket.send(protocol.ack(event, 1000 * (now_s - last_s)))
                if event.kind == FEATURES and state.decoding is not None and state.parts.picture is None:
                    state.decoding.more()
            last_s = now_s
            if isinstance(event, Error):
                self._failed(event, state)
            elif isinstance(event, Cancelled):
                raise ServerError("the server cancelled the request")
            elif isinstance(event, Accepted):
                state.accepted, state.server = event, server
                self.on_event(event)
            elif isinstance(event, Done):
                if not state.parts.whole:
                    raise ProtocolError("the server says that it is done, and parts are missing")
                return event
            elif not isinstance(event, Welcome) and not (coded and isinstance(event, Coded)):
                coded = coded or isinstance(event, Coded)  # which comes again before parts that are coded later
                self.on_event(event)

    def _failed(self, error: Error, state: _Try) -> None:
        """Raise what an error message means for this request."""
        if error.code == "unknown_request":  # the server has lost it
            state.reset()
            raise _AgainError(error.message, 0.0, elsewhere=False)
        if error.retryable:
            state.reset()
            raise _AgainError(error.message, error.retry_after_s, elsewhere=True)
        raise (InputError if error.code == "bad_request" else ServerError)(error.message)


class _AgainError(Exception):
    """Worth another try, perhaps at the next server."""

    def __init__(self, message: str, retry_after_s: float | None, *, elsewhere: bool) -> None:
        super().__init__(message)
        self.retry_after_s, self.elsewhere = retry_after_s, elsewhere


def picture_of(parts: Parts) -> np.ndarray:
    """The picture that a server decoded [H, W, 3], from its file. Errors: ProtocolError."""
    if parts.picture is None:
        raise ProtocolError("the server offers no receiver, and sent features", None)
    try:
        with Image.open(io.BytesIO(b"".join(parts.arrived[k] for k in sorted(parts.arrived)))) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"the server's picture cannot be read ({error})", None) from None


def receiver_for(welcome: Welcome, server: str, given: Receiver | None = None) -> Receiver:
    """The receiver of a server's backbone: the one given, the bundled, one from the cache folder, or the server's own, which is kept there.

    Errors: InputError where the one given is another backbone's; ReceiverError where the server's is broken.
    """
    wanted = welcome.backbone.fingerprint
    if given is not None:
        if given.codec.fingerprint != wanted:
            raise InputError("the server runs another backbone than this receiver was exported from: leave --receiver out")
        return given
    folder = Path(platformdirs.user_cache_dir("megen")) / "receivers" / f"{wanted:08x}"
    for place in (welcome.backbone.name, folder):
        try:
            receiver = Receiver.load(place)
        except ReceiverError:
            continue
        if receiver.codec.fingerprint == wanted:
            return Receiver.load(folder) if place == folder and _denoiser_fetched(welcome, server, folder) else receiver
    folder.mkdir(parents=True, exist_ok=True)
    assert welcome.codec is not None
    assert welcome.receiver is not None
    files = {prior.FILE: welcome.codec, GRAPH: welcome.receiver} | ({TAIL: welcome.tiles.tail} if welcome.tiles else {})
    for name, path in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(_fetch(urljoin(_http(server), path)))
    _denoiser_fetched(welcome, server, folder)
    receiver = Receiver.load(folder)
    if receiver.codec.fingerprint != wanted:
        raise ReceiverError("the server's receiver is not of the backbone that it says it runs")
    return receiver


def _denoiser_fetched(welcome: Welcome, server: str, folder: Path) -> bool:
    """Keep the server's denoiser where none is kept, or another than its path names; pictures are worse without it, but no error."""
    path, kept = welcome.denoiser, folder / DENOISER
    if path is None or (kept.is_file() and f"/{hashlib.sha256(kept.read_bytes()).hexdigest()[:8]}/" in path):
        return False
    try:
        data = _fetch(urljoin(_http(server), path))
    except (OSError, ReceiverError):
        return False
    with replacing(kept) as temporary:
        temporary.write_bytes(data)
    return True


async def _next(socket: Socket) -> str | bytes:
    """The next message. Errors: TimeoutError where none comes for `SILENT_S`."""
    async with asyncio.timeout(SILENT_S):
        return await socket.recv()


def _fetch(url: str) -> bytes:
    with urlopen(Request(url, headers={"User-Agent": f"megen/{__version__}"}), timeout=OPEN_S) as answer:
        data: bytes = answer.read(MOST_FILE_BYTES + 1)
    if len(data) > MOST_FILE_BYTES:
        raise ReceiverError(f"{url} has more than {MOST_FILE_BYTES} bytes")
    return data


def _address(server: str) -> str:
    """The WebSocket's address at a server. Errors: InputError."""
    parts = urlsplit(server if "://" in server else f"ws://{server}")
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.netloc:
        raise InputError(f"a server's address looks like http://192.168.1.5:8000, got {server!r}")
    return urlunsplit((schemes[parts.scheme], parts.netloc, PATH, "", ""))


def _http(server: str) -> str:
    parts = urlsplit(_address(server))
    return urlunsplit(({"ws": "http", "wss": "https"}[parts.scheme], parts.netloc, "/", "", ""))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, InvalidHandshake | InvalidURI):
        return f"no edge server of megen there ({error})"
    return str(error) or type(error).__name__
