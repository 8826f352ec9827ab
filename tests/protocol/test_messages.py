"""Control messages: what is refused, and how it is said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megen.protocol import messages
from megen.protocol.messages import Accepted, Choice, Error, Generate, Hello, ProtocolError, from_client, from_server

ID = "0123456789abcdef" * 2


def text(**fields: object) -> str:
    return json.dumps(fields)


def test_a_message_comes_back_as_it_was() -> None:
    for sent in (Hello(client="x", decode_s=0.3, previews=("webp",)), Generate(id=ID, prompt="a castle", steps=4, merge_ratio=0.5)):
        assert from_client(sent.text()) == sent
    choice = Choice(steps=4, merge_ratio=0.0, quantiser_bits=5.0)
    for answer in (Accepted(id=ID, position=2, decision=choice, why="", prompt="x"), Error(code="busy", message="full", retry_after_s=2.0)):
        assert from_server(answer.text()) == answer


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "generate", "id": ID}, "prompt"),
        ({"type": "generate", "id": ID, "prompt": ""}, "prompt"),
        ({"type": "generate", "id": ID, "prompt": "x" * 2001}, "prompt"),
        ({"type": "generate", "id": ID, "prompt": "x", "seed": -1}, "seed"),
        ({"type": "generate", "id": ID, "prompt": "x", "seed": 2**53}, "seed"),
        ({"type": "generate", "id": ID, "prompt": "x", "seed": "7"}, "seed"),
        ({"type": "generate", "id": ID, "prompt": "x", "seed": True}, "seed"),
        ({"type": "generate", "id": ID, "prompt": 5}, "prompt"),
        ({"type": "generate", "id": ID, "prompt": "x", "deadline_s": 0}, "deadline_s"),
        ({"type": "generate", "id": ID, "prompt": "x", "merge_ratio": 0.8}, "merge_ratio"),
        ({"type": "generate", "id": ID, "prompt": "x", "quantiser_bits": 0.3}, "quantiser_bits"),
        ({"type": "generate", "id": ID, "prompt": "x", "colour": "red"}, "colour"),
        ({"type": "ack", "id": ID, "sequence": 0, "bytes": 1, "ms": -1}, "ms"),
        ({"type": "resume", "id": ID, "have": [64]}, "have"),
    ],
)
def test_a_wrong_field_is_named_and_its_connection_goes_on(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        from_client(text(**fields))
    assert caught.value.close_code is None
    assert caught.value.request == ID


@pytest.mark.parametrize("data", ["", "nonsense", "[]", "1", "null", '{"type":"boom"}', '{"type":"generate","id":"XYZ"}', "[" * 5000])
def test_what_belongs_to_no_request_ends_the_connection(data: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        from_client(data)
    assert caught.value.close_code == 1002


def test_nan_and_infinity_are_no_numbers() -> None:
    for value in ("NaN", "Infinity", "1e999"):
        with pytest.raises(ProtocolError):
            from_client(f'{{"type":"generate","id":"{ID}","prompt":"x","deadline_s":{value}}}')


def test_a_message_that_is_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(ProtocolError, match="at most") as caught:
        from_client(" " * (messages.MOST_TEXT_BYTES + 1))
    assert caught.value.close_code == 1009


@given(st.text(max_size=300))
def test_any_text_is_a_message_or_a_protocol_error(data: str) -> None:
    for read in (from_client, from_server):
        with pytest.raises(ProtocolError):
            read(data)


def test_the_schemas_name_every_message() -> None:
    found = messages.schemas()
    assert {"Hello", "Generate", "Ack", "Cancel", "Resume", "Shown"} <= found["client"]["$defs"].keys()
    assert {"Welcome", "Accepted", "Stepped", "Coded", "Done", "Cancelled", "Error"} <= found["server"]["$defs"].keys()
