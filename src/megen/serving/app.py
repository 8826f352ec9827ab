"""The app: routes, headers, health, and the shutdown that loses nothing."""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from megen import __version__
from megen.halves import Receives
from megen.protocol.messages import ErrorCode, Welcome
from megen.serving.access import Access
from megen.serving.connection import POLICY, Connection, close_with
from megen.serving.goodput import Goodputs
from megen.serving.images import ImageRequest, Images, failure
from megen.serving.logs import request_ended
from megen.serving.metrics import CONTENT_TYPE, Metrics
from megen.serving.request import Served
from megen.serving.service import Service

if TYPE_CHECKING:
    import onnx

PAGE = Path(__file__).parents[1] / "assets" / "web"
FOREVER, NEVER = "public, max-age=31536000, immutable", "no-cache"
CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; img-src 'self' blob: data:;"
    " style-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {  # the last two give the page threads
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# files that gzip makes smaller
SQUEEZED = (".js", ".mjs", ".css", ".html", ".json", ".webmanifest", ".svg", ".wasm", ".onnx", ".safetensors")


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    data: bytes
    media_type: str
    cache: str

    @cached_property
    def squeezed(self) -> bytes:
        """The data by gzip."""
        return gzip.compress(self.data, 9, mtime=0)


@dataclass(frozen=True)
class Decoding:
    """What user equipments are offered to decode with, the files, by their paths, and how this server decodes for those that cannot."""

    offered: Welcome
    receiver: Receives
    files: dict[str, Asset]


class App:
    """Routes of one server; `asgi` is the application."""

    def __init__(self, service: Service, access: Access, decoding: Decoding, page: Path = PAGE) -> None:
        self.service, self.access, self.metrics = service, access, Metrics()
        self.metrics.follow(service)
        service.outcomes.on_end = self.ended
        self.files = {**page_files(page), **decoding.files}
        self._goodputs = Goodputs()
        self._offered = decoding.offered
        self.images = Images(service, access, decoding.receiver, decoding.offered.backbone, self._refused)
        routed = Starlette(
            routes=[
                WebSocketRoute("/v1/ws", self.socket),
                Route("/v1/images/generations", self.images.generate, methods=["POST"]),
                Route("/v1/images/{name}", self.images.image),
                Route("/healthz", self.health),
                Route("/readyz", self.ready),
                Route("/metrics", self.figures),
                Route("/openapi.json", self.description),
                Route("/{path:path}", self.file),
            ],
            exception_handlers={404: self.unknown, 405: self.not_allowed, 500: self.broken},
        )
        self.asgi = Headers(_for_other_sites(routed, access.origins), access.origins)  # around all: an answer of 500 has them too

    def _refused(self, code: ErrorCode) -> None:
        self.metrics.refused.labels(code).inc()

    def ended(self, served: Served) -> None:
        """A request is over at the server."""
        self.metrics.end(served)
        request_ended(served)

    async def socket(self, socket: WebSocket) -> None:
        """The protocol of `megen.protocol`."""
        address = socket.client.host if socket.client else ""
        if not self.access.origin_allowed(socket.headers.get("origin"), socket.headers.get("host")):
            self._refused("unauthorised")
            return await socket.close(POLICY, "this page is of another origin")  # HTTP 403
        if not self.access.enter(address):
            self._refused("too_many")
            await socket.accept()
            return await close_with(socket, POLICY, "too_many", "too many connections of this address")
        try:
            await Connection(socket, self.service, self.access, self.metrics, self._offered, self._goodputs, address=address).serve()
        finally:
            self.access.leave(address)
        return None

    async def health(self, request: Request) -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(self, request: Request) -> Response:
        """Whether it takes requests."""
        free = self.service.settings.capacity - len(self.service.scheduler)
        good = not self.service.draining and free > 0
        return JSONResponse({"status": "ready" if good else "draining" if self.service.draining else "full"}, 200 if good else 503)

    async def figures(self, request: Request) -> Response:
        """Prometheus's figures."""
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def description(self, request: Request) -> Response:
        """The HTTP part of the app by OpenAPI."""
        return JSONResponse(openapi())

    async def file(self, request: Request) -> Response:
        """The page's files, and those that decode."""
        path = "/" + request.path_params["path"]
        asset = self.files.get("/index.html" if path == "/" else path)
        if asset is None:
            return failure(404, "nothing is here", "not_found")
        headers = {"Cache-Control": asset.cache, "Vary": "Accept-Encoding"}
        if (path.endswith(SQUEEZED) or path == "/") and takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(
                await asyncio.to_thread(getattr, asset, "squeezed"),
                media_type=asset.media_type,
                headers={**headers, "Content-Encoding": "gzip"},
            )
        return Response(asset.data, media_type=asset.media_type, headers=headers)

    async def unknown(self, request: Request, error: Exception) -> Response:
        """404."""
        return failure(404, "nothing is here", "not_found")

    async def not_allowed(self, request: Request, error: Any) -> Response:
        """405."""
        answer = failure(405, "this method is not for this path", "method_not_allowed")
        answer.headers.update(getattr(error, "headers", None) or {})
        return answer

    async def broken(self, request: Request, error: Exception) -> Response:
        """500, without a traceback for the client."""
        return failure(500, f"failed unexpectedly, by {type(error).__name__}", "server_error")


def takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` header names gzip, with a weight above 0."""
    for entry in accepted.lower().split(","):
        name, _, weight = entry.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


def _for_other_sites(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Lets pages of the sites that were named read what is served, and ask by the images call."""
    return CORSMiddleware(app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=("*",)) if origins else app


class Headers:
    """Adds `HEADERS` to every answer; where other sites are named, their pages may embed what is served."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...] = ()) -> None:
        self.app = app
        sites = {"Cross-Origin-Resource-Policy": "cross-origin"} if origins else {}
        self.headers = {**HEADERS, **sites}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.lower().encode(), v.encode()) for k, v in self.headers.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        forward: Callable[[Message], Awaitable[None]] = with_headers if scope["type"] == "http" else send
        await self.app(scope, receive, forward)


def page_files(folder: Path) -> dict[str, Asset]:
    """Files of the built page by path; those under `assets/` carry a hash of their content in their names."""
    out = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            path = "/" + file.relative_to(folder).as_posix()
            kind = "application/manifest+json" if file.suffix == ".webmanifest" else mimetypes.guess_type(file.name)[0]
            cache = FOREVER if path.startswith("/assets/") else NEVER
            out[path] = Asset(file.read_bytes(), kind or "application/octet-stream", cache)
    return out


def openapi() -> dict[str, Any]:
    """The description of the HTTP endpoints."""
    schema = ImageRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    answer = {"description": "The images", "content": {"application/json": {}, "text/event-stream": {}}}
    problem = {"description": "What was wrong, as OpenAI's API says it", "content": {"application/json": {}}}
    codes = dict.fromkeys(("400", "401", "429", "503"), problem)
    plain = {"200": {"description": "ok"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "megen edge server", "version": __version__},
        "paths": {
            "/v1/images/generations": {
                "post": {
                    "operationId": "generate_image",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
                    "responses": {"200": answer, **codes},
                }
            },
            "/v1/images/{name}": {
                "get": {
                    "operationId": "get_image",
                    "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}],
                    "responses": {"200": {"description": "The picture", "content": {"image/png": {}}}, "404": problem},
                }
            },
            "/healthz": {"get": {"operationId": "health", "responses": plain}},
            "/readyz": {"get": {"operationId": "ready", "responses": {**plain, "503": {"description": "draining or full"}}}},
            "/metrics": {"get": {"operationId": "metrics", "responses": plain}},
        },
    }


def graph_asset(model: onnx.ModelProto) -> Asset:
    """A receiver's or denoiser's graph with all its weights in one file."""
    return Asset(model.SerializeToString(), "application/octet-stream", FOREVER)
