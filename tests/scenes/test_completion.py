"""What a prompt leaves open is drawn, said, and nothing else is changed."""

from __future__ import annotations

import numpy as np
import pytest

from megen.scenes.captions import parse, sample_scene
from megen.scenes.completion import complete, short_caption


@pytest.mark.parametrize("seed", range(40))
def test_a_completed_prompt_names_one_whole_scene_and_keeps_what_was_typed(seed: int) -> None:
    rng = np.random.default_rng([31, seed])
    typed = short_caption(sample_scene(rng), rng)
    full = complete(typed, seed)
    asked, drawn = parse(typed), parse(full.text)
    assert {k: drawn[k] for k in asked} == asked
    scene = sample_scene(np.random.default_rng(0), drawn)  # refuses what cannot stand in one picture
    assert {k: v for k, v in scene.attributes().items() if k not in drawn} == {}
    assert drawn["weather"] == asked.get("weather", "clear")
    if "object" not in asked:
        assert drawn["object"] == "no object"
    assert complete(typed, seed) == full
    assert all(phrase in full.text for phrase in full.added)


def test_the_seed_decides_what_is_added() -> None:
    assert len({complete("a lighthouse", seed).text for seed in range(12)}) > 6


def test_a_prompt_of_no_known_words_is_completed_too() -> None:
    full = complete("hello", 0)
    assert full.text.startswith("hello, ")
    assert {"time", "body", "ridges", "object", "weather"} <= parse(full.text).keys()


def test_what_contradicts_itself_is_said_and_left_as_it_is() -> None:
    full = complete("noon, a full moon", 3)
    assert (full.text, full.added) == ("noon, a full moon", ())
    assert full.conflict == "a full moon needs night, and the caption says noon"


def test_nothing_is_added_to_what_names_everything() -> None:
    typed = "a cabin on the left at noon, the sun, clouds, rolling hills, a lake, no trees, fog"
    assert complete(typed, 0).text == typed
    assert complete(typed, 0).added == ()
