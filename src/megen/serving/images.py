"""`POST /v1/images/generations`: the call of OpenAI's images API, for clients that decode nothing. Here the edge server decodes.

The payload is the one that a phone would get, without a link. `stream` with `partial_images` sends previews as server-sent events.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from megen.errors import InputError, MegenError, RunError
from megen.halves import Receives
from megen.protocol.frames import PREVIEW
from megen.protocol.messages import LARGEST_SEED, MOST_PROMPT_CHARS, Backbone, Done, Error, ErrorCode, Generate, Message, first_fault
from megen.serving.access import Access, bearer
from megen.serving.request import Piece, Served
from megen.serving.scheduler import BusyError
from megen.serving.service import Service
from megen.types import ChannelState, Received

MOST_BODY_BYTES = 64 * 1024
KEPT_IMAGES = 64  # behind links, of `response_format` url
JPEG_QUALITY = 90
DECODED_AT_ONCE = 2  # each takes some 100 MB
CLIENT_CLOSED = 499  # nobody reads it
LOCAL_BPS = 1e9  # the controller's rate of a picture that crosses no link as features


Asked = tuple[Served, asyncio.Queue[Message | Piece]]  # a request, and what it has to say
OnRefusal = Callable[[ErrorCode], object]


class ImageRequest(BaseModel):
    """The body. What the embedded backbone cannot do (a background, moderation, ...) is accepted where it changes nothing, else refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=MOST_PROMPT_CHARS)]
    model: Annotated[str, StringConstraints(max_length=200)] | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = 1
    size: Annotated[str, StringConstraints(max_length=20)] | None = "auto"
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = "auto"
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] | None = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque"] | None = "auto"
    moderation: Literal["auto", "low"] | None = "auto"
    style: Literal["vivid", "natural"] | None = None
    user: Annotated[str, StringConstraints(max_length=200)] | None = None
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED - 10)] | None = None  # of the first image; an addition to the call

    def steps(self, offered: Sequence[int]) -> int | None:
        """Denoising steps of a quality, by those that the backbone offers; None: the controller decides."""
        middle = len(offered) // 2
        few, usual, more = offered[0], offered[middle], offered[min(middle + 1, len(offered) - 1)]
        return {"low": few, "medium": usual, "standard": usual, "high": more, "hd": more}.get(self.quality or "auto")


class Images:
    """The endpoint, and the pictures that its links lead to."""

    def __init__(self, service: Service, access: Access, receiver: Receives, backbone: Backbone, on_refusal: OnRefusal) -> None:
        self.service, self.access, self.receiver, self.on_refusal = service, access, receiver, on_refusal
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)
        self.image_px, self.steps = backbone.image_px, sorted(backbone.steps)
        self._kept: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    async def generate(self, request: Request) -> Response:
        """Make `n` images."""
        if not self.access.origin_allowed(request.headers.get("origin"), request.headers.get("host")):
            return self._refused("unauthorised", 403, "this page is of another origin", "origin_not_allowed")
        owner = self.access.owner(bearer(request.headers.get("authorization")))
        if owner is None:
            why = "this server asks for a bearer token, and this is not one of its own"
            return self._refused("unauthorised", 401, why, "invalid_api_key")
        payer = self.access.payer(owner, request.client.host if request.client else "")
        try:
            asked = await self._body(request)
            wait_s = self.access.retry_after_s(payer, asked.n or 1)
        except InputError as error:
            return self._refused("bad_request", 400, str(error), "invalid_request_error")
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED)
        if wait_s:
            return self._refused("too_many", 429, "too many requests", "rate_limit_exceeded", retry_after_s=wait_s)
        jobs = []
        try:
            self.service.check_room(asked.n or 1)
            for k in range(asked.n or 1):
                jobs.append(self._submit(asked, owner, k))
        except MegenError as error:
            for job in jobs:  # all of them, or none
                self._stop(job)
            return self._not_taken(error)
        self.access.took(payer, len(jobs))
        if asked.stream:
            return StreamingResponse(self._events(asked, jobs), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        return await while_connected(request, self._pictures(request, asked, jobs))

    async def _pictures(self, request: Request, asked: ImageRequest, jobs: list[Asked]) -> Response:
        try:
            pictures = [await self._picture(asked, job) for job in jobs]
        except InputError as error:
            return failure(400, str(error), "invalid_request_error")
        except RunError as error:
            return failure(500, str(error), "server_error")
        finally:
            for job in jobs:
                self._stop(job)
        base = str(request.base_url)
        entries = [self._entry(asked, picture, job, base) for picture, job in zip(pictures, jobs, strict=True)]
        return JSONResponse({"created": int(time.time()), "data": entries, **self._about(asked)})

    def _not_taken(self, error: MegenError) -> Response:
        """Why a request was not taken on."""
        if isinstance(error, BusyError):
            return self._refused("busy", 503, str(error), "server_busy", retry_after_s=error.retry_after_s)
        if isinstance(error, InputError):
            return self._refused("bad_request", 400, str(error), "invalid_request_error")
        return self._refused("draining" if self.service.draining else "failed", 503, str(error), "server_error", retry_after_s=1.0)

    def _refused(self, counted: ErrorCode, status: int, message: str, code: str, retry_after_s: float | None = None) -> Response:
        self.on_refusal(counted)
        return failure(status, message, code, retry_after_s)

    async def image(self, request: Request) -> Response:
        """A picture behind a link."""
        found = self._kept.get(request.path_params["name"])
        if found is None:
            return failure(404, "no such picture: links last for a while only", "not_found")
        return Response(found[0], media_type=f"image/{found[1]}", headers={"Cache-Control": "private, max-age=600"})

    async def _body(self, request: Request) -> ImageRequest:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                raise InputError(f"the body has more than {MOST_BODY_BYTES} bytes")
        try:
            asked = ImageRequest.model_validate_json(body)
        except ValidationError as error:
            raise InputError(first_fault(error, "body")) from None
        own = "{}x{}".format(*self.image_px)
        if asked.size not in (None, "auto", own):
            raise InputError(f"size: this server makes {own} alone, got {asked.size}")
        if asked.stream and (asked.n or 1) > 1:
            raise InputError("n: a stream has one image")
        return asked

    def _submit(self, asked: ImageRequest, owner: str, number: int) -> Asked:
        events: asyncio.Queue[Message | Piece] = asyncio.Queue()
        seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed + number
        steps, previews = asked.steps(self.steps), bool(asked.partial_images)
        wanted = Generate(id=secrets.token_hex(16), prompt=asked.prompt, seed=seed, steps=steps, previews=previews)
        served = self.service.submit(
            wanted,
            owner,
            lambda s, e: events.put_nowait(e),
            channel=ChannelState(None, 0.0, LOCAL_BPS),
            decode_s=None,
            previews=("webp",),
            decodes=False,
        )
        return served, events

    def _stop(self, job: Asked) -> None:
        """Nobody waits for it any more: a client of this call has no way to come back."""
        self.service.cancel(job[0])
        self.service.outcomes.forgotten(job[0])

    async def _picture(self, asked: ImageRequest, job: Asked) -> bytes:
        async for _ in self._until_done(job):
            pass
        return await self._decoded(asked, job[0])

    async def _until_done(self, job: Asked) -> AsyncIterator[bytes]:
        """Previews until the features are there. Errors: InputError, RunError as the request ended."""
        while True:
            event = await job[1].get()
            if isinstance(event, Piece) and event.kind == PREVIEW:
                yield event.data
            elif isinstance(event, Error):
                raise (RunError if event.retryable else InputError)(event.message)
            elif isinstance(event, Done):
                return

    async def _decoded(self, asked: ImageRequest, served: Served) -> bytes:
        assert served.payload is not None
        options = {"quality": asked.output_compression if asked.output_compression is not None else JPEG_QUALITY}
        out = io.BytesIO()
        form = asked.output_format or "png"
        received = Received(served.payload)

        def draw() -> None:
            Image.fromarray(self.receiver.decode(received)).save(out, form, **({} if form == "png" else options))

        await self._decoding.acquire()
        drawn = asyncio.get_running_loop().run_in_executor(None, draw)
        drawn.add_done_callback(lambda _: self._decoding.release())  # when it is over, also where nobody waits any more
        await asyncio.shield(drawn)
        return out.getvalue()

    def _entry(self, asked: ImageRequest, picture: bytes, job: Asked, base: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"revised_prompt": job[0].completed.text, "seed": job[0].asked.seed}
        if asked.response_format != "url":
            return {"b64_json": base64.b64encode(picture).decode(), **entry}
        form = asked.output_format or "png"
        name = f"{secrets.token_urlsafe(24)}.{form}"
        self._kept[name] = (picture, form)
        while len(self._kept) > KEPT_IMAGES:
            self._kept.popitem(last=False)
        return {"url": f"{base}v1/images/{name}", **entry}

    def _about(self, asked: ImageRequest) -> dict[str, Any]:
        size = "{}x{}".format(*self.image_px)
        quality = {"standard": "medium", "hd": "high"}.get(asked.quality or "auto", asked.quality or "auto")
        return {"size": size, "quality": quality, "background": "opaque", "output_format": asked.output_format or "png"}

    async def _events(self, asked: ImageRequest, jobs: list[Asked]) -> AsyncIterator[bytes]:
        job, shown, about = jobs[0], 0, self._about(asked)
        try:
            async for preview in self._until_done(job):
                if shown < (asked.partial_images or 0):
                    fields = {"partial_image_index": shown, **about, "output_format": "webp"}
                    yield _event("image_generation.partial_image", preview, fields)
                    shown += 1
            picture = await self._decoded(asked, job[0])
            usage = {
                "input_tokens": 0,
                "output_tokens": 0,
                "total_tokens": 0,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
            }
            yield _event("image_generation.completed", picture, {**about, "usage": usage})
        except (InputError, RunError) as error:
            body = {"type": "error", "error": {"message": str(error), "type": "server_error", "code": "failed", "param": None}}
            yield f"event: error\ndata: {json.dumps(body)}\n\n".encode()
        finally:
            self._stop(job)


async def while_connected(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer of a request whose body was read; where its client goes first, the work stops."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, leaving = asyncio.create_task(answer), asyncio.create_task(gone())
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=CLIENT_CLOSED)
    finally:
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


def _event(name: str, picture: bytes, fields: dict[str, Any]) -> bytes:
    body = {"type": name, "b64_json": base64.b64encode(picture).decode(), "created_at": int(time.time()), **fields}
    return f"event: {name}\ndata: {json.dumps(body)}\n\n".encode()


def failure(status: int, message: str, code: str, retry_after_s: float | None = None) -> JSONResponse:
    """An error in the form of OpenAI's API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, round(retry_after_s)))}
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, headers)
