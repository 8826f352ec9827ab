"""Binary frames: a fixed header, and a piece of a payload or a preview. The layout is in `docs/protocol.md`, little-endian."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from megen.protocol.messages import MOST_PARTS, VERSION, ProtocolError
from megen.types import check_number

MAGIC = b"MEGF"
PREVIEW, FEATURES = 1, 2
KINDS = (PREVIEW, FEATURES)
MOST_BYTES = 8 * 2**20  # of a frame's data
_LAYOUT = struct.Struct("<4sBBH16sII")  # magic, version, kind, part, request, sequence, length
_CRC = struct.Struct("<I")
HEADER_BYTES = _LAYOUT.size + _CRC.size


@dataclass(frozen=True)
class Frame:
    """One binary frame. `part` of features: 0 the payload's header, 1 its map, 2 and on its feature parts; of a preview: the steps done.

    `sequence` counts the binary frames of a connection. Errors: InputError on what no frame has.
    """

    kind: int
    request: str  # 32 hexadecimal digits
    sequence: int
    part: int
    data: bytes

    def __post_init__(self) -> None:
        check_number("kind", self.kind, PREVIEW, FEATURES, whole=True)
        check_number("sequence", self.sequence, 0, 2**32 - 1, whole=True)
        check_number("part", self.part, 0, MOST_PARTS - 1 if self.kind == FEATURES else 2**16 - 1, whole=True)
        check_number("a frame's length", len(self.data), 0, MOST_BYTES)

    def pack(self) -> bytes:
        """The frame as it is sent."""
        request = bytes.fromhex(self.request)
        header = _LAYOUT.pack(MAGIC, VERSION, self.kind, self.part, request, self.sequence, len(self.data))
        return header + _CRC.pack(zlib.crc32(self.data, zlib.crc32(header))) + self.data


def unpack(data: bytes) -> Frame:
    """What `Frame.pack` made. Errors: ProtocolError on anything else."""
    if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
        raise ProtocolError("not a binary frame of megen")
    _, version, kind, part, request, sequence, length = _LAYOUT.unpack_from(data)
    if version != VERSION:
        raise ProtocolError(f"a binary frame of version {version}, this side knows version {VERSION}")
    body = data[HEADER_BYTES:]
    if length != len(body) or length > MOST_BYTES:
        raise ProtocolError(f"a binary frame names {length} bytes and has {len(body)}")
    if _CRC.unpack_from(data, _LAYOUT.size)[0] != zlib.crc32(body, zlib.crc32(data[: _LAYOUT.size])):
        raise ProtocolError("a binary frame fails its checksum: it was changed")
    if kind not in KINDS or (kind == FEATURES and part >= MOST_PARTS):
        raise ProtocolError(f"a binary frame of kind {kind}, part {part}, which this side does not know")
    return Frame(kind, request.hex(), sequence, part, bytes(body))
