"""Commands on the pages are commands of the program, and the pages keep to the field's words and to short sentences."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from megen.cli.main import joined, parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PRIVATE = r"\b(told|the air|on its way|unharmed|harmed|anew)\b"
MOST_WORDS = 18


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = (line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines())
    return [shlex.split(re.sub(r"\$\w+", "1", line), comments=True)[1:] for line in lines if line.startswith("megen ")]


COMMANDS = [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


def prose(text: str) -> str:
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|!\[)", line)]
    return re.sub(r"`[^`]*`", "x", "\n".join(lines))


def sentences(text: str) -> list[str]:
    paragraphs = re.split(r"\n\s*\n|^- |^\d+\. ", prose(text), flags=re.MULTILINE)
    return [s for p in paragraphs for s in re.split(r"(?<=[.!?])\*{0,2}\s+", " ".join(p.split())) if len(s.split()) > 1]


def test_the_pages_hold_commands() -> None:
    assert {words[0] for _, words in COMMANDS} >= {"generate", "receive", "export", "train", "bench", "control", "profile"}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)])
def test_a_command_is_one_of_the_program(page: str, words: list[str]) -> None:
    whole = joined(words)
    assert parser().parse_args(whole).command == whole[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_uses_the_fields_words(page: Path) -> None:
    assert re.findall(PRIVATE, prose(page.read_text(encoding="utf-8")), re.IGNORECASE) == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "format.md"], ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    lengths = [len(s.split()) for s in sentences(page.read_text(encoding="utf-8"))]
    assert not lengths or sum(lengths) / len(lengths) < MOST_WORDS


def test_the_reference_scores_are_those_of_the_results() -> None:
    """On `LongRun`, whose tables are of today's weights."""
    result = json.loads((ROOT / "experiments" / "long_run" / "result.json").read_text(encoding="utf-8"))
    prices = result["multipliers"]
    row = (
        f"| `megen/LongRun-v0` | {result['optimum']:.5f} (bound {result['bound']:.5f}) | "
        f"late {prices['late']:.3f}, energy {prices['energy_j']:.3g}, tardiness {prices['tardiness_s']:.3f} a s |"
    )
    assert row in (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
