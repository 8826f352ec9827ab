"""Features and merge map to bytes and back, each part with its own CRC. NumPy only.

Every part ends with a CRC-32; those of the map and the features start from the header's, so that
parts of two payloads do not mix. Whatever bytes come in, decoding gives what was encoded or raises
`CodecError`.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from megen.types import FloatArray, IntArray, Payload

MAGIC = b"MEGN"
VERSION = 1
LEVELS = 127  # symmetric 8-bit quantiser
MAX_SIDE, MAX_CHANNELS = 512, 1024
_HEADER = struct.Struct("<4sBBHHHIfI")  # magic, version, analog, height, width, channels, rows, amplitude, backbone
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
    amplitude: float = 0.0  # root mean square of the features where they travel as analog symbols
    analog: bool = False


def _crc(body: bytes, header: bytes) -> int:
    # from the header's own CRC, its last bytes: a CRC over them too would be the same for every header
    return zlib.crc32(body, _CRC.unpack(header[-_CRC.size :])[0] if header else 0)


def _seal(body: bytes, header: bytes = b"") -> bytes:
    return body + _CRC.pack(_crc(body, header))


def _open(part: bytes, what: str, length: int, header: bytes = b"") -> bytes:
    if len(part) != length:
        raise CodecError(f"the {what} is {len(part)} bytes long, expected {length}: it was cut or padded on its way")
    body, (crc,) = part[: -_CRC.size], _CRC.unpack(part[-_CRC.size :])
    if _crc(body, header) != crc:
        raise CodecError(f"the {what} fails its checksum: it was changed on its way")
    return body


def encode_header(header: Header) -> bytes:
    """The header as bytes."""
    fields = (header.height, header.width, header.channels, header.rows, header.amplitude, header.backbone)
    return _seal(_HEADER.pack(MAGIC, VERSION, header.analog, *fields))


def decode_header(part: bytes) -> Header:
    """Read a header. Errors: CodecError."""
    magic, version, analog, height, width, channels, rows, amplitude, backbone = _HEADER.unpack(
        _open(part, "header", _HEADER.size + _CRC.size)
    )
    if magic != MAGIC or version != VERSION:
        raise CodecError(f"not a payload of version {VERSION} (magic {magic!r}, version {version})")
    if analog > 1 or not np.isfinite(amplitude) or amplitude < 0:
        raise CodecError("the header's fields contradict each other")
    sides = (height, width)
    if any(side < 2 or side > MAX_SIDE or side % 2 for side in sides) or not 1 <= channels <= MAX_CHANNELS:
        raise CodecError(f"the header names a grid of {height} x {width} x {channels}, which no backbone has")
    if not height * width // 4 <= rows <= height * width:
        raise CodecError(f"the header names {rows} rows for {height} x {width} tokens")
    return Header(height, width, channels, rows, backbone, amplitude, bool(analog))


def encode_map(choice: IntArray, header: bytes) -> bytes:
    """A merge choice per source (-1: stays) as a bitmap plus 3 bits a merged token; nothing where none merged."""
    moved = choice >= 0
    if not moved.any():
        return b""
    three = (choice[moved, None] >> np.array([2, 1, 0])) & 1
    return _seal(np.packbits(np.concatenate([moved, three.ravel().astype(bool)])).tobytes(), header)


def decode_map(payload: Payload, header: Header) -> IntArray:
    """The merge choice of every source, as `encode_map` took it. Errors: CodecError."""
    tokens = header.height * header.width
    sources, count = tokens - tokens // 4, tokens - header.rows
    choice = np.full(sources, -1, np.int64)
    part = payload.merge_map
    if count or part:
        n_bits = sources + 3 * count
        body = _open(part, "merge map", (n_bits + 7) // 8 + _CRC.size, payload.header)
        bits = np.unpackbits(np.frombuffer(body, np.uint8))
        moved = bits[:sources].astype(bool)
        if moved.sum() != count or count == 0 or bits[n_bits:].any():
            raise CodecError(f"the merge map moves {moved.sum()} tokens, the header says {count}")
        choice[moved] = bits[sources:n_bits].reshape(count, 3) @ np.array([4, 2, 1])
    return choice


def encode_features(rows: FloatArray, header: bytes) -> bytes:
    """Rows [n, c] by a symmetric 8-bit quantiser with one half-precision step a channel."""
    with np.errstate(over="ignore"):  # told below
        step = (np.abs(rows).max(0) / LEVELS).astype(np.float16)
    step = np.maximum(np.nextafter(step, np.float16(np.inf)), np.float16(1e-4))
    if not np.isfinite(step).all():
        raise ValueError("features hold NaN, infinity or values beyond half precision: nothing can be coded")
    levels = np.rint(rows / step.astype(np.float32)).astype(np.int8)
    return _seal(step.astype("<f2").tobytes() + levels.tobytes(), header)


def decode_features(payload: Payload, header: Header) -> FloatArray:
    """Rows [n, c]. Errors: CodecError."""
    if payload.features is None:
        raise CodecError("the payload has no feature part")
    n, c = header.rows, header.channels
    body = _open(payload.features, "feature part", 2 * c + n * c + _CRC.size, payload.header)
    step = np.frombuffer(body[: 2 * c], "<f2").astype(np.float32)
    if not np.isfinite(step).all():
        raise CodecError("the feature part holds a step that is no number")
    return np.frombuffer(body[2 * c :], np.int8).reshape(n, c).astype(np.float32) * step


def encode(rows: FloatArray, choice: IntArray, header: Header) -> Payload:
    """One payload; the features stay out of it where `header.analog`."""
    first = encode_header(header)
    return Payload(first, encode_map(choice, first), None if header.analog else encode_features(rows, first))


def decode_protected(payload: Payload, backbone: int) -> tuple[Header, IntArray]:
    """Header and merge choice of a payload. Errors: CodecError, also where it is of another backbone."""
    header = decode_header(payload.header)
    if header.backbone != backbone:
        raise CodecError(f"the payload is of backbone {header.backbone:08x}, this receiver decodes {backbone:08x}")
    return header, decode_map(payload, header)
