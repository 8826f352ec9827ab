"""A payload's header, and the checksums that seal it and all that belongs to it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from megen.codec import features
from megen.codec.entropy import MOST
from megen.codec.pyramid import KINDS, ORDERS
from megen.codec.refinement import LAYER
from megen.types import InputError

MAGIC = b"ME"
VERSION = 3
MAX_SIDE, MAX_CHANNELS = 128, 256
MAX_AMPLITUDE = 2.0**20  # features are of unit variance
FILE_PRIOR, OWN_SCALES = 0, 1  # codes of how features are predicted
REDUCTIONS = ("merging", "transform")  # what makes features fewer; other codes are kept free
CRC_BYTES = 3  # of a feature part; the header and the map have four
CRC = struct.Struct("<I")

# magic, version, depth (0: analog), order, prior, reduction, refinement layer, height, width, channels, rows, amplitude, backbone
LAYOUT = struct.Struct("<2sBBBBBBHHHHfI")


class CodecError(InputError):
    """Bytes that are not a whole, unchanged part of a payload."""


@dataclass(frozen=True)
class Header:
    """What the receiver must know before it can read the rest. Errors: CodecError on what no payload can have, on both sides."""

    height: int
    width: int
    channels: int
    rows: int
    backbone: int  # CRC-32 of the backbone's fingerprint: features of one mean nothing to another
    depth: int = 0  # quarter bits of the quantiser; 0: the features travel as analog symbols
    amplitude: float = 0.0  # root mean square of the features where they travel as analog symbols
    order: str = "band"  # of the feature parts
    scales: bytes = b""  # a scale class for each (kind of stage, channel) where no net of the codec file predicts
    reduction: str = "merging"  # "transform": as many coefficients as `rows` tokens have values

    def __post_init__(self) -> None:
        if self.depth and not features.MIN_DEPTH <= self.depth <= features.MAX_DEPTH:
            raise CodecError(f"no payload has a depth of {self.depth} quarter bits")
        if self.order == "layer" and self.depth < features.MIN_DEPTH + LAYER:
            raise CodecError(f"no payload in layers has a depth of {self.depth} quarter bits")
        if self.reduction == "transform" and self.depth:
            raise CodecError("no payload has transform coefficients but an analog one")
        if not 0 <= self.amplitude <= MAX_AMPLITUDE:
            raise CodecError(f"no payload has an amplitude of {self.amplitude}: at most {MAX_AMPLITUDE:.0f} can be")
        if not is_grid(self.grid) or not 1 <= self.channels <= MAX_CHANNELS:
            sizes = f"a grid of {self.height} x {self.width} x {self.channels}"
            raise CodecError(f"{sizes}, which no backbone has: sides are even, 2 to {MAX_SIDE}, and channels 1 to {MAX_CHANNELS}")
        if not self.height * self.width // 4 <= self.rows <= self.height * self.width:
            raise CodecError(f"{self.rows} rows for {self.height} x {self.width} tokens: at most three quarters can merge")
        if len(self.scales) not in (0, KINDS * self.channels) or max(self.scales, default=0) > MOST:
            raise CodecError(f"{len(self.scales)} scales, expected {KINDS * self.channels} of at most {MOST}")

    @property
    def analog(self) -> bool:
        return self.depth == 0

    @property
    def grid(self) -> tuple[int, int]:
        return self.height, self.width


def is_grid(sides: tuple[int, ...]) -> bool:
    """Whether two sides are those of a token grid: even, and not too large."""
    return isinstance(sides, tuple) and len(sides) == 2 and all(n in range(2, MAX_SIDE + 1, 2) for n in sides)


def crc_of(body: bytes, header: bytes) -> int:
    """CRC-32 that starts from the header's own, its last bytes: one over them too would be the same for every header."""
    return zlib.crc32(body, CRC.unpack(header[-CRC.size :])[0] if header else 0)


def seal(body: bytes, header: bytes = b"") -> bytes:
    """A body and its checksum."""
    return body + CRC.pack(crc_of(body, header))


def opened(part: bytes, what: str, header: bytes = b"") -> bytes:
    """The body of what `seal` gave. Errors: CodecError."""
    if len(part) < CRC.size:
        raise CodecError(f"the {what} is {len(part)} bytes long: it was cut in transit")
    body, (crc,) = part[: -CRC.size], CRC.unpack(part[-CRC.size :])
    if crc_of(body, header) != crc:
        raise CodecError(f"the {what} fails its checksum: it was changed in transit")
    return body


def layer_code(order: str) -> int:
    """How many quarter bits a refinement layer adds; 0 where there is none."""
    return LAYER if order == "layer" else 0


def encode_header(header: Header) -> bytes:
    """The header as bytes."""
    ways = (ORDERS.index(header.order), OWN_SCALES if header.scales else FILE_PRIOR, REDUCTIONS.index(header.reduction))
    codes = (header.depth, *ways, layer_code(header.order))
    sizes = (header.height, header.width, header.channels, header.rows)
    return seal(LAYOUT.pack(MAGIC, VERSION, *codes, *sizes, header.amplitude, header.backbone) + header.scales)


def decode_header(part: bytes) -> Header:
    """Read a header. Errors: CodecError."""
    body = opened(part, "header")
    if len(body) < 3 or body[:2] != MAGIC:
        raise CodecError("not the header of a payload")
    if body[2] != VERSION:
        mend = "have it sent again by a megen of today" if body[2] < VERSION else "update this megen"
        raise CodecError(f"a payload of format {body[2]}, this megen reads format {VERSION} only: {mend}")
    if len(body) < LAYOUT.size:
        raise CodecError(f"the header is {len(part)} bytes long, expected at least {LAYOUT.size + CRC.size}")
    _, _, depth, order, prior, reduction, layer, height, width, channels, rows, amplitude, backbone = LAYOUT.unpack(body[: LAYOUT.size])
    for name, code, count in (
        ("order of parts", order, len(ORDERS)),
        ("prior", prior, OWN_SCALES + 1),
        ("reduction", reduction, len(REDUCTIONS)),
    ):
        if code >= count:
            raise CodecError(f"the header names {name} {code}, which this megen does not know: update it")
    if layer != layer_code(ORDERS[order]):
        raise CodecError(f"the header names refinement layer {layer}, which this megen does not know: update it")
    scales = body[LAYOUT.size :]
    if bool(scales) != (prior == OWN_SCALES):
        raise CodecError(
            f"the header has {len(scales)} scales, expected {KINDS * channels if prior == OWN_SCALES else 0} of at most {MOST}"
        )
    return Header(height, width, channels, rows, backbone, depth, amplitude, ORDERS[order], scales, REDUCTIONS[reduction])
