"""What a prompt leaves open is drawn and said, so that the picture is of one scene and not of a mean of many."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np

from megen.scenes.captions import PHRASES, SIDES, Scene, caption, conflict, mentions, parse, pick, sample_scene
from megen.scenes.understanding import Understanding, in_plain_words, understand

COMPLETION_STREAM = 7  # of a request's seed


@dataclass(frozen=True)
class Completion:
    """A prompt in the world's own words, with what it left open: the text that the backbone reads, the phrases that were added, why none
    could be, and how the prompt was understood.
    """

    text: str
    added: tuple[str, ...] = ()
    conflict: str = ""
    understanding: Understanding = field(default_factory=lambda: Understanding({}, {}))


def complete(prompt: str, seed: int) -> Completion:
    """Draw what `prompt` leaves open from `seed`: weather that nobody asks for is clear, and an object stands only where one is asked
    for or nothing at all is named. Nothing is added to a prompt whose parts cannot stand in one picture, and `conflict` says why. One
    that says more than the world's own words do is said again in them.
    """
    understanding = understand(prompt)
    given = dict(understanding.named)
    said = prompt if given == parse(prompt) and not understanding.notes else in_plain_words(given) or prompt
    if contradiction := conflict(given):
        return Completion(said, conflict=contradiction, understanding=understanding)
    rng = np.random.default_rng([seed, COMPLETION_STREAM])
    # beside a free side there is one place for sun or moon; around an object in the middle two, and both would be half drawn
    usual = {"weather": "clear", "side": str(rng.choice(("left", "right")))}
    if given.get("object", "no object" if given else "") == "no object":
        usual = {"weather": "clear", "object": "no object"}
    full = completed(said, sample_scene(rng, usual | given))
    return replace(full, understanding=understanding)


def completed(prompt: str, scene: Scene) -> Completion:
    """`prompt` with the plain names of all that is visible in `scene` and that the prompt does not name."""
    said = mentions(prompt)
    named = {m.key for m in said}
    visible = scene.attributes()
    text, added = prompt.strip().rstrip(",."), []
    side = SIDES[scene.side][0]
    if "object" in named and "side" in visible and "side" not in named:
        end = next(m.end for m in said if m.key == "object")
        where = len(prompt) - len(prompt.lstrip())
        text = f"{text[: end - where]} {side}{text[end - where :]}"
        added.append(side)
    for key, value in visible.items():
        if key in named or key == "side":
            continue
        phrase = PHRASES[key, value][0]
        if key == "object" and value != "no object" and "side" not in named:
            phrase = f"{phrase} {side}"
        added.append(phrase)
    rest = [phrase for phrase in added if phrase != side]
    return Completion(", ".join(([text] if text else []) + rest), tuple(added))


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as people type it: the object and one or two more of what can be seen, weather unless it is clear."""
    named = scene.attributes()
    weather, object_ = named.pop("weather"), named.pop("object")
    parts = [] if object_ == "no object" else [pick(rng, PHRASES["object", object_])]
    if parts and rng.random() < 0.15:
        parts[0] += " " + pick(rng, SIDES[scene.side])
    named.pop("side", None)
    keys = [k for k in named if named[k] not in ("no stars", "no clouds", "no water", "no trees")]
    for key in rng.permutation(keys)[: int(rng.integers(1, 3))]:
        parts.append(pick(rng, PHRASES[str(key), named[str(key)]]))
    if weather != "clear":
        parts.append(pick(rng, PHRASES["weather", weather]))
    return ", ".join(str(p) for p in rng.permutation(parts)) if rng.random() < 0.3 else ", ".join(parts)


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Half of the captions name nearly all, a quarter little, a quarter are completed; unnamed weather is clear in 97 %."""
    kind = rng.random()
    if kind < 0.25:
        text = short_caption(scene, rng)
    elif kind < 0.5:
        text = completed(short_caption(scene, rng), scene).text
    else:
        text = caption(scene, rng, named_share=0.9)
    weather = asdict(scene)["weather"]
    if weather != "clear" and "weather" not in parse(text) and rng.random() < 0.97:
        text += ", " + pick(rng, PHRASES["weather", weather])
    return text
