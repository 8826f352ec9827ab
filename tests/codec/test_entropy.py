from __future__ import annotations

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megen.codec import entropy, prior
from tests.codec import reference_decoder as reference

TOTAL = 1 << entropy.PRECISION


def symbol_at(quantile: int, counts: np.ndarray) -> int:
    """What the package decodes where the first quantile is the given one: its state begins with 2^64 - 1."""
    point = quantile * ((1 << 40) - 1)
    coder = constriction.stream.queue.RangeDecoder(np.array([point >> 32, point & 0xFFFFFFFF], np.uint32))
    return int(coder.decode(entropy.categorical(counts)))


def check(counts: np.ndarray) -> None:
    edges = reference.edges_of(counts.tolist())
    np.testing.assert_array_equal(np.diff(edges), entropy.frequencies(counts))
    assert (edges[0], edges[-1]) == (0, TOTAL)
    assert np.diff(edges).min() >= 1
    for i, edge in enumerate(edges[:-1]):
        assert symbol_at(edge, counts) == i
        assert symbol_at(edges[i + 1] - 1, counts) == i


def test_the_package_uses_exactly_the_whole_frequencies_of_the_table() -> None:
    for counts in prior.logistic_levels():
        check(counts)


@given(st.lists(st.integers(0, 16384), min_size=2, max_size=49).filter(any))
@settings(max_examples=100, deadline=None)
def test_the_package_uses_exactly_the_whole_frequencies_of_any_counts(counts: list[int]) -> None:
    check(np.array(counts))


def test_a_family_of_models_uses_them_too() -> None:
    table = entropy.weights(prior.logistic_levels())
    family = constriction.stream.model.Categorical(perfect=False)
    rng = np.random.default_rng(0)
    for k, counts in enumerate(prior.logistic_levels()):
        edges = reference.edges_of(counts.tolist())
        for i in rng.integers(0, len(counts), 10):
            for quantile in (edges[i], edges[i + 1] - 1):
                point = quantile * ((1 << 40) - 1)
                coder = constriction.stream.queue.RangeDecoder(np.array([point >> 32, point & 0xFFFFFFFF], np.uint32))
                assert coder.decode(family, table[[k]])[0] == i


@given(st.integers(0, 2**32), st.integers(0, entropy.MOST), st.integers(0, 65535))
@settings(max_examples=100, deadline=None)
def test_levels_of_any_size_and_class_return_by_both_decoders(seed: int, largest_class: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    levels = rng.integers(-size, size + 1, 40)
    classes = rng.integers(0, largest_class + 1, 40)
    coder, table = entropy.encoder(), entropy.weights(prior.logistic_levels())
    entropy.put(coder, levels, classes, table)
    body = entropy.finished(coder)
    np.testing.assert_array_equal(entropy.get(entropy.decoder(body), classes, table), levels)
    edges = [reference.edges_of(row.tolist()) for row in prior.logistic_levels()]
    assert reference.level_symbols(reference.RangeDecoder(body), classes.tolist(), edges) == levels.tolist()


def test_the_expected_bits_are_those_that_are_spent() -> None:
    rng = np.random.default_rng(0)
    levels, classes = rng.integers(-3000, 3000, 20_000), rng.integers(0, entropy.MOST + 1, 20_000)
    table = entropy.weights(prior.logistic_levels())
    coder = entropy.encoder()
    entropy.put(coder, levels, classes, table)
    expected = entropy.bits(levels, classes, entropy.PRECISION - np.log2(table + 1)).sum()
    assert 8 * len(entropy.finished(coder)) == pytest.approx(expected, abs=64)


@given(st.integers(0, 2**32), st.integers(0, entropy.MOST), st.floats(0.01, 60))
@settings(max_examples=60, deadline=None)
def test_weighed_levels_are_no_dearer_than_the_nearest_or_the_next_towards_zero(seed: int, largest_class: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    classes, values = rng.integers(0, largest_class + 1, 400), scale * rng.standard_normal(400)
    counts = prior.logistic_levels()
    found = entropy.weighed(values, classes, entropy.thresholds(counts))
    rows = -np.log2(counts / counts.sum(1, keepdims=True))[np.minimum(classes, entropy.CLASSES - 1)]

    def cost(levels: np.ndarray) -> np.ndarray:
        near = levels.clip(-entropy.REACH, entropy.REACH).astype(np.int64) + entropy.REACH
        return (values - levels) ** 2 + entropy.PRICE * np.take_along_axis(rows, near[:, None], 1)[:, 0]

    for other in (np.rint(values), np.trunc(values)):
        assert (cost(found) <= cost(other) + 1e-9).all()
    assert (np.abs(values - found) <= 1 + 1e-12).all()
    assert (found * values >= 0).all()


def test_a_likely_zero_takes_more_and_a_wide_scale_rounds_to_the_nearest() -> None:
    thresholds = entropy.thresholds(prior.logistic_levels())
    assert thresholds.shape == (entropy.CLASSES, entropy.REACH + 1)
    assert (np.diff(thresholds[:, 0]) <= 0).all()  # the narrower the scale, the dearer the first level
    assert thresholds[0, 0] > 0.95
    assert thresholds[-1].max() < 0.55
    np.testing.assert_array_equal(entropy.weighed(np.array([0.9, -0.9, 1.2]), np.array([0, 0, 23]), thresholds), [0, 0, 1])
