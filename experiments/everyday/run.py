"""Does the lexicon understand everyday prompts, which were written before it?

`python -m experiments.everyday.run` reads `prompts.tsv`: a prompt, the values that it means, and its words that this world lacks.
Understood: all meant values are named and no other (but clear weather; a moon and stars mean night), and each missing thing is named or
said to be taken as something else. Misread silently: another value than meant of which nothing is said, or a
meant one that is missing where nothing at all is said. The prompts were written first, by
the hand that checked the lexicon; after a first look one phrase was added to it and one label was corrected.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from experiments import common
from megen.scenes.captions import parse
from megen.scenes.understanding import KEYS, plain, understand

PROMPTS = Path(__file__).parent / "prompts.tsv"


def main() -> None:
    with PROMPTS.open(encoding="utf-8", newline="") as file:
        rows = [
            (text, set(filter(None, meant.split(","))), set(filter(None, lacks.split(","))))
            for text, meant, lacks in csv.reader(file, delimiter="\t")
        ]
    understood, named_lacks, silent, before, failures = 0, 0, 0, 0, []
    for text, meant, lacks in rows:
        got = understand(text)
        values = set(got.named.values())
        if "time" not in got.named and values & {"full moon", "crescent moon", "stars"}:
            values.add("night")
        said = {*got.foreign, *got.unknown} | set(" ".join((*got.notes, *got.taken)).lower().split())
        whole = values - {"clear"} == meant - {"clear"}
        tells = lacks <= said
        wrong = {v for v in values - meant if v != "clear"}
        lost = {v for v in meant - values if v != "clear" and not any(KEYS[v] in note or v in note for note in got.notes)}
        understood += whole and tells
        named_lacks += tells
        explained = {value for value in wrong if plain(value) in " ".join((*got.taken.values(), *got.notes))}
        silent += bool(wrong - explained) or (bool(lost) and not said)
        before += set(parse(text).values()) - {"clear"} == meant - {"clear"}
        if not (whole and tells):
            failures.append({"prompt": text, "meant": sorted(meant), "named": sorted(values), "said": sorted(said), "lacks": sorted(lacks)})
            print(failures[-1], file=sys.stderr)
    n = len(rows)
    shares = {
        "understood": understood / n,
        "missing_things_named": named_lacks / n,
        "silently_misread": silent,
        "without_the_lexicon": before / n,
    }
    common.write("everyday", {"prompts": n, **shares, "failures": failures})


if __name__ == "__main__":
    main()
