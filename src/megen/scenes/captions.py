"""The captioned world of landscape illustrations: attributes, sampling, captions, parsing.

A scene is a handful of discrete attributes and a seed; `render.py` draws it. A caption names a
subset of the attributes in free order; what it leaves out is random. Ten of the
96 object x time x weather combinations never occur in training, so that composition can be tested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product

import numpy as np

from megen.errors import InputError
from megen.words import spans, words

SAMPLE_PROMPTS = (
    "a lighthouse at sunset, snowy mountains, pine trees",
    "a cabin on the left at night, a full moon, stars, a calm lake",
    "a sailboat in the middle at noon, the sea, hills, clouds",
    "a castle on the right at dawn, fog, rolling hills",
    "a windmill at noon, sand dunes, snowing",
    "a crescent moon at night, snowy mountains, a lake, no trees",
    "rain, a cabin on the right, pine trees, at dusk",
    "a lighthouse on the left at dawn, the ocean, clouds",
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "time": ("dawn", "noon", "sunset", "night"),
    "body": ("sun", "full moon", "crescent moon"),
    "stars": ("no stars", "stars"),
    "clouds": ("no clouds", "clouds"),
    "ridges": ("mountains", "hills", "dunes"),
    "water": ("no water", "lake", "sea"),
    "trees": ("no trees", "trees"),
    "object": ("no object", "cabin", "lighthouse", "sailboat", "castle", "windmill"),
    "side": ("left", "middle", "right"),
    "weather": ("clear", "rain", "snow", "fog"),
}

# phrase -> what it says; the first phrases of a value are its plain names
PHRASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("time", "dawn"): ("at dawn", "at sunrise", "at daybreak", "in the early morning"),
    ("time", "noon"): ("at noon", "at midday", "in the daytime", "on a bright day"),
    ("time", "sunset"): ("at sunset", "at dusk", "in the evening"),
    ("time", "night"): ("at night", "at midnight", "at nighttime"),
    ("body", "sun"): ("the sun", "a shining sun"),
    ("body", "full moon"): ("a full moon", "a round moon"),
    ("body", "crescent moon"): ("a crescent moon", "a thin moon"),
    ("stars", "stars"): ("stars", "a starry sky", "bright stars", "starry"),
    ("stars", "no stars"): ("no stars", "a starless sky"),
    ("clouds", "clouds"): ("clouds", "a cloudy sky", "drifting clouds"),
    ("clouds", "no clouds"): ("no clouds", "a cloudless sky"),
    ("ridges", "mountains"): ("snowy mountains", "snow-capped mountains", "mountains", "distant peaks"),
    ("ridges", "hills"): ("rolling hills", "hills", "green hills"),
    ("ridges", "dunes"): ("sand dunes", "dunes", "desert dunes"),
    ("water", "lake"): ("a lake", "a calm lake", "a mirror lake", "a still lake"),
    ("water", "sea"): ("the sea", "the ocean", "a wavy sea", "waves"),
    ("water", "no water"): ("no water", "dry land"),
    ("trees", "trees"): ("pine trees", "pines", "fir trees", "a forest", "trees"),
    ("trees", "no trees"): ("no trees", "a treeless land"),
    ("object", "cabin"): ("a cabin", "a log cabin", "a hut", "a house"),
    ("object", "lighthouse"): ("a lighthouse", "a striped lighthouse"),
    ("object", "sailboat"): ("a sailboat", "a sailing boat", "a boat"),
    ("object", "castle"): ("a castle", "a fortress"),
    ("object", "windmill"): ("a windmill", "a mill"),
    ("object", "no object"): ("nobody around", "an empty landscape"),
    ("weather", "clear"): ("clear weather", "fair weather", "clear sky"),
    ("weather", "rain"): ("rain", "raining", "rainy weather", "heavy rain", "rainy"),
    ("weather", "snow"): ("snowing", "snowfall", "falling snow", "snowy weather", "snow"),
    ("weather", "fog"): ("fog", "foggy", "mist", "misty weather", "misty"),
}
SIDES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "to the left"),
    "middle": ("in the middle", "in the center"),
    "right": ("on the right", "to the right"),
}
OPENERS = ("a landscape", "a scene with", "a picture of", "an illustration of")
JOINERS = (", ", ", ", ", ", " with ", " and ")


@dataclass(frozen=True)
class Scene:
    """One picture: its attributes and the seed of its free geometry."""

    time: str
    body: str
    stars: str
    clouds: str
    ridges: str
    water: str
    trees: str
    object: str
    side: str
    weather: str
    seed: int

    def attributes(self) -> dict[str, str]:
        """The attributes that the eye can tell: no side without an object, stars only in a clear night."""
        named = {k: v for k, v in asdict(self).items() if k != "seed"}
        if self.object == "no object":
            del named["side"]
        if self.time != "night" or self.weather != "clear":
            del named["stars"]
        return named


def _hash(combination: tuple[str, ...]) -> bytes:
    return hashlib.sha256("|".join(combination).encode()).digest()


# kept from training: the object x time x weather combinations with the smallest hashes
HELD_OUT = frozenset(sorted(product(ATTRIBUTES["object"], ATTRIBUTES["time"], ATTRIBUTES["weather"]), key=_hash)[:10])


def is_held_out(object_: str, time: str, weather: str) -> bool:
    """Whether the combination is one of the ten that are kept from training."""
    return (object_, time, weather) in HELD_OUT


def sample_scene(rng: np.random.Generator, given: dict[str, str] | None = None, *, unseen: bool = False) -> Scene:
    """Draw a scene; `given` fixes attributes, `unseen` draws from the held-out combinations.

    With all of object, time and weather given the combination is taken as it is; otherwise it is
    drawn so that it is (`unseen`) or is not one of `HELD_OUT`.

    Errors: InputError where the given attributes contradict each other.
    """
    given = given or {}
    contradiction = conflict(given)
    if contradiction:
        raise InputError(contradiction)
    implied = dict(given)
    if given.get("stars") == "stars" or given.get("body", "sun") != "sun":
        implied["time"] = "night"
    open_to = [(implied[k],) if k in implied else _choices(k, given) for k in ("object", "time", "weather")]
    combinations = list(product(*open_to))
    wanted = [c for c in combinations if is_held_out(*c) == unseen] or combinations
    object_, time, weather = wanted[int(rng.integers(len(wanted)))]
    values = dict(given, object=object_, time=time, weather=weather)
    if time == "night":
        values.setdefault("body", str(rng.choice(("full moon", "crescent moon"))))
        values.setdefault("stars", str(rng.choice(ATTRIBUTES["stars"])) if weather == "clear" else "no stars")
    else:
        values["body"], values["stars"] = "sun", "no stars"
    if object_ == "sailboat":
        values.setdefault("water", str(rng.choice(("lake", "sea"))))
    for key in ("clouds", "ridges", "water", "trees", "side"):
        drawn = str(rng.choice(ATTRIBUTES[key]))
        values.setdefault(key, drawn)
    return Scene(**values, seed=int(rng.integers(2**31)))


def _choices(key: str, given: dict[str, str]) -> tuple[str, ...]:
    if key == "time" and given.get("body") == "sun":
        return ATTRIBUTES["time"][:3]
    if key == "object" and given.get("water") == "no water":
        return tuple(o for o in ATTRIBUTES["object"] if o != "sailboat")
    if key == "object" and "side" in given:
        return ATTRIBUTES["object"][1:]
    return ATTRIBUTES[key]


def conflict(given: dict[str, str]) -> str | None:
    """One line on why the attributes cannot stand in one picture, or None."""
    night = given.get("time") == "night"
    if night and given.get("body") == "sun":
        return "the sun does not shine at night: drop one of the two"
    if "time" in given and not night and given.get("body", "sun") != "sun":
        return f"a {given['body']} needs night, and the caption says {given['time']}"
    if "time" in given and not night and given.get("stars") == "stars":
        return f"stars need night, and the caption says {given['time']}"
    if given.get("stars") == "stars" and given.get("body") == "sun":
        return "stars and the sun do not stand in one sky: drop one of the two"
    if given.get("object") == "sailboat" and given.get("water") == "no water":
        return "a sailboat needs a lake or the sea"
    return None


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options."""
    return options[int(rng.random() * len(options))]  # ten times faster than rng.choice


def caption(scene: Scene, rng: np.random.Generator, named_share: float = 0.8) -> str:
    """A caption of the scene: each visible attribute is named with probability `named_share`."""
    parts: list[str] = []
    named = scene.attributes()
    time_phrase = pick(rng, PHRASES["time", named.pop("time")]) if rng.random() < 0.92 else ""
    for key, value in named.items():
        share = 0.95 if key == "object" else 0.4 if value in ("sun", "no stars", "clear", "no object") else named_share
        if key == "side" or rng.random() > share:
            continue
        phrase = pick(rng, PHRASES[key, value])
        if key == "object" and value != "no object" and rng.random() < 0.85:
            phrase += " " + pick(rng, SIDES[scene.side])
        parts.append(phrase)
    rng.shuffle(parts)
    if time_phrase:
        if parts and rng.random() < 0.7:
            parts[0] += " " + time_phrase
        else:
            parts.append(time_phrase)
    if not parts:
        return OPENERS[0]
    opener = pick(rng, OPENERS[1:]) + " " if rng.random() < 0.1 else ""
    plain = rng.random() < 0.6
    return opener + parts[0] + "".join((JOINERS[0] if plain else pick(rng, JOINERS)) + p for p in parts[1:])


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    spoken = [p for group in (*PHRASES.values(), *SIDES.values(), OPENERS, JOINERS) for p in group]
    return sorted({w for phrase in spoken for w in words(phrase)})


ARTICLES = ("a", "an", "the", "at", "in", "on")


def _bare(phrase: str) -> list[str]:
    return [w for w in words(phrase) if w not in ARTICLES]


def _lexicon() -> list[tuple[list[str], str, str]]:
    entries = [(_bare(p), key, value) for (key, value), group in PHRASES.items() for p in group]
    entries += [(["to", s] if p.startswith("to") else _bare(p), "side", s) for s, ps in SIDES.items() for p in ps]
    entries += [([s], "side", s) for s in SIDES]
    entries += [(["full", "moon"], "body", "full moon"), (["moon"], "body", "full moon")]
    return sorted(entries, key=lambda e: -len(e[0]))


_LEXICON = _lexicon()


@dataclass(frozen=True)
class Mention:
    """A phrase of a caption: what it says, and where it ends in the text."""

    key: str
    value: str
    end: int


def mentions(text: str) -> list[Mention]:
    """The phrases of a caption that name an attribute, in the order of the text; longer phrases win over shorter ones."""
    spoken = [(word, end) for word, end in spans(text) if word not in ARTICLES]
    left: list[str | None] = [word for word, _ in spoken]
    by_place: dict[int, Mention] = {}
    for phrase, key, value in _LEXICON:
        n = len(phrase)
        for i in range(len(left) - n + 1):
            if left[i : i + n] == phrase:
                by_place[i] = Mention(key, value, spoken[i + n - 1][1])
                left[i : i + n] = [None] * n
    return [by_place[i] for i in sorted(by_place)]


def parse(text: str) -> dict[str, str]:
    """The attributes that a caption names: longest phrase first, the first mention counts."""
    named: dict[str, str] = {}
    for mention in mentions(text):
        named.setdefault(mention.key, mention.value)
    return {f.name: named[f.name] for f in fields(Scene) if f.name in named}
