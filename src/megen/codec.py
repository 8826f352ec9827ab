"""Features and merge map to bytes and back, each part with its own CRC. NumPy only.

Every part ends with the CRC-32 of what stands before it. Whatever bytes come in, decoding gives
what was encoded or raises `CodecError`.
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


def _seal(body: bytes) -> bytes:
    return body + _CRC.pack(zlib.crc32(body))


def _open(part: bytes, what: str, length: int) -> bytes:
    if len(part) != length:
        raise CodecError(f"the {what} is {len(part)} bytes long, expected {length}: it was cut or padded on its way")
    body, (crc,) = part[: -_CRC.size], _CRC.unpack(part[-_CRC.size :])
    if zlib.crc32(body) != crc:
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


def encode_map(choice: IntArray) -> bytes:
    """A merge choice per source (-1: stays) as a bitmap plus 3 bits a merged token; nothing where none merged."""
    moved = choice >= 0
    if not moved.any():
        return b""
    three = (choice[moved, None] >> np.array([2, 1, 0])) & 1
    return _seal(np.packbits(np.concatenate([moved, three.ravel().astype(bool)])).tobytes())


def decode_map(part: bytes, header: Header) -> IntArray:
    """The merge choice of every source, as `encode_map` took it. Errors: CodecError."""
    tokens = header.height * header.width
    sources, count = tokens - tokens // 4, tokens - header.rows
    choice = np.full(sources, -1, np.int64)
    if count or part:
        n_bits = sources + 3 * count
        bits = np.unpackbits(np.frombuffer(_open(part, "merge map", (n_bits + 7) // 8 + _CRC.size), np.uint8))
        moved = bits[:sources].astype(bool)
        if moved.sum() != count or count == 0 or bits[n_bits:].any():
            raise CodecError(f"the merge map moves {moved.sum()} tokens, the header says {count}")
        choice[moved] = bits[sources:n_bits].reshape(count, 3) @ np.array([4, 2, 1])
    return choice


def encode_features(rows: FloatArray) -> bytes:
    """Rows [n, c] by a symmetric 8-bit quantiser with one half-precision step a channel."""
    with np.errstate(over="ignore"):  # told below
        step = (np.abs(rows).max(0) / LEVELS).astype(np.float16)
    step = np.maximum(np.nextafter(step, np.float16(np.inf)), np.float16(1e-4))
    if not np.isfinite(step).all():
        raise ValueError("features hold NaN, infinity or values beyond half precision: nothing can be coded")
    levels = np.rint(rows / step.astype(np.float32)).astype(np.int8)
    return _seal(step.astype("<f2").tobytes() + levels.tobytes())


def decode_features(part: bytes, header: Header) -> FloatArray:
    """Rows [n, c]. Errors: CodecError."""
    n, c = header.rows, header.channels
    body = _open(part, "feature part", 2 * c + n * c + _CRC.size)
    step = np.frombuffer(body[: 2 * c], "<f2").astype(np.float32)
    if not np.isfinite(step).all():
        raise CodecError("the feature part holds a step that is no number")
    return np.frombuffer(body[2 * c :], np.int8).reshape(n, c).astype(np.float32) * step


def encode(rows: FloatArray, choice: IntArray, header: Header) -> Payload:
    """One payload; the features stay out of it where `header.analog`."""
    features = None if header.analog else encode_features(rows)
    return Payload(encode_header(header), encode_map(choice), features)


def decode(payload: Payload, backbone: int, rows: FloatArray | None = None) -> tuple[FloatArray, IntArray, Header]:
    """Rows [n, c], merge choice [m] and header; `rows` are the received ones of an analog payload.

    Errors: CodecError, also where the payload is of another backbone.
    """
    header = decode_header(payload.header)
    if header.backbone != backbone:
        raise CodecError(f"the payload is of backbone {header.backbone:08x}, this receiver decodes {backbone:08x}")
    choice = decode_map(payload.merge_map, header)
    if not header.analog:
        if payload.features is None:
            raise CodecError("the payload has no feature part")
        rows = decode_features(payload.features, header)
    elif rows is None or rows.shape != (header.rows, header.channels):
        raise CodecError(f"an analog payload needs {header.rows} x {header.channels} received features")
    return rows, choice, header
