"""Payloads within a budget of bits."""

from __future__ import annotations

import numpy as np
import pytest

from megen import merging
from megen.codec import payload
from megen.codec.header import decode_header
from megen.link import RadioLink
from tests.codec.helpers import codec_of, coded, decode, merged_of

LARGE = merging.merged(6 * merged_of(1, 0.0, 32, 32).rows, (32, 32), 0.0)  # values that the coarsest quantiser keeps


def test_a_budget_picks_the_finest_depth_that_fits() -> None:
    merged = merged_of(1, 0.25, 32, 32)
    sent = codec_of().encode(merged, bits_budget=15_000).payload
    depth = decode_header(sent.header).depth
    assert sent.bits()["total"] <= 15_000
    assert coded(merged, depth + 1).bits()["total"] > 15_000
    with pytest.raises(ValueError, match="a budget of 100 bits is too small"):
        codec_of().encode(merged, bits_budget=100)


@pytest.mark.parametrize("order", ["band", "stage", "layer"])
def test_a_budget_that_is_too_small_for_all_tokens_leaves_the_last_stages_out(order: str) -> None:
    merged, left_out, errors = LARGE, [], []
    coarsest = coded(merged, 1, "stage").bits()["total"]
    for share in (1.0, 0.9, 0.6, 0.4, 0.3):
        sent = codec_of().encode(merged, bits_budget=int(share * coarsest), order=order)
        parts, said = sent.payload.features, decode_header(sent.payload.header)
        assert sent.payload.bits()["total"] <= share * coarsest
        left_out.append(sum(not part for part in parts))
        assert not any(parts[len(parts) - left_out[-1] :])
        assert said.order == "stage" or not left_out[-1]
        assert sent.error_rates == payload.error_rates(sent.payload, said.order)
        errors.append(float(np.square(decode(sent.payload)[0] - merged.rows).mean()))
    assert left_out[0] == 0
    assert left_out == sorted(left_out)
    assert left_out[-1] > 1
    assert errors == sorted(errors)


def test_what_stays_out_takes_no_airtime() -> None:
    part = codec_of().encode(LARGE, bits_budget=coded(LARGE, 1, "stage").bits()["total"] // 2)
    delivery = RadioLink(20.0).send(part, np.random.default_rng(0))
    assert delivery.parts == 1 + sum(map(bool, part.payload.features)) < 1 + len(part.payload.features)
    assert delivery.parts_lost == 0
    assert delivery.received.payload == part.payload
