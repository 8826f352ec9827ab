"""The words of a text as people type it: one rule for prompts, captions and vocabularies."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from megen.errors import InputError

HYPHENS = "-‐‑－"  # the keyboard's, the typographic, the non-breaking and the full-width one
SIGNS = "#%&*@＃％＆＊＠"  # punctuation to Unicode, but read aloud
ZERO_WIDTH_SPACE = "\u200b"
# over one letter for each character: L letter, M combining mark or invisible, - hyphen, S digit, symbol or sign, blank: all else
_WORD = re.compile("L[LM]*(?:-M*L[LM]*)*")
_TOKEN = re.compile(f"{_WORD.pattern}|[SM]+")


def spans(text: str) -> Iterator[tuple[str, int]]:
    """Each word of a text and where it ends; hyphens join, other punctuation and digits separate."""
    return ((_spelt(text[m.start() : m.end()]), m.end()) for m in _WORD.finditer(_kinds(text)))


def words(text: str) -> list[str]:
    """The words of a text: letters of any script with their marks, in lower case and NFKC, so the same however they were typed."""
    return [word for word, _ in spans(text)]


def check_words(text: object, what: str = "prompt") -> None:
    """Refuse a text that names nothing to draw. Errors: InputError."""
    if not isinstance(text, str):
        raise InputError(f"a {what} must be a text, got {text!r}")
    if not words(text):
        raise InputError(f"the {what} is empty or holds no words: say what to draw")


def left_out(text: str, vocabulary: Sequence[str]) -> list[str]:
    """What a vocabulary cannot say of a text, in order, each once: words that it lacks, digits, symbols."""
    vocabulary_set = set(vocabulary)
    tokens = (_spelt(text[m.start() : m.end()]) for m in _TOKEN.finditer(_kinds(text)))
    return list(dict.fromkeys(token for token in tokens if token and token not in vocabulary_set))


def _spelt(token: str) -> str:
    lower = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", token).lower())
    return "".join("-" if c in HYPHENS else c for c in lower if unicodedata.category(c) != "Cf")


def _kinds(text: str) -> str:
    return "".join(map(_kind, text))


def _kind(c: str) -> str:
    category = unicodedata.category(c)
    if category[0] == "L" or category == "Nl":
        return "L"
    if c in HYPHENS:
        return "-"
    if category[0] == "M" or (category == "Cf" and c != ZERO_WIDTH_SPACE):
        return "M"
    return "S" if category[0] in "NS" or category in ("Co", "Cn") or c in SIGNS else " "
