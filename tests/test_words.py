from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megen.cost.quality_grid import bag_of_words
from megen.scenes.captions import parse
from megen.words import left_out, spans, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cabin, snow-capped MOUNTAINS!", ["a", "cabin", "snow-capped", "mountains"]),
        ("don't -- up-to-date-", ["don", "t", "up-to-date"]),
        ("red_house 4k", ["red", "house", "k"]),
        (unicodedata.normalize("NFD", "Château"), ["château"]),
        ("ｃａｂｉｎ ｓｎｏｗ－ｃａｐｐｅｄ", ["cabin", "snow-capped"]),
        ("snow‑capped snow‐capped", ["snow-capped", "snow-capped"]),
        ("ﬁr light\u00adhouse \ufeffsea\u200e", ["fir", "lighthouse", "sea"]),
        ("किला नदी", ["किला", "नदी"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("sea\u200blake", ["sea", "lake"]),
        (unicodedata.normalize("NFD", "성"), ["성"]),
        ("123 !!! ☂", []),
    ],
)
def test_words_are_what_a_reader_sees(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_words_do_not_depend_on_the_form_or_the_case_of_ascii(text: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    assert words(unicodedata.normalize("NFD", composed)) == words(composed)
    assert words("".join(c.upper() if c.isascii() else c for c in text)) == words(text)


@given(st.text())
def test_a_words_end_lies_in_the_text_as_it_was_typed(text: str) -> None:
    ends = [end for _, end in spans(text)]
    assert ends == sorted(set(ends))
    assert all(words(text[:end]) == words(text)[: i + 1] for i, end in enumerate(ends))


def test_whatever_a_vocabulary_cannot_say_is_named() -> None:
    assert left_out("3 castles, a CASTLE & a zeppelin ☂️ 3", ["castle", "a"]) == ["3", "castles", "&", "zeppelin", "☂️"]
    assert left_out("a castle, (a castle)…", ["castle", "a"]) == []
    assert left_out(unicodedata.normalize("NFD", "château"), ["château"]) == []


@given(st.text())
def test_every_letter_and_digit_is_known_or_named(text: str) -> None:
    named = "".join(left_out(text, []))
    for c in text:
        if c.isalnum() and c.isascii():
            assert c.lower() in named


def test_prompts_of_every_form_mean_the_same() -> None:
    wide = "ａ ｃａｓｔｌｅ ａｔ ｎｉｇｈｔ"
    assert parse(wide) == parse("a castle at night") != {}
    assert bag_of_words([wide, unicodedata.normalize("NFD", "château")], ["castle", "château"]).tolist() == [[1, 0], [0, 1]]
