"""A whole edge server from its options, and its run: address, QR code, and a shutdown that waits for what is at work."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segno
import torch
import uvicorn
from PIL import Image

from megen import __version__
from megen.accounting import made_by
from megen.codec import prior
from megen.control.adaptive import Adaptive
from megen.control.controller import Controller
from megen.cost import device_profile, quality_grid
from megen.errors import InputError
from megen.halves import Receives, Transmitter, placed_receiver, transmitter_of
from megen.link import Link
from megen.models.fingerprint import identity
from megen.pipeline import WORLD, Pipeline
from megen.protocol.messages import PROTOCOLS, Backbone, Tiling, Welcome
from megen.scenes import completion
from megen.serving.access import Access
from megen.serving.app import FOREVER, App, Asset, Decoding, graph_asset
from megen.serving.decider import Decider
from megen.serving.engine import LocalEngine
from megen.serving.job import Engine
from megen.serving.logs import structured
from megen.serving.outcome import Outcomes
from megen.serving.service import Service, Settings
from megen.serving.transports import SPARE_FILES, Bounds, Droppable, http_within
from megen.types import Payload, Received
from megen.ue.receiver import DENOISER, GRAPH, TAIL

if TYPE_CHECKING:
    from megen.serving.cluster import Cluster

log = logging.getLogger("megen.serving")
WEBP_QUALITY = 90  # of a picture that this server decodes
DRAIN_S = 20.0
SEND_BUFFER_BYTES = 64 * 1024  # of a socket: what a slow reader has not taken in should wait here, not in the kernel
MOST_MESSAGE_BYTES = 256 * 1024  # of a client
PING_S = 20.0
BACKLOG = SPARE_FILES // 2  # connections that are accepted at once, before any of them can be refused
QUIET_S = 5.0  # that connections have to close


@dataclass(frozen=True)
class Options:
    """How an edge server is set up."""

    backbone: str = "scenes"
    device: str = "auto"
    policy: str = "plan"
    quality: Path | None = None  # of another backbone than the bundled one
    profiles: tuple[str | None, str | None] = (None, None)  # of the edge server and the phones by name or path; None: this machine's
    settings: Settings = field(default_factory=Settings)
    log_path: Path | None = None
    link: Link | None = None
    cluster: Cluster | None = None  # None: an engine of this process


Halves = Callable[[Transmitter, Receives], object]


def build(options: Options, access: Access | None = None, prepare: Halves = lambda transmitter, receiver: None) -> App:
    """Load the backbone, start its engine, and put the app together; `prepare` gets both halves before the controller is loaded.

    Errors: InputError.
    """
    if options.quality is not None:  # what is named and cannot be read is refused before anything loads
        quality_grid.load(options.quality)
    for name in filter(None, options.profiles):
        device_profile.load(name)
    transmitter = transmitter_of(options.backbone, options.device)
    (graph, receiver), spec = placed_receiver(transmitter, options.backbone), transmitter.backbone.spec
    prepare(transmitter, receiver)
    complete = Pipeline(transmitter, receiver, complete=completion.complete if spec.name == WORLD else None).completed
    engine = _engine(options, transmitter)
    about = asdict(made_by(transmitter.backbone))
    service = Service(
        engine,
        decider(options, transmitter, identity(transmitter.backbone)),
        complete,
        settings=options.settings,
        link=options.link,
        outcomes=Outcomes(options.log_path),
        about=about,
        picture=partial(picture_of, receiver) if graph is None or getattr(receiver, "tiles", None) else None,
    )
    backbone = Backbone(
        name=spec.name,
        fingerprint=transmitter.codec.fingerprint,
        latent_shape=spec.latent_shape,
        image_px=spec.image_px,
        steps=spec.steps,
        merge_ratios=spec.merge_ratios,
        max_words=spec.max_words,
    )
    offered = Welcome(protocol=PROTOCOLS[-1], server=f"megen {__version__}", backbone=backbone)
    if graph is None:
        log.warning(f"no user equipment decodes {spec.name}: this server does, and sends pictures")
        return App(service, access or Access(), Decoding(offered, receiver, {}))
    return App(service, access or Access(), _decoding(offered, graph, receiver))


def _decoding(offered: Welcome, graph: Path, receiver: Receives) -> Decoding:
    """The files that decode: a receiver's graph, in two where it is in tiles, codec, and the phone's denoiser where there is one."""
    import onnx

    fingerprint = offered.backbone.fingerprint
    stem = f"/decode/{fingerprint:08x}"
    files = {
        f"{stem}/{GRAPH}": graph_asset(onnx.load(str(graph))),
        f"{stem}/{prior.FILE}": Asset((graph.parent / prior.FILE).read_bytes(), "application/octet-stream", FOREVER),
    }
    paths: dict[str, Any] = {"receiver": f"{stem}/{GRAPH}", "codec": f"{stem}/{prior.FILE}"}
    if asset := _denoiser_asset(graph.with_name(DENOISER), fingerprint):
        paths["denoiser"] = f"{stem}/{hashlib.sha256(asset.data).hexdigest()[:8]}/{DENOISER}"  # it may be trained on while the others stay
        files[paths["denoiser"]] = asset
    if (tiles := getattr(receiver, "tiles", None)) is not None:
        files[f"{stem}/{TAIL}"] = graph_asset(onnx.load(str(graph.with_name(TAIL))))
        paths["tiles"] = Tiling(tail=f"{stem}/{TAIL}", side=tiles.side, margin=tiles.margin, grows=tiles.grows)
    return Decoding(offered.model_copy(update=paths), receiver, files)


def _denoiser_asset(graph: Path, fingerprint: int) -> Asset | None:
    """The graph of a phone's denoiser, where there is one of this backbone; what is wrong with another is logged."""
    import onnx

    if not graph.is_file():
        return None
    try:
        model = onnx.load(str(graph))
        about = {entry.key: entry.value for entry in model.metadata_props}
        if about.get("fingerprint") == str(fingerprint):
            return graph_asset(model)
        why = "it is of another backbone"
    except Exception as error:  # onnx raises classes of its own for each kind of broken file
        why = str(error)
    log.warning(f"{graph} is not offered: {why}; megen export writes it")
    return None


def picture_of(receiver: Receives, payload: Payload) -> bytes:
    """A payload decoded here, as a WebP file."""
    out = io.BytesIO()
    Image.fromarray(receiver.decode(Received(payload))).save(out, "webp", quality=WEBP_QUALITY)
    return out.getvalue()


def _engine(options: Options, transmitter: Transmitter) -> Engine:
    if options.cluster is None:
        return LocalEngine(transmitter, rows=options.settings.rows)
    from megen.serving.cluster import ClusterEngine

    return ClusterEngine(options.cluster, options.backbone, options.device, options.settings.rows)


def decider(options: Options, transmitter: Transmitter, weights: str) -> Decider:
    """Decides by a plan that follows the load; where the policy cannot be read or is of other weights, by a fixed choice that says why.

    Errors: InputError where the options name a quality grid or profiles that do not suit.
    """
    try:
        server, phone = options.profiles
        controller = Controller.load(options.policy, server=server, phone=phone, quality=options.quality)
        controller.check(weights)
        controller.check_deadlines()
        for line in controller.assumptions:
            log.warning(line)
        plans = ThreadPoolExecutor(1, "megen-plan")
        return Decider(transmitter.backbone.spec, Adaptive(controller, controller.scenario, executor=plans))
    except InputError as error:
        if options.quality is not None or any(options.profiles):
            raise
        log.warning(f"fixed decisions: {error}")
        return Decider(transmitter.backbone.spec, why_fixed=str(error))


def run(
    app: App, listening: socket.socket, *, tls: dict[str, Any] | None = None, ready: Callable[[str], object] = lambda url: None
) -> None:
    """Serve at a socket that `bound` gave until SIGINT or SIGTERM; requests at work are then finished within `DRAIN_S`.

    `ready` gets the address. Errors: InputError where another server listens there by now.
    """
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        raise InputError(f"cannot listen at {listening.getsockname()}: {error}") from None
    with structured():
        asyncio.run(_serve(app, web_server(app, tls), listening, ready, "https" if tls else "http"))


def web_server(app: App, tls: dict[str, Any] | None = None) -> uvicorn.Server:
    """The web server of an app, not started. WebSockets are not compressed: features are, already."""
    config = uvicorn.Config(
        app.asgi,
        http=http_within(Bounds(app.access.limits.connections)),
        ws=Droppable,
        backlog=BACKLOG,
        ws_per_message_deflate=False,
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(QUIET_S),
        lifespan="off",
        **(tls or {}),
    )
    return uvicorn.Server(config)


async def _serve(app: App, server: uvicorn.Server, listening: socket.socket, ready: Callable[[str], object], scheme: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve([listening]))
    host, port = listening.getsockname()[:2]
    ready(f"{scheme}://{_reachable(host)}:{port}")
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    log.info("shutting down: requests at work are finished first")
    await app.service.drain(DRAIN_S)
    server.should_exit = True
    await serving
    stopping.cancel()
    close = getattr(app.service.engine, "close", None)
    if close is not None:
        await asyncio.to_thread(close)


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet. Errors: InputError where the address cannot be taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sends small messages at once only where it is named
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(f"cannot listen at {host}, port {port}: {error}") from None
    listening.setblocking(False)
    return listening


def _reachable(host: str) -> str:
    """An address that a phone can open, for one that means all of them."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only picks the interface
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def say_address(url: str, token: str | None) -> None:
    """The address and its QR code, with a token in the fragment, which browsers send nowhere; a log gets no token."""
    seen = sys.stdout.isatty()
    link = f"{url}/#token={token}" if token and seen else f"{url}/"
    print(f"megen: open {link}" + (" with a token of the file, as #token=..." if token and not seen else ""), flush=True)
    if seen:
        segno.make(link, micro=False).terminal(compact=True)


def set_threads(count: int | None) -> None:
    """Pin PyTorch's threads: other counts round differently."""
    if count is not None:
        torch.set_num_threads(count)
