"""What a link left of a payload, as one byte string: for a file, or a socket's message.

magic, version, flags ── lengths ── header ── map ── parts ── [symbols, variances] ── CRC-32
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from megen.codec.header import CRC, LAYOUT, MAX_CHANNELS, MAX_SIDE, VERSION, CodecError
from megen.codec.pyramid import KINDS, TOP
from megen.types import Payload, Received

MAGIC = b"MEGP"
SYMBOLS = 1  # flag: a section of equalised symbols and variances follows
MAX_PARTS = 1 + MAX_SIDE // TOP
MAX_HEADER = LAYOUT.size + KINDS * MAX_CHANNELS + CRC.size
MAX_PART = 4 * MAX_SIDE**2 * MAX_CHANNELS
MAX_SYMBOLS = MAX_SIDE**2 * MAX_CHANNELS // 2
_START = struct.Struct("<4sBBHII")  # magic, version, flags, feature parts, bytes of the header, bytes of the map
_LENGTH = struct.Struct("<I")
_SYMBOL_BYTES, _VARIANCE_BYTES = 16, 8


def pack(received: Received) -> bytes:
    """What was received as one byte string; a lost part is an empty one. Errors: CodecError on what no payload has."""
    payload, symbols, variance = received.payload, received.symbols, received.variance
    if (symbols is None) != (variance is None) or (symbols is not None and variance is not None and symbols.shape != variance.shape):
        raise CodecError("each equalised symbol needs its noise variance")
    if symbols is not None and symbols.ndim != 1:
        raise CodecError(f"symbols stand in one row, got {' x '.join(map(str, symbols.shape))}")
    if len(payload.features) > MAX_PARTS:
        raise CodecError(f"a payload has at most {MAX_PARTS} feature parts, got {len(payload.features)}")
    flags = 0 if symbols is None else SYMBOLS
    pieces = [
        _START.pack(MAGIC, VERSION, flags, len(payload.features), len(payload.header), len(payload.merge_map)),
        *(_LENGTH.pack(len(part)) for part in payload.features),
    ]
    if symbols is not None:
        pieces.append(_LENGTH.pack(len(symbols)))
    pieces += [payload.header, payload.merge_map, *payload.features]
    if symbols is not None and variance is not None:
        pieces += [symbols.astype("<c16").tobytes(), variance.astype("<f8").tobytes()]
    body = b"".join(pieces)
    _lengths(body)
    return body + CRC.pack(zlib.crc32(body))


def unpack(data: bytes) -> Received:
    """What `pack` was given. Errors: CodecError on anything else."""
    body = memoryview(data)[: -CRC.size]
    lengths, count, at = _lengths(body)
    if zlib.crc32(body) != CRC.unpack(data[-CRC.size :])[0]:
        raise CodecError("the packed payload fails its checksum: it was changed")
    pieces = []
    for length in lengths:
        pieces.append(data[at : at + length])
        at += length
    payload = Payload(pieces[0], pieces[1], tuple(pieces[2:]))
    if count is None:
        return Received(payload)
    symbols = np.frombuffer(data, "<c16", count, at).astype(np.complex128)
    return Received(payload, symbols, np.frombuffer(data, "<f8", count, at + _SYMBOL_BYTES * count).astype(np.float64))


def _lengths(body: bytes | memoryview) -> tuple[list[int], int | None, int]:
    """Bytes of header, map and each feature part, how many symbols follow (None: no such section), and where the header begins."""
    if len(body) < _START.size or body[: len(MAGIC)] != MAGIC:
        raise CodecError("not a packed payload")
    _, version, flags, parts, *lengths = _START.unpack(body[: _START.size])
    if version != VERSION:
        raise CodecError(f"a packed payload of format {version}, this megen reads format {VERSION} only")
    if flags & ~SYMBOLS:
        raise CodecError(f"the packed payload has flags {flags:#04x}, which this megen does not know: update it")
    fields = parts + (flags & SYMBOLS)
    at = _START.size + _LENGTH.size * fields
    if parts > MAX_PARTS or len(body) < at:
        raise CodecError(f"the packed payload names {parts} feature parts: at most {MAX_PARTS}, and all their lengths, can be")
    lengths += struct.unpack(f"<{fields}I", body[_START.size : at])
    count = lengths.pop() if flags & SYMBOLS else None
    symbols = count or 0
    if lengths[0] > MAX_HEADER or max(lengths[1:]) > MAX_PART or symbols > MAX_SYMBOLS:
        raise CodecError("the packed payload names a length that no payload has")
    expected = at + sum(lengths) + symbols * (_SYMBOL_BYTES + _VARIANCE_BYTES)
    if len(body) != expected:
        raise CodecError(f"the packed payload is {len(body) + CRC.size} bytes long, expected {expected + CRC.size}: it was cut")
    return lengths, count, at
