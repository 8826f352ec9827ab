"""Payloads of random tokens for the tests of this folder."""

from __future__ import annotations

import numpy as np

from megen import merging
from megen.codec import FeatureCodec, Prior, payload
from megen.merging import Merged
from megen.types import Payload, Received

BACKBONE = 0xC0FFEE
DEPTH = 20


def merged_of(seed: int, ratio: float, height: int = 8, width: int = 8, channels: int = 5) -> Merged:
    """White tokens, merged."""
    tokens = np.random.default_rng(seed).standard_normal((height * width, channels)).astype(np.float32)
    return merging.merged(tokens, (height, width), ratio)


def codec_of(prior: Prior | None = None) -> FeatureCodec:
    return FeatureCodec(prior, BACKBONE)


def coded(merged: Merged, depth: int = DEPTH, order: str = "band", prior: Prior | None = None) -> Payload:
    return codec_of(prior).encode(merged, quantiser_bits=depth / 4, order=order).payload


def decode(sent: Payload, prior: Prior | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and which tokens arrived."""
    features = codec_of(prior).decode(Received(sent))
    return features.rows, features.degradation[:, 3] == 0


def sealed(header: bytes, bodies: list[bytes], choice: bytes | None = None) -> Payload:
    """Garbage under valid checksums."""
    parts = tuple(body + payload.part_crc(body, i, header) for i, body in enumerate(bodies))
    return Payload(header, b"" if choice is None else payload.seal(choice, header), parts)
