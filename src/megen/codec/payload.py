"""A payload's parts to bytes and back, each with its own checksum. NumPy only.

Header, merge map, and the features' parts. Checksums start from the header's, so that parts of two
payloads do not mix. Whatever bytes come in, decoding gives what was encoded or raises `CodecError`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import constriction
import numpy as np

from megen.codec import features
from megen.codec.prior import Prior
from megen.codec.pyramid import part_of, segments
from megen.types import FloatArray, IntArray, Payload

MAGIC = b"ME"
VERSION = 2
MAX_SIDE, MAX_CHANNELS = 128, 256
CRC_BYTES = 3  # of a feature part; the header and the map have four
CHOICES = 8  # destinations that a source may merge into
WEIGHTS = 15  # a choice's frequency is told in four bits
_HEADER = struct.Struct("<2sBBHHHHfI")  # magic, version, depth (0: analog), height, width, channels, rows, amplitude, backbone
_CRC = struct.Struct("<I")


class CodecError(ValueError):
    """Bytes that are not a whole, unharmed part of a payload."""


@dataclass(frozen=True)
class Header:
    """What the receiver must know before it can read the rest."""

    height: int
    width: int
    channels: int
    rows: int
    backbone: int  # CRC-32 of the backbone's identity: features of one mean nothing to another
    depth: int = 0  # quarter bits of the quantiser; 0: the features travel as analog symbols
    amplitude: float = 0.0  # root mean square of the features where they travel as analog symbols

    @property
    def analog(self) -> bool:
        return self.depth == 0


def _crc(body: bytes, header: bytes) -> int:
    # from the header's own CRC, its last bytes: a CRC over them too would be the same for every header
    return zlib.crc32(body, _CRC.unpack(header[-_CRC.size :])[0] if header else 0)


def _seal(body: bytes, header: bytes = b"") -> bytes:
    return body + _CRC.pack(_crc(body, header))


def _open(part: bytes, what: str, header: bytes = b"") -> bytes:
    if len(part) < _CRC.size:
        raise CodecError(f"the {what} is {len(part)} bytes long: it was cut on its way")
    body, (crc,) = part[: -_CRC.size], _CRC.unpack(part[-_CRC.size :])
    if _crc(body, header) != crc:
        raise CodecError(f"the {what} fails its checksum: it was changed on its way")
    return body


def _part_crc(body: bytes, number: int, header: bytes) -> bytes:
    return _CRC.pack(_crc(bytes([number % 256]) + body, header))[:CRC_BYTES]


def encode_header(header: Header) -> bytes:
    """The header as bytes."""
    sizes = (header.depth, header.height, header.width, header.channels, header.rows)
    return _seal(_HEADER.pack(MAGIC, VERSION, *sizes, header.amplitude, header.backbone))


def decode_header(part: bytes) -> Header:
    """Read a header. Errors: CodecError."""
    body = _open(part, "header")
    if len(body) != _HEADER.size:
        raise CodecError(f"the header is {len(part)} bytes long, expected {_HEADER.size + _CRC.size}")
    magic, version, depth, height, width, channels, rows, amplitude, backbone = _HEADER.unpack(body)
    if magic != MAGIC or version != VERSION:
        raise CodecError(f"not a payload of version {VERSION} (magic {magic!r}, version {version})")
    if depth and not features.MIN_DEPTH <= depth <= features.MAX_DEPTH:
        raise CodecError(f"the header names a depth of {depth} quarter bits")
    if not np.isfinite(amplitude) or amplitude < 0:
        raise CodecError(f"the header names an amplitude of {amplitude}")
    sides = (height, width)
    if any(side < 2 or side > MAX_SIDE or side % 2 for side in sides) or not 1 <= channels <= MAX_CHANNELS:
        raise CodecError(f"the header names a grid of {height} x {width} x {channels}, which no backbone has")
    if not height * width // 4 <= rows <= height * width:
        raise CodecError(f"the header names {rows} rows for {height} x {width} tokens")
    return Header(height, width, channels, rows, backbone, depth, amplitude)


def _shares(weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights / weights.sum())  # of small whole numbers: the same everywhere


def encode_map(choice: IntArray, header: bytes) -> bytes:
    """A merge choice per source (-1: stays): which move, then where to, entropy-coded; nothing where none merged.

    How many move is known from the header; how often each of the eight neighbours is chosen is told in four bits each.
    """
    moved = choice >= 0
    if not moved.any():
        return b""
    coder = constriction.stream.queue.RangeEncoder()
    if not moved.all():
        coder.encode(moved.astype(np.int32), _moves(len(moved), int(moved.sum())))
    counts = np.bincount(choice[moved], minlength=CHOICES)
    weights = -(-counts * WEIGHTS // counts.max())
    if np.count_nonzero(weights) > 1:
        coder.encode(choice[moved].astype(np.int32), constriction.stream.model.Categorical(_shares(weights), perfect=False))
    told = np.packbits((weights[:, None] >> np.arange(4)) & 1).tobytes()
    return _seal(told + coder.get_compressed().astype("<u4").tobytes(), header)


def _moves(sources: int, count: int) -> object:
    return constriction.stream.model.Categorical(np.array([sources - count, count]) / sources, perfect=False)


def decode_map(payload: Payload, header: Header) -> IntArray:
    """The merge choice of every source, as `encode_map` took it. Errors: CodecError."""
    tokens = header.height * header.width
    sources, count = tokens - tokens // 4, tokens - header.rows
    choice = np.full(sources, -1, np.int64)
    if not count and not payload.merge_map:
        return choice
    body = _open(payload.merge_map, "merge map", payload.header)
    if len(body) < 4 or len(body) % 4:
        raise CodecError("the merge map is not made of whole words")
    weights = np.unpackbits(np.frombuffer(body[:4], np.uint8)).reshape(CHOICES, 4) @ (1 << np.arange(4))
    coder = constriction.stream.queue.RangeDecoder(np.frombuffer(body[4:], "<u4").astype(np.uint32))
    try:
        moved = np.ones(sources, bool) if count == sources else coder.decode(_moves(sources, count), sources).astype(bool)
        if moved.sum() != count or count == 0 or not weights.any():
            raise CodecError(f"the merge map moves {moved.sum()} tokens, the header says {count}")
        if np.count_nonzero(weights) > 1:
            choice[moved] = coder.decode(constriction.stream.model.Categorical(_shares(weights), perfect=False), count)
        else:
            choice[moved] = weights.argmax()
    except AssertionError as error:  # what constriction raises on bits that no encoder wrote
        raise CodecError("the merge map holds bits that no encoder wrote") from error
    return choice


def encode(rows: FloatArray, choice: IntArray, mapping: IntArray, header: Header, prior: Prior) -> Payload:
    """One payload at the header's depth of rows [n, c], the merge choice and the merge map that it gives.

    The features stay out of it where it is analog. Errors: ValueError on values that cannot be coded.
    """
    first = encode_header(header)
    payload = Payload(first, encode_map(choice, first))
    if header.analog:
        return payload
    bodies = features.encode_parts(rows, mapping, (header.height, header.width), prior, header.depth)
    return replace(payload, features=tuple(b + _part_crc(b, i, first) for i, b in enumerate(bodies)))


def encode_within(bits_budget: int, rows: FloatArray, choice: IntArray, mapping: IntArray, header: Header, prior: Prior) -> Payload:
    """The payload of the greatest depth that takes at most `bits_budget` bits, by bisection.

    Errors: ValueError where even the smallest depth takes more, naming its bits.
    """
    low, high = features.MIN_DEPTH, features.MAX_DEPTH
    best = encode(rows, choice, mapping, replace(header, depth=low), prior)
    if best.bits()["total"] > bits_budget:
        least = best.bits()["total"]
        raise ValueError(f"a budget of {bits_budget} bits is too small: the coarsest quantiser takes {least}; merge more, or raise it")
    while low < high:
        middle = (low + high + 1) // 2
        payload = encode(rows, choice, mapping, replace(header, depth=middle), prior)
        if payload.bits()["total"] <= bits_budget:
            low, best = middle, payload
        else:
            high = middle - 1
    return best


def decode_protected(payload: Payload, backbone: int) -> tuple[Header, IntArray]:
    """Header and merge choice of a payload. Errors: CodecError, also where it is of another backbone."""
    header = decode_header(payload.header)
    if header.backbone != backbone:
        raise CodecError(f"the payload is of backbone {header.backbone:08x}, this receiver decodes {backbone:08x}")
    return header, decode_map(payload, header)


def decode_features(payload: Payload, header: Header, mapping: IntArray, prior: Prior) -> tuple[FloatArray, np.ndarray]:
    """Rows [n, c] and which tokens' rows arrived [h*w]; a lost part is an empty one, and filled from its neighbours.

    Errors: CodecError, also where the base is lost, from which all else is predicted.
    """
    grid = (header.height, header.width)
    if prior.channels != header.channels:
        raise CodecError(f"the payload has {header.channels} channels, this receiver {prior.channels}")
    if len(payload.features) != len(segments(*grid)):
        raise CodecError(f"the payload has {len(payload.features)} feature parts, expected {len(segments(*grid))}")
    bodies = [_opened(part, i, payload.header) for i, part in enumerate(payload.features)]
    if bodies[0] is None:
        raise CodecError("the base of the features was lost: nothing can be predicted from it")
    try:
        rows = features.decode_parts(bodies, mapping, grid, prior, header.depth)
    except ValueError as error:
        raise CodecError(str(error)) from error
    return rows, np.array([body is not None for body in bodies])[part_of(*grid)[features.own_tokens(mapping, grid)]]


def _opened(part: bytes, number: int, header: bytes) -> bytes | None:
    if not part:
        return None
    body = part[:-CRC_BYTES]
    if len(part) < CRC_BYTES or _part_crc(body, number, header) != part[-CRC_BYTES:]:
        raise CodecError(f"feature part {number} fails its checksum: it was changed on its way")
    return body


def protection(parts: Sequence[bytes]) -> list[float]:
    """Error rate at the first attempt that each part is sent for: header and map, then the base, then the bands."""
    return [0.001, 0.01, *[0.1] * (len(parts) - 1)][: 1 + len(parts)]
