"""Which scenes are for training, which for validation, which for tests: told apart by their seed."""

from __future__ import annotations

import numpy as np

from megen.scenes.captions import Scene, sample_scene

TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3


def scene(seed: int, index: int, *, unseen: bool = False) -> Scene:
    """The scene of an index in the set of `seed`; `unseen`: of the combinations that are kept from training."""
    return sample_scene(np.random.default_rng([seed, index]), unseen=unseen)
