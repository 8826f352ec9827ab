"""Payloads that are coded and decoded part by part: the bytes and values are those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megen.codec import CodecError, FeatureCodec, Prior, prior
from megen.codec.pyramid import ORDERS
from megen.types import Part, Payload, Received
from tests.codec.helpers import codec_of, coded, merged_of, sealed

SCENES = Path(prior.__file__).parents[1] / "assets" / "scenes"
SIDE, CHANNELS = 16, 32


@pytest.fixture(params=["own scales", "trained"])
def learned(request: pytest.FixtureRequest) -> Prior | None:
    return None if request.param == "own scales" else prior.load(SCENES, CHANNELS)


def payload_of(learned: Prior | None, order: str, seed: int = 0, ratio: float = 0.3) -> Payload:
    return coded(merged_of(seed, ratio, SIDE, SIDE, CHANNELS), order=order, prior=learned)


@pytest.mark.parametrize("order", ORDERS)
def test_each_part_is_told_once_and_in_its_order(learned: Prior | None, order: str) -> None:
    told: list[Part] = []
    merged = merged_of(1, 0.4, SIDE, SIDE, CHANNELS)
    sent = codec_of(learned).encode(merged, order=order, on_part=told.append)
    assert tuple(told) == sent.payload.parts
    assert [part.data for part in told] == [sent.payload.header, sent.payload.merge_map, *sent.payload.features]
    assert {part.of for part in told} == {len(told)}


@pytest.mark.parametrize("options", [{"analog": True}, {"bits_budget": 60_000}, {"bits_budget": 3_000}])
def test_what_cannot_be_told_before_is_told_in_the_end(options: dict[str, int | bool]) -> None:
    told: list[Part] = []
    sent = codec_of(prior.load(SCENES, CHANNELS)).encode(merged_of(2, 0.4, SIDE, SIDE, CHANNELS), on_part=told.append, **options)  # type: ignore[arg-type]
    assert tuple(told) == sent.payload.parts


def test_a_trained_priors_part_is_told_before_the_next_is_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    from megen.codec import entropy

    order: list[str] = []
    finished = entropy.finished
    monkeypatch.setattr(entropy, "finished", lambda coder: order.append("coded") or finished(coder))
    codec_of(prior.load(SCENES, CHANNELS)).encode(merged_of(3, 0.0, SIDE, SIDE, CHANNELS), on_part=lambda part: order.append("told"))
    assert order == ["told", "told", *["coded", "told"] * 3]  # header, map, base and two bands


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(4))
def test_parts_in_any_order_give_what_the_whole_gives(learned: Prior | None, order: str, seed: int) -> None:
    sent, codec = payload_of(learned, order, seed), FeatureCodec(learned, codec_of().fingerprint)
    whole = codec.decode(Received(sent))
    arriving = codec.arriving(sent.header, sent.merge_map, len(sent.features))
    for number in np.random.default_rng(seed).permutation(len(sent.features)).tolist():
        arriving.take(number, sent.features[number])
    found = arriving.features()
    np.testing.assert_array_equal(found.rows, whole.rows)
    np.testing.assert_array_equal(found.degradation, whole.degradation)
    np.testing.assert_array_equal(found.merge_map, whole.merge_map)


@pytest.mark.parametrize("order", ORDERS)
def test_features_on_the_way_are_those_of_a_payload_that_lost_the_rest(learned: Prior | None, order: str) -> None:
    """What was predicted meanwhile changes nothing of what follows."""
    sent, codec = payload_of(learned, order, 5), FeatureCodec(learned, codec_of().fingerprint)
    arriving = codec.arriving(sent.header, sent.merge_map, len(sent.features))
    for number, part in enumerate(sent.features):
        arriving.take(number, part)
        so_far = Payload(sent.header, sent.merge_map, (*sent.features[: number + 1], *[b""] * (len(sent.features) - number - 1)))
        found, expected = arriving.features(), codec.decode(Received(so_far))
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.degradation, expected.degradation)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_part_that_the_payload_does_not_have_is_refused(number: int) -> None:
    sent = payload_of(None, "band")
    with pytest.raises(CodecError, match=f"the payload has no feature part {number}"):
        codec_of().arriving(sent.header, sent.merge_map, len(sent.features)).take(number, b"")


def test_another_number_of_parts_and_analog_payloads_are_refused() -> None:
    sent = payload_of(None, "band")
    with pytest.raises(CodecError, match="4 feature parts, expected 3"):
        codec_of().arriving(sent.header, sent.merge_map, 4)
    analog = codec_of().encode(merged_of(0, 0.0), analog=True).payload
    with pytest.raises(CodecError, match="the payload is analog"):
        codec_of().arriving(analog.header, analog.merge_map, 0)


def test_a_changed_part_and_bits_that_nobody_wrote_are_refused_when_they_are_taken() -> None:
    sent = payload_of(None, "band")
    arriving = codec_of().arriving(sent.header, sent.merge_map, len(sent.features))
    with pytest.raises(CodecError, match="feature part 0 fails its checksum"):
        arriving.take(0, sent.features[0][:-1] + b"?")
    odd = sealed(sent.header, [b"123"])
    with pytest.raises(CodecError, match="not whole words"):
        arriving.take(0, odd.features[0])


def test_nothing_is_known_before_the_base() -> None:
    sent = payload_of(None, "band")
    arriving = codec_of().arriving(sent.header, sent.merge_map, len(sent.features))
    arriving.take(1, sent.features[1])
    with pytest.raises(CodecError, match="the base of the features was lost"):
        arriving.features()
