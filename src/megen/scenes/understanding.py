"""What people say, in the world's own words: phrases of common English, negations and counts; what this world lacks is named.

The lexicon (`assets/lexicon.json`) was proposed by a sentence encoder and checked by hand (`experiments/lexicon`). Of several values of one
attribute the first counts, and the others are named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from megen.files import read_text
from megen.scenes.captions import ARTICLES, ATTRIBUTES, PHRASES, SIDES
from megen.words import left_out, spans

FILE = Path(__file__).parents[1] / "assets" / "lexicon.json"
KEYS = {value: key for key, values in ATTRIBUTES.items() for value in values}
NEGATIONS = {"no", "without", "not", "never", "minus", "lacking", "nor", "neither", "except", "excluding", "avoid"}
NEGATIONS |= {"isn", "aren", "wasn", "don", "doesn", "won", "shouldn"}  # followed by a t
PASSED_OVER = {"any", "more", "longer", "single", "t"}  # between a negation or a count and what it is about, beside neutral words
COUNTS = {
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "dozen",
    "dozens",
    "twenty",
    "hundred",
}
COUNTS |= {"thirty", "forty", "fifty"}
COUNTS |= {"several", "many", "few", "both", "couple", "pair"}
BREAKS = set(",.;:!?()\n")
LONGEST = 5  # words of a phrase
NEGATIVE = {"stars": "no stars", "clouds": "no clouds", "water": "no water", "trees": "no trees", "object": "no object", "weather": "clear"}
Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Phrases and the values that they say, things that this world lacks, and words that change nothing."""

    concepts: Mapping[Phrase, tuple[str, ...]]
    foreign: frozenset[str]
    neutral: frozenset[str]


@dataclass(frozen=True)
class Understanding:
    """The attributes that a text names; its phrases with what they were taken as, where that differs; what is not in this world; and
    what could not be done.
    """

    named: Mapping[str, str]
    taken: Mapping[str, str]
    foreign: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@cache
def lexicon() -> Lexicon:
    """The bundled lexicon, with the world's own phrases."""
    held = json.loads(read_text(FILE))
    concepts = {tuple(phrase.split()): tuple(values) for phrase, values in held["concepts"].items()}
    own = {phrase: (value,) for (_, value), phrases in PHRASES.items() for phrase in phrases}
    own |= {phrase: (side,) for side, phrases in SIDES.items() for phrase in phrases}
    concepts |= {_bare(tuple(_words(phrase))): values for phrase, values in own.items()}
    return Lexicon(concepts, frozenset(held["foreign"]), frozenset(held["neutral"]))


def plain(value: str) -> str:
    """The plain phrase of a value."""
    return SIDES[value][0] if value in SIDES else PHRASES[KEYS[value], value][0]


def understand(text: str) -> Understanding:
    """What a text says of the world's attributes."""
    held = lexicon()
    parts = [(part, end - len(word), end) for word, end in spans(text) for part in word.split("-")]
    tokens = [part for part, _, _ in parts]
    found = sorted(_matches(tokens, held).items())
    matched = {i for first, (length, _) in found for i in range(first, first + length)}
    free = set(range(len(tokens))) - matched
    reading = _Reading()
    was_denied, was_negative, last = False, False, 0
    for first, (length, values) in found:
        typed = text[max(0, parts[first][1]) : parts[first + length - 1][2]]
        before = _just_before(first, matched, parts, text, held)
        after = {first + length} if first + length < len(parts) and parts[first + length][1:] == parts[first + length - 1][1:] else set()
        lacking = [i for i in before if tokens[i] in NEGATIONS or tokens[i : i + 2] in (["free", "of"], ["free", "from"])]
        lacking += [i for i in after if tokens[i] in ("free", "less")]
        joints = {tokens[i] for i in range(last, first)}
        carried = bool(joints) and (joints <= {"or", "nor", "and"} if was_denied else was_negative and joints <= {"or", "nor"})
        denied = bool(lacking) or carried
        counts = [i for i in before if tokens[i] in COUNTS and KEYS[values[0]] == "object"]
        free -= {*lacking, *counts, *(range(last, first) if carried else ())}
        if counts:
            reading.notes.append(f"one {values[0]} is drawn, not {tokens[counts[0]]}")
        reading.take(values, typed, denied=denied)
        was_denied, was_negative, last = denied, tokens[first] in NEGATIONS, first + length
    reading.settle()
    rest = [tokens[i] for i in sorted(free) if tokens[i] not in held.neutral and tokens[i] != "t"]
    rest += left_out(text, [*tokens, *(word for word, _ in spans(text))])  # digits and signs
    things = {word for word in rest if word in held.foreign or _singular(word) in held.foreign}
    foreign, unknown = (tuple(dict.fromkeys(w for w in rest if (w in things) == thing)) for thing in (True, False))
    return Understanding(reading.named, reading.taken, foreign, unknown, tuple(reading.notes))


class _Reading:
    """What is named so far: what stands in the picture first, what does not only where nothing else was said of it."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}
        self.taken: dict[str, str] = {}
        self.notes: list[str] = []
        self._absent: list[tuple[str, str]] = []

    def take(self, values: tuple[str, ...], typed: str, *, denied: bool) -> None:
        """Take a phrase's values, or with `denied` their absence."""
        for value in values:
            negative = NEGATIVE.get(KEYS[value])
            if denied and negative in (None, value):
                self.notes.append(f"that {typed} is not there cannot be drawn: say what is")
            elif denied or value == negative:
                self._absent.append((negative or value, typed))
            elif self.named.setdefault(KEYS[value], value) != value:
                self._second(value, typed)
        if not denied and not _is_plain(tuple(_words(typed)), values):
            self.taken[typed] = " and ".join(plain(value) for value in values)

    def settle(self) -> None:
        """Absences, where nothing that is there contradicts them, and no side without an object."""
        for value, typed in self._absent:
            if self.named.setdefault(KEYS[value], value) != value and value not in ("no object", "clear"):
                self._second(value, typed)
        if "side" in self.named and self.named.get("object", "no object") == "no object":
            self.notes.append(f"{plain(self.named.pop('side'))} says nothing here: it is the side of an object")

    def _second(self, value: str, typed: str) -> None:
        self.notes.append(f"{typed} ({plain(value)}) was left out, as {plain(self.named[KEYS[value]])} was named")


def in_plain_words(named: Mapping[str, str]) -> str:
    """Attributes as a caption of plain phrases, the side right behind the object."""
    phrases = []
    for key, value in named.items():
        if key == "side" and "object" in named:
            continue
        beside = f" {plain(named['side'])}" if key == "object" and "side" in named and value != "no object" else ""
        phrases.append(plain(value) + beside)
    return ", ".join(phrases)


def _matches(tokens: list[str], held: Lexicon) -> dict[int, tuple[int, tuple[str, ...]]]:
    """Phrases by the place of their first word, with how many words they have; longer ones first."""
    left: list[str | None] = list(tokens)
    found: dict[int, tuple[int, tuple[str, ...]]] = {}
    for length in range(LONGEST, 0, -1):
        for first in range(len(tokens) - length + 1):
            phrase = tuple(w for w in left[first : first + length] if w is not None)
            values = (
                held.concepts.get(phrase) or held.concepts.get((*phrase[:-1], _singular(phrase[-1]))) if len(phrase) == length else None
            )
            if values:
                found[first] = length, values
                left[first : first + length] = [None] * length
    return found


def _just_before(first: int, matched: set[int], parts: list[tuple[str, int, int]], text: str, held: Lexicon) -> list[int]:
    """The words before a phrase that may say how it is meant: back to a comma, the phrase before it, or a word that means something."""
    out = []
    for i in range(first - 1, -1, -1):
        word = parts[i][0]
        if i in matched or BREAKS & set(text[parts[i][2] : parts[i + 1][1]]):
            break
        out.append(i)
        if word not in held.neutral and word not in PASSED_OVER:
            break
    return out


def _is_plain(phrase: Phrase, values: tuple[str, ...]) -> bool:
    """Whether a phrase is one of the world's own for a value."""
    own = SIDES[values[0]] if values[0] in SIDES else PHRASES[KEYS[values[0]], values[0]]
    return len(values) == 1 and _bare(phrase) in {_bare(tuple(_words(p))) for p in own}


def _words(phrase: str) -> list[str]:
    return [part for word, _ in spans(phrase) for part in word.split("-")]


def _bare(phrase: Phrase) -> Phrase:
    """A phrase without articles and prepositions before it."""
    first = next((i for i, w in enumerate(phrase) if w not in ARTICLES), 0)
    return phrase[first:]


def _singular(word: str) -> str:
    """The likely singular of a plural."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
