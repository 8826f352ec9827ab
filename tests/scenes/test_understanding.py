"""Common English is read in the world's own words; what cannot be drawn is named."""

from __future__ import annotations

import numpy as np
import pytest

from megen.scenes.captions import PHRASES, caption, parse, sample_scene
from megen.scenes.completion import complete
from megen.scenes.understanding import KEYS, in_plain_words, lexicon, understand


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("fisherman's hut by the ocean at twilight", {"object": "cabin", "water": "sea", "time": "sunset"}),
        ("a moonlit lake", {"water": "lake", "time": "night", "body": "full moon"}),
        ("two boats", {"object": "sailboat"}),
        ("a snow-covered peak", {"ridges": "mountains"}),
        ("FISHING BOATS in the mist", {"object": "sailboat", "weather": "fog"}),
        ("a castle without any clouds", {"object": "castle", "clouds": "no clouds"}),
        ("a cabin but no snow", {"object": "cabin", "weather": "clear"}),
        ("a beach and nothing else", {"water": "sea", "object": "no object"}),
        ("not snowing, a windmill", {"weather": "clear", "object": "windmill"}),
        ("a house on the far left", {"object": "cabin", "side": "left"}),
    ],
)
def test_common_english_is_understood(text: str, named: dict[str, str]) -> None:
    assert understand(text).named == named


def test_what_is_not_in_this_world_is_named() -> None:
    got = understand("an elephant and 3 wibbles beside a castle")
    assert got.foreign == ("elephant",)
    assert got.unknown == ("wibbles", "3")
    assert got.named == {"object": "castle"}
    assert understand("three cabins").notes == ("one cabin is drawn, not three",)
    assert understand("no mountains").notes == ("that mountains is not there cannot be drawn: say what is",)
    assert understand("a boat and a castle").notes == ("castle (a castle) was left out, as a sailboat was named",)
    assert understand("a yacht at sundown").taken == {"yacht": "a sailboat", "sundown": "at sunset"}


@pytest.mark.parametrize("seed", range(60))
def test_the_worlds_own_captions_mean_what_they_meant(seed: int) -> None:
    rng = np.random.default_rng([5, seed])
    text = caption(sample_scene(rng), rng)
    got = understand(text)
    assert got.named == parse(text)
    assert (got.taken, got.foreign, got.unknown) == ({}, (), ())


def test_each_phrase_of_the_lexicon_says_values_that_stand_in_one_picture() -> None:
    held = lexicon()
    assert len(held.concepts) > 600
    for phrase, values in held.concepts.items():
        assert set(values) <= KEYS.keys(), phrase
        assert len({KEYS[v] for v in values}) == len(values), phrase
        sided = f"a cabin {' '.join(phrase)}" if KEYS[values[0]] == "side" else " ".join(phrase)
        assert set(understand(sided).named.values()) >= set(values) - {"clear"}, phrase
    assert not held.neutral & held.foreign
    assert not {phrase[0] for phrase in held.concepts if len(phrase) == 1} & (held.neutral | held.foreign)


def test_attributes_in_plain_words_are_read_again() -> None:
    for (key, value), _ in PHRASES.items():
        assert understand(in_plain_words({key: value})).named == {key: value}
    both = {"object": "cabin", "side": "left", "weather": "fog"}
    assert in_plain_words(both) == "a cabin on the left, fog"
    assert parse(in_plain_words(both)) == both


def test_what_was_said_in_other_words_is_completed_in_the_worlds_own() -> None:
    full = complete("fisherman's hut by the ocean at twilight", 4)
    assert {"object": "cabin", "water": "sea", "time": "sunset", "weather": "clear"}.items() <= parse(full.text).items()
    assert full.text.startswith("a cabin ")
    assert full.understanding.taken["twilight"] == "at sunset"
    own = "a cabin at night, rain"
    assert complete(own, 4).text.startswith("a cabin ")
    assert "at night, rain" in complete(own, 4).text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("no text, castle", {"castle"}),
        ("no cars, a lake", {"lake"}),
        ("a castle with no lights. Stars above", {"castle", "stars"}),
        ("free standing castle", {"castle"}),
        ("cloud-free sky, a lake", {"no clouds", "lake"}),
        ("no clouds or rain, a castle", {"no clouds", "clear", "castle"}),
        ("no trees or houses", {"no trees", "no object"}),
        ("a lake without stars and clouds", {"lake", "no stars", "no clouds"}),
        ("no trees and a castle", {"no trees", "castle"}),
        ("it isn't foggy, a cabin", {"clear", "cabin"}),
        ("don't draw clouds, a lake", {"no clouds", "lake"}),
        ("tree-less hills", {"no trees", "hills"}),
        ("a deserted castle", {"castle"}),
        ("no people, a castle on a hill", {"castle", "hills"}),
        ("no castle, a lighthouse", {"lighthouse"}),
        ("an empty beach with a sailboat", {"sea", "sailboat"}),
        ("not the sea but a lake", {"lake"}),
        ("not raining but snowing", {"snow"}),
        ("two men, castle", {"castle"}),
        ("mountains on the left", {"mountains"}),
    ],
)
def test_a_negation_denies_what_it_is_about_and_nothing_else(text: str, values: set[str]) -> None:
    assert set(understand(text).named.values()) == values


@pytest.mark.parametrize("text", ["not clear weather", "not cloudless", "no mountains", "a beach without sea", "a lake on the left"])
def test_what_cannot_be_drawn_is_said(text: str) -> None:
    assert understand(text).notes


def test_what_is_left_out_is_not_drawn() -> None:
    full = complete("a castle and a windmill", 0)
    assert "windmill" not in full.text
    assert complete("noon, a supermoon", 0).text == "at noon, a full moon"
    assert parse(complete("mountains on the left", 1).text)["object"] == "no object"
