"""Parts that are decoded while others arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from megen.codec import CodecError, FeatureCodec
from megen.codec.arriving import Arriving
from megen.protocol import ProtocolError
from megen.protocol.client import Parts
from megen.types import PROTECTED, Features, Payload, Received
from megen.ue import Receiver
from megen.ue.decoding import Decoding
from tests.codec.helpers import BACKBONE, coded, merged_of

SENT = coded(merged_of(0, 0.3, 32, 32))
CODEC = FeatureCodec(None, BACKBONE)


class Rows(Receiver):
    """A receiver whose pictures are the rows."""

    def __init__(self) -> None:
        object.__setattr__(self, "codec", CODEC)

    def image_of(self, features: Features) -> Any:
        return features.rows


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of feature parts, as they are decoded."""
    numbers: list[int] = []
    take = Arriving.take

    def counted(self: Arriving, number: int, part: bytes) -> None:
        take(self, number, part)
        numbers.append(number)

    monkeypatch.setattr(Arriving, "take", counted)
    return numbers


async def arrived(payload: Payload, taken: list[int], held_back: int = 0) -> tuple[np.ndarray, list[int]]:
    """The picture, and which parts were decoded before the last `held_back` arrived."""
    parts = Parts(total=len(payload.parts))
    decoding = Decoding(Rows(), parts)
    last = len(payload.parts) - held_back
    for part in payload.parts[:last]:
        parts.arrived[part.number] = part.data
        decoding.more()
    for _ in range(500):
        if len(taken) >= last - PROTECTED:
            break
        await asyncio.sleep(0.01)
    before = list(taken)
    parts.arrived |= {part.number: part.data for part in payload.parts[last:]}
    return await decoding.image(), before


def test_the_picture_is_that_of_the_whole_and_little_is_left_to_do_in_the_end(taken: list[int]) -> None:
    image, before = asyncio.run(arrived(SENT, taken, held_back=1))
    count = len(SENT.features)
    assert before == list(range(count - 1))
    assert taken == list(range(count))  # each once
    np.testing.assert_array_equal(image, CODEC.decode(Received(SENT)).rows)


def test_parts_of_which_none_was_told_are_decoded_in_the_end(taken: list[int]) -> None:
    image, before = asyncio.run(arrived(SENT, taken, held_back=len(SENT.parts)))
    assert before == []
    np.testing.assert_array_equal(image, CODEC.decode(Received(SENT)).rows)


def test_a_part_that_was_changed_is_said_when_the_picture_is_asked_for(taken: list[int]) -> None:
    changed = Payload(SENT.header, SENT.merge_map, (*SENT.features[:2], b"changed", *SENT.features[3:]))
    with pytest.raises(CodecError, match="feature part 2 fails its checksum"):
        asyncio.run(asyncio.wait_for(arrived(changed, [0] * len(SENT.parts)), 10))
    assert taken == [0, 1]


def test_nothing_can_be_shown_before_header_and_map() -> None:
    with pytest.raises(ProtocolError, match="header and map have not arrived"):
        asyncio.run(Decoding(Rows(), Parts(total=4)).image())
