"""Writes `frames.json`: golden vectors of the protocol's binary frames, which every implementation must read alike.

`python tests/golden/frames.py` from the repository's top.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

from megen.protocol import FEATURES, PREVIEW, Frame

ID = bytes(range(16)).hex()


def resealed(packed: bytes, change: dict[int, int]) -> str:
    """A frame with other bytes at some places, and a checksum that fits them."""
    data = bytearray(packed)
    for place, value in change.items():
        data[place] = value
    data[32:36] = struct.pack("<I", zlib.crc32(bytes(data[36:]), zlib.crc32(bytes(data[:32]))))
    return data.hex()


def main() -> None:
    named = {
        "an empty map": Frame(FEATURES, ID, 1, 1, b""),
        "a header": Frame(FEATURES, ID, 0, 0, bytes(range(28))),
        "a late part": Frame(FEATURES, "f" * 32, 2**32 - 1, 63, b"\xff" * 5),
        "a preview": Frame(PREVIEW, ID, 7, 2, b"RIFF\x04\x00\x00\x00WEBP"),
    }
    frames = [
        {
            "name": name,
            "kind": f.kind,
            "request": f.request,
            "sequence": f.sequence,
            "part": f.part,
            "data": f.data.hex(),
            "hex": f.pack().hex(),
        }
        for name, f in named.items()
    ]
    good = named["a header"].pack()
    refused = {
        "nothing": "",
        "a header alone, cut": good[:20].hex(),
        "one byte less": good[:-1].hex(),
        "one byte more": (good + b"\0").hex(),
        "another magic": resealed(good, {0: 0x58}),
        "another version": resealed(good, {4: 2}),
        "another kind": resealed(good, {5: 9}),
        "a part that no payload has": resealed(good, {6: 64}),
        "another length": resealed(good, {28: 27}),
        "a checksum that does not fit": bytes([*good[:-1], good[-1] ^ 1]).hex(),
    }
    value = {"frames": frames, "refused": [{"name": name, "hex": data} for name, data in refused.items()]}
    Path(__file__).with_name("frames.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
