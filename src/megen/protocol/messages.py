"""Control messages as checked models: JSON text frames, told apart by `type`. `docs/protocol.md` says when each may be sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from megen.errors import InputError
from megen.types import LEAST_QUANTISER_BITS, MAX_MERGE_RATIO, MOST_QUANTISER_BITS

VERSION = 1  # of binary frames
PROTOCOLS = (1, 2, 3)  # that this library speaks; 2 is 1 with `denoiser` in the welcome, 3 is 2 with `tiles` there
MOST_PROMPT_CHARS = 2000
MOST_TEXT_BYTES = 64 * 1024  # of a control message
LARGEST_SEED = 2**53 - 1  # that a JSON number holds everywhere
MOST_PARTS = 64  # header, map and feature parts of a payload
LONGEST_S = 1e6

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]  # 128 random bits, drawn by the user equipment
Name = Annotated[str, StringConstraints(max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)]


class ProtocolError(InputError):
    """What breaks the protocol; `close_code` is that of the WebSocket, None where the connection goes on."""

    def __init__(self, message: str, close_code: int | None = 1002, request: str | None = None) -> None:
        super().__init__(message)
        self.close_code, self.request = close_code, request


class Message(BaseModel):
    """Frozen, strict about types, and without fields that the protocol does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def text(self) -> str:
        """The message as it is sent."""
        return self.model_dump_json(exclude_none=True)


class Hello(Message):
    """The user equipment's first message; a token where the server asks for one."""

    type: Literal["hello"] = "hello"
    protocols: Annotated[tuple[int, ...], Field(min_length=1, max_length=8)] = PROTOCOLS
    client: Name = ""
    token: Name | None = None
    decode_s: Positive | None = None  # what one picture's decoding takes here, where it was measured
    previews: tuple[Literal["webp", "jpeg"], ...] = ()  # formats that can be shown, the preferred one first


class Generate(Message):
    """A request. What of the decision is left out the server's controller chooses, by the limits given."""

    type: Literal["generate"] = "generate"
    id: Id
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=MOST_PROMPT_CHARS)]
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    deadline_s: Positive | None = None
    energy_j: Positive | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    merge_ratio: Annotated[float, Field(ge=0, le=MAX_MERGE_RATIO)] | None = None
    quantiser_bits: Annotated[float, Field(ge=LEAST_QUANTISER_BITS, le=MOST_QUANTISER_BITS, multiple_of=0.25)] | None = None
    as_typed: bool = False
    previews: bool = True


class Ack(Message):
    """A binary frame is there: its bytes, and the milliseconds since the message before it arrived."""

    type: Literal["ack"] = "ack"
    id: Id
    sequence: Annotated[int, Field(ge=0, lt=2**32)]
    bytes: Annotated[int, Field(ge=0, le=2**31)]
    ms: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Cancel(Message):
    """Stop a request. A lost connection is no cancel: the image is kept for a resume."""

    type: Literal["cancel"] = "cancel"
    id: Id


class Resume(Message):
    """Go on with a request of an earlier connection; `have` are the parts that arrived."""

    type: Literal["resume"] = "resume"
    id: Id
    have: Annotated[tuple[Annotated[int, Field(ge=0, lt=MOST_PARTS)], ...], Field(max_length=MOST_PARTS)] = ()


class Shown(Message):
    """The picture is on the screen: what decoding took, also while parts arrived, and all of it since the request was sent."""

    type: Literal["shown"] = "shown"
    id: Id
    decode_s: Seconds
    latency_s: Seconds


class Backbone(Message):
    """What the server runs, and what a receiver must be made for."""

    name: str
    fingerprint: Annotated[int, Field(ge=0, lt=2**32)]
    latent_shape: tuple[int, int, int]
    image_px: tuple[int, int]
    steps: tuple[int, ...]
    merge_ratios: tuple[float, ...]
    max_words: int


class Tiling(Message):
    """The second graph of a receiver in two, by its path: it is run on parts of the first one's state [1, d, h, w], of `side` places with
    `margin` more around them, which grow by `grows`. The bytes are those of the whole."""

    tail: str
    side: Annotated[int, Field(ge=1, le=8192)]
    margin: Annotated[int, Field(ge=0, le=8192)]
    grows: Annotated[int, Field(ge=1, le=64)]


class Welcome(Message):
    """The server's answer to a hello. `receiver` and `codec` are paths of the files that decode its payloads.

    `denoiser` is that of a graph that cleans coarse features before; pictures of them are worse without it. A client of protocol 1
    does not know it. With `tiles`, which no client before protocol 3 knows, `receiver` is a graph to a state that another makes pixels of.
    Without receiver and codec no user equipment can decode this backbone's features: the server does, and sends pictures.
    """

    type: Literal["welcome"] = "welcome"
    protocol: int
    server: str
    backbone: Backbone
    receiver: str | None = None
    codec: str | None = None
    denoiser: str | None = None
    tiles: Tiling | None = None

    def for_protocol(self, protocol: int) -> Welcome:
        """What a client of an earlier protocol gets: where it cannot decode, the server does for it."""
        unknown = {"protocol": protocol} | ({"denoiser": None} if protocol < 2 else {}) | ({"tiles": None} if protocol < 3 else {})
        if self.tiles is not None and protocol < 3:
            unknown |= {"receiver": None, "codec": None, "denoiser": None}
        return self.model_copy(update=unknown)


class Choice(Message):
    """A decision."""

    steps: int
    merge_ratio: float
    quantiser_bits: float


class Accepted(Message):
    """The request waits or runs: its place in the queue (0: it runs next or already), what was decided and why, what will be drawn.

    It comes again where the place has changed.
    """

    type: Literal["accepted"] = "accepted"
    id: Id
    position: int
    decision: Choice
    why: str
    fits: bool | None = None  # whether its limits are expected to be kept; None where it has none
    expected_s: float | None = None
    prompt: str  # completed
    added: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    conflict: str | None = None  # where the prompt contradicts itself


class Stepped(Message):
    """A denoising step is done."""

    type: Literal["step"] = "step"
    id: Id
    done: int
    of: int


class Coded(Message):
    """The features follow in so many parts, header and map included; or with `picture` a file of that type, cut into so many.

    `bytes` are those of the parts that are coded so far; it may come again before a later part.
    """

    type: Literal["coded"] = "coded"
    id: Id
    parts: int
    bytes: int
    picture: str | None = None


class Done(Message):
    """All parts were sent. The report has what the server knows; times of link and decoding are the user equipment's to add."""

    type: Literal["done"] = "done"
    id: Id
    report: dict[str, Any]


class Cancelled(Message):
    """Nothing more of this request is sent."""

    type: Literal["cancelled"] = "cancelled"
    id: Id


ErrorCode = Literal["protocol", "bad_request", "unauthorised", "busy", "too_many", "unknown_request", "failed", "draining"]


class Error(Message):
    """A request, or without `id` the connection, failed; whether it is worth trying again, and when."""

    type: Literal["error"] = "error"
    code: ErrorCode
    message: str
    id: Id | None = None
    retryable: bool = False
    retry_after_s: float | None = None


FromClient = Hello | Generate | Ack | Cancel | Resume | Shown
FromServer = Welcome | Accepted | Stepped | Coded | Done | Cancelled | Error
_FROM_CLIENT: TypeAdapter[FromClient] = TypeAdapter(Annotated[FromClient, Field(discriminator="type")])
_FROM_SERVER: TypeAdapter[FromServer] = TypeAdapter(Annotated[FromServer, Field(discriminator="type")])


def from_client(text: str) -> FromClient:
    """A control message of the user equipment. Errors: ProtocolError saying what is wrong with it."""
    message: FromClient = _read(_FROM_CLIENT.validate_json, text)
    return message


def from_server(text: str) -> FromServer:
    """A control message of the edge server. Errors: ProtocolError saying what is wrong with it."""
    message: FromServer = _read(_FROM_SERVER.validate_json, text)
    return message


def _read(validate: Callable[[str], Any], text: str) -> Any:
    if len(text.encode("utf-8", "surrogatepass")) > MOST_TEXT_BYTES:
        raise ProtocolError(f"a control message has at most {MOST_TEXT_BYTES} bytes", 1009)
    try:
        return validate(text)
    except ValidationError as error:
        request, said = _id_of(text), first_fault(error)
        raise ProtocolError(f"not a message of protocol {PROTOCOLS[-1]} ({said[:300]})", None if request else 1002, request) from None


def first_fault(error: ValidationError, whole: str = "") -> str:
    """The first thing that a model refused, after its place; `whole` names the place of all of it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or whole
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _id_of(text: str) -> str | None:
    """The request that a refused message belongs to, where that can be read: the connection then goes on."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = value.get("id") if isinstance(value, Mapping) else None
    return found if isinstance(found, str) and len(found) == 32 and set(found) <= set("0123456789abcdef") else None


def schemas() -> dict[str, Any]:
    """JSON schemas of what either side sends."""
    return {"client": _FROM_CLIENT.json_schema(), "server": _FROM_SERVER.json_schema()}
