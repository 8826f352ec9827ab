"""Random payloads and what the library makes of each: `python make_vectors.py FILE [COUNT] [SEED]`, for `agree.test.ts`.

Run it with the Python that has megen, and the repository's root on PYTHONPATH. One JSON line a payload: the codec file's
name, the payload in hex, and null where it is refused, or else CRC-32s of rows (float32), merge map (int32) and degradation
(float32). Rows and degradation of an analog payload are in hex, as those agree to rounding only.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from megen import codec, merging
from megen.codec import FeatureCodec, header
from megen.codec.pyramid import KINDS, ORDERS
from megen.codec.refinement import LAYER
from megen.types import Payload, Received
from tests.codec.helpers import BACKBONE, sealed
from tests.codec.test_golden import library_prior, strings
from tests.golden.make import tokens_of

CHANNELS = {"small": 3, "scenes": 32}


def _depth(order: str, rng: np.random.Generator) -> int:
    return int(rng.integers(LAYER + 1 if order == "layer" else 1, 33))


def coded(rng: np.random.Generator) -> tuple[str, bytes]:
    """What the encoder gives of smooth, white or far tokens, where a link may have lost parts."""
    kind = str(rng.choice(["none", "small", "scenes"], p=[0.45, 0.45, 0.1]))
    largest = 8 if kind == "scenes" else 18
    height, width = (2 * int(n) for n in rng.integers(1, largest, 2))
    channels = CHANNELS.get(kind) or int(rng.integers(1, 40))
    tokens = tokens_of(height, width, channels, int(rng.integers(2**31)))
    tokens = rng.choice([0.02, 1, 1, 1, 20]) * tokens if rng.random() < 0.7 else rng.standard_normal(tokens.shape)
    merged = merging.merged(tokens.astype(np.float32).clip(-128, 128), (height, width), float(rng.choice([0, 0.75, 0.75 * rng.random()])))
    encoder = FeatureCodec(library_prior(kind), BACKBONE)
    if rng.random() < 0.2:
        copies = int(rng.choice([1, 1, 2, 5]))
        of = encoder.prior.variance if encoder.prior else None
        if of is not None and rng.random() < 0.5:
            grid = of.shape[1], of.shape[2]
            sent = encoder.encode_coefficients(tokens_of(*grid, channels, 1), grid, 0.75 * rng.random(), copies=copies)
        else:
            sent = encoder.encode(merged, analog=True, copies=copies)
        assert sent.symbols is not None
        noise = 0.1 * rng.standard_normal(len(sent.symbols))
        variance = rng.exponential(0.1, len(sent.symbols)) * (rng.random(len(sent.symbols)) < 0.95)
        received = Received(sent.payload, sent.symbols + noise, variance)
        if rng.random() < 0.1:
            received = replace(received, symbols=received.symbols[1:], variance=variance[1:])
        return kind, codec.pack(received)
    order = str(rng.choice(ORDERS))
    sent = encoder.encode(merged, quantiser_bits=_depth(order, rng) / 4, order=order)
    lost = rng.random(len(sent.payload.features)) < rng.choice([0, 0.3])
    lost[0] &= rng.random() < 0.2
    left = tuple(b"" if gone else part for part, gone in zip(sent.payload.features, lost, strict=True))
    return kind, codec.pack(Received(replace(sent.payload, features=left)))


def sealed_garbage(rng: np.random.Generator) -> tuple[str, bytes]:
    """Random words under valid checksums, in grids of several bands."""
    kind = str(rng.choice(["none", "small", "scenes"], p=[0.5, 0.4, 0.1]))
    height, width = (2 * int(n) for n in rng.integers(1, 14, 2))
    channels = CHANNELS.get(kind) or int(rng.integers(1, 20))
    order, tokens = str(rng.choice(ORDERS)), height * width
    rows = int(rng.choice([tokens, tokens // 4, rng.integers(tokens // 4, tokens)]))
    own_scales = kind == "none" or rng.random() < 0.3
    scales = rng.integers(0, rng.integers(2, 62), KINDS * channels).astype(np.uint8).tobytes() if own_scales else b""
    first = header.encode_header(header.Header(height, width, channels, rows, BACKBONE, _depth(order, rng), 0.0, order, scales))
    count = 5 if order == "stage" else 1 + -(-height // 8)
    bodies = [rng.bytes(4 * int(rng.integers(0, 200))) for _ in range(count)]
    choice = bytes([16 * int(rng.random() < 0.9), *rng.bytes(1)]) + bytes(2) if rng.random() < 0.7 else rng.bytes(4)  # often few weights
    whole = sealed(first, bodies, None if rows == tokens else choice + rng.bytes(4 * int(rng.integers(0, 100))))
    left = tuple(b"" if i and rng.random() < 0.1 else part for i, part in enumerate(whole.features))
    return kind, codec.pack(Received(Payload(whole.header, whole.merge_map, left)))


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """A packed payload with a byte changed before its last checksum, which is made right again."""
    body = bytearray(data[:-4])
    for _ in range(int(rng.integers(1, 3))):
        body[int(rng.integers(0, len(body)))] = int(rng.integers(0, 256))
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


def payloads(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(seed)
    for kind in ("small", "none"):
        yield from ((kind, data) for data in strings(count // 5, seed, kind))
    for number in range(count - count // 5 * 2):
        kind, data = (sealed_garbage if number % 3 == 2 else coded)(rng)
        yield kind, changed(data, rng) if number % 12 == 0 else data


def verdict(kind: str, data: bytes) -> dict[str, object] | None:
    """What the library decodes; None: it refuses."""
    try:
        received = codec.unpack(data)
        features = FeatureCodec(library_prior(kind), BACKBONE).decode(received)
    except codec.CodecError:
        return None
    rows, states = (array.astype("<f4").tobytes() for array in (features.rows, features.degradation))
    of = bytes.hex if header.decode_header(received.payload.header).analog else zlib.crc32
    return {"map": zlib.crc32(features.merge_map.astype("<i4").tobytes()), "rows": of(rows), "degradation": of(states)}


def main(path: str, count: int = 2000, seed: int = 0) -> None:
    with Path(path).open("w") as file:
        for kind, data in payloads(count, seed):
            file.write(json.dumps({"prior": kind, "payload": data.hex(), "expected": verdict(kind, data)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
