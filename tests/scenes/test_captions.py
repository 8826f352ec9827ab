from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megen.scenes.captions import ATTRIBUTES, HELD_OUT, Scene, caption, is_held_out, parse, sample_scene, vocabulary, words
from megen.scenes.render import render


@given(st.integers(0, 2**31))
@settings(max_examples=300, deadline=None)
def test_a_caption_says_only_what_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    text = caption(scene, rng)
    told = parse(text)
    assert told.items() <= scene.attributes().items(), text
    assert set(words(text)) <= set(vocabulary())
    assert not is_held_out(scene.object, scene.time, scene.weather)


def test_every_value_can_be_named_and_drawn() -> None:
    rng = np.random.default_rng(0)
    seen: dict[str, set[str]] = {k: set() for k in ATTRIBUTES}
    for _ in range(3000):
        scene = sample_scene(rng)
        for k, v in parse(caption(scene, rng)).items():
            seen[k].add(v)
    assert {k: set(v) for k, v in ATTRIBUTES.items()} == seen


def test_held_out_combinations_are_a_tenth_and_only_drawn_when_asked() -> None:
    total = len(ATTRIBUTES["object"]) * len(ATTRIBUTES["time"]) * len(ATTRIBUTES["weather"])
    assert len(HELD_OUT) == round(total / 10) == 10
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = sample_scene(rng, unseen=True)
        assert (scene.object, scene.time, scene.weather) in HELD_OUT


def test_what_is_given_is_kept_and_contradictions_are_named() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        scene = sample_scene(rng, {"object": "sailboat", "body": "crescent moon", "side": "left"})
        assert (scene.time, scene.side) == ("night", "left")
        assert scene.water != "no water"
    for text, why in (
        ("the sun at night", "sun does not shine"),
        ("a full moon at noon", "needs night"),
        ("stars at dawn", "stars need night"),
        ("a sailboat, no water", "a sailboat needs"),
    ):
        with pytest.raises(ValueError, match=why):
            sample_scene(rng, parse(text))


def test_parse_prefers_the_longer_phrase() -> None:
    assert parse("A Lighthouse at sunset, snowy mountains, pine trees") == {
        "time": "sunset",
        "object": "lighthouse",
        "ridges": "mountains",
        "trees": "trees",
    }
    assert parse("no clouds, treeless land") == {"clouds": "no clouds", "trees": "no trees"}


def one(**changes: str) -> Scene:
    plain = {k: v[0] for k, v in ATTRIBUTES.items()} | {"time": "noon", "object": "cabin", "side": "middle"}
    return Scene(**{**plain, **changes}, seed=5)


def test_pictures_are_whole_repeatable_and_batch_free() -> None:
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in range(12)]
    pictures = render(scenes, 96)
    assert pictures.shape == (12, 3, 96, 96)
    assert torch.isfinite(pictures).all()
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    for i, scene in enumerate(scenes):
        torch.testing.assert_close(render([scene], 96)[0], pictures[i], atol=1e-5, rtol=0)


def test_moons_and_stars_show() -> None:
    moons = [render([one(time="night", body=body)], 128) for body in ("full moon", "crescent moon")]
    assert ((moons[0] - moons[1]).abs().amax(1) > 0.3).float().mean() > 0.002
    sky = [render([one(time="night", body="full moon", stars=stars)], 512)[:, :, :200] for stars in ATTRIBUTES["stars"]]
    brighter = (sky[1] - sky[0]).amax(1) > 0.2
    assert 20 < brighter.sum() < 2000


@pytest.mark.parametrize("key", ["time", "clouds", "ridges", "water", "trees", "object", "side", "weather"])
def test_every_attribute_shows(key: str) -> None:
    pictures = [render([one(**{key: value} | ({"body": "full moon"} if value == "night" else {}))], 128) for value in ATTRIBUTES[key]]
    for i in range(len(pictures)):
        for j in range(i):
            changed = ((pictures[i] - pictures[j]).abs().amax(1) > 0.06).float().mean()
            assert changed > 0.002, (ATTRIBUTES[key][i], ATTRIBUTES[key][j])


def test_resolution_changes_sharpness_and_nothing_else() -> None:
    small = render([one(weather="snow")], 128)
    large = torch.nn.functional.avg_pool2d(render([one(weather="snow")], 512), 4)
    assert (small - large).abs().mean() < 0.012
