"""Which scenes are for training, which for validation, which for tests: told apart by their seed."""

from __future__ import annotations

import numpy as np

from megen.scenes.captions import Scene, sample_scene

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3
PROMPT_SEED = 4  # captions of scenes that no training drew
SHARPENING_SEED = 7
STARRY_EVERY = 3  # scene of the sharpening's set is a starry night: small spots anywhere are the hardest to draw, and rare by chance
STARRY = {"time": "night", "weather": "clear", "stars": "stars"}


def scene(seed: int, index: int, *, unseen: bool = False) -> Scene:
    """The scene of an index in the set of `seed`; `unseen`: of the combinations that are kept from training."""
    given = STARRY if seed == SHARPENING_SEED and index % STARRY_EVERY == 0 else None
    return sample_scene(np.random.default_rng([seed, index]), given, unseen=unseen)
