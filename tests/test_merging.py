from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megen import merging

ratios = st.floats(0, 0.75)
grids = st.tuples(st.sampled_from([2, 4, 6, 8, 16]), st.sampled_from([2, 4, 8, 10]))


def tokens_of(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((height * width, channels)).astype(np.float32)


@given(st.integers(0, 2**20), grids, ratios)
@settings(max_examples=60, deadline=None)
def test_merge_keeps_count_and_mass(seed: int, grid: tuple[int, int], ratio: float) -> None:
    height, width = grid
    tokens = tokens_of(seed, height, width)
    mapping = merging.merge_map(merging.match(tokens, height, width, ratio), height, width)
    rows, count = merging.merge(tokens, mapping)
    assert len(rows) == height * width - merging.merged_count(height, width, ratio)
    assert count.sum() == height * width
    np.testing.assert_allclose((rows * count[:, None]).sum(0), tokens.sum(0), rtol=1e-4, atol=1e-4)


@given(st.integers(0, 2**20), grids, ratios)
@settings(max_examples=60, deadline=None)
def test_merging_the_unmerged_again_changes_nothing(seed: int, grid: tuple[int, int], ratio: float) -> None:
    height, width = grid
    tokens = tokens_of(seed, height, width)
    mapping = merging.merge_map(merging.match(tokens, height, width, ratio), height, width)
    once = merging.unmerge(merging.merge(tokens, mapping)[0], mapping)
    twice = merging.unmerge(merging.merge(once, mapping)[0], mapping)
    np.testing.assert_allclose(once, twice, atol=1e-6)


def test_ratio_zero_is_the_identity() -> None:
    tokens = tokens_of(0, 8, 8)
    mapping = merging.merge_map(merging.match(tokens, 8, 8, 0.0), 8, 8)
    np.testing.assert_array_equal(mapping, np.arange(64))
    np.testing.assert_array_equal(merging.unmerge(merging.merge(tokens, mapping)[0], mapping), tokens)


def test_sources_merge_into_adjacent_cells_only() -> None:
    tokens = tokens_of(1, 16, 16)
    choice = merging.match(tokens, 16, 16, 0.75)
    _, sources, candidates = merging.layout(16, 16)
    target = candidates[np.arange(len(sources)), choice]
    down = np.abs(target // 16 // 2 - sources // 16 // 2)
    right = np.abs(target % 16 // 2 - sources % 16 // 2)
    assert (target >= 0).all()
    assert down.max() == 1
    assert right.max() == 1


def test_equal_neighbours_merge_first_and_without_loss() -> None:
    tokens = np.zeros((16, 2), np.float32)
    tokens[8:] = 5.0  # two flat halves of a 4 x 4 grid
    mapping = merging.merge_map(merging.match(tokens, 4, 4, 0.75), 4, 4)
    np.testing.assert_array_equal(merging.unmerge(merging.merge(tokens, mapping)[0], mapping), tokens)


def test_the_least_costly_sources_are_taken() -> None:
    tokens = tokens_of(3, 8, 8)
    _, sources, candidates = merging.layout(8, 8)
    distance = ((tokens[candidates] - tokens[sources][:, None]) ** 2).sum(-1)
    distance[candidates < 0] = np.inf
    cost = distance.min(1)
    taken = merging.match(tokens, 8, 8, 0.25) >= 0
    assert cost[taken].max() <= cost[~taken].min()


@pytest.mark.parametrize("ratio", [-0.01, 0.7501, 0.9, float("nan"), float("inf")])
def test_a_ratio_out_of_bounds_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"merge_ratio must lie in \[0, 0.75\]"):
        merging.match(tokens_of(0, 4, 4), 4, 4, ratio)


def test_odd_grids_and_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="even sides"):
        merging.match(tokens_of(0, 3, 4), 3, 4, 0.5)
    broken = tokens_of(0, 4, 4)
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        merging.match(broken, 4, 4, 0.5)
    with pytest.raises(ValueError, match="outside the grid"):
        merging.merge_map(np.full(12, 7), 4, 4)
