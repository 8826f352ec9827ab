"""Latents that nobody trained a prior for: each payload brings its own scales."""

from __future__ import annotations

import numpy as np
import pytest

from megen import codec, merging
from megen.codec import FeatureCodec
from megen.codec.features import base_step
from megen.codec.prior import UNIT
from megen.types import Received

SHAPES = [(64, 16), (64, 64), (64, 128), (32, 32)]  # side of the grid, channels: SDXL, Z-Image, FLUX.2, SANA


def smooth(side: int, channels: int, seed: int = 0) -> np.ndarray:
    """Tokens [side * side, c] whose neighbours resemble each other, folded 2 x 2 from a field that does: in steps of half a period."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: 2 * side, : 2 * side] / side
    planes = []
    for _ in range(channels // 4):
        waves = [np.sin(2 * np.pi * (fy * y + fx * x) + phase) / (1 + fy + fx) for fy, fx, phase in rng.uniform(0, 6, (8, 3))]
        planes.append(sum(waves) + 0.08 * rng.standard_normal(y.shape))
    field = np.stack(planes)
    field /= field.std((1, 2), keepdims=True)
    folded = field.reshape(-1, side, 2, side, 2).transpose(0, 2, 4, 1, 3).reshape(channels, side * side)
    return folded.T.astype(np.float32)


@pytest.mark.parametrize(("side", "channels"), SHAPES)
def test_every_value_comes_back_within_the_quantisers_dead_zone(side: int, channels: int) -> None:
    merged = merging.merged(smooth(side, channels), (side, side), 0.25)
    for order in ("band", "stage", "layer"):
        sent = FeatureCodec(None, 0).encode(merged, quantiser_bits=5, order=order).payload
        crossed = codec.unpack(codec.pack(Received(sent)))
        features = FeatureCodec(None, 0, (side, side)).decode(crossed)
        assert np.abs(features.rows - merged.rows).max() <= 0.6 * base_step(20) / UNIT
        assert (features.merge_map == merged.merge_map).all()


def test_they_take_a_third_of_int8() -> None:
    tokens = smooth(64, 16)
    sent = FeatureCodec(None, 0).encode(merging.merged(tokens, (64, 64), 0.0), quantiser_bits=5).payload
    assert sent.bits()["total"] <= 0.35 * 8 * tokens.size
