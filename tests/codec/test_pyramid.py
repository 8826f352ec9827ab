from __future__ import annotations

import pytest

from megen.codec import pyramid


@pytest.mark.parametrize("order", pyramid.ORDERS)
@pytest.mark.parametrize(("height", "width"), [(2, 2), (6, 10), (8, 8), (32, 32), (20, 36)])
def test_every_token_is_coded_once_and_from_what_is_known(height: int, width: int, order: str) -> None:
    parts = pyramid.segments(height, width, order)
    base = {int(t) for stage in parts[0] for t in stage.tokens}
    done: set[int] = set()
    for part in parts:
        visible = done if order != "band" or part is parts[0] else base
        in_part: set[int] = set()
        for stage in part:
            assert set(stage.neighbours.ravel().tolist()) <= visible | in_part | {pyramid.NONE}
            in_part |= set(stage.tokens.tolist())
            assert not done & set(stage.tokens.tolist())
            if order == "band":
                visible = visible | in_part
        done = done | in_part
    assert done == set(range(height * width))


def test_both_orders_share_the_base_and_by_stage_there_are_four_parts_more() -> None:
    for height, width in ((2, 2), (8, 8), (40, 24)):
        band, stage = pyramid.segments(height, width), pyramid.segments(height, width, "stage")
        assert [s.tokens.tolist() for s in band[0]] == [s.tokens.tolist() for s in stage[0]]
        assert (len(band), len(stage)) == (1 + -(-height // 8), 5)


def test_in_layers_the_base_has_every_stage_and_eight_rows_a_refinement() -> None:
    layers = pyramid.segments(20, 12, "layer")
    assert [len(part) > 0 for part in layers] == [True, False, False, False]
    assert pyramid.part_of(20, 12, "layer").reshape(20, 12)[[0, 7, 8, 19], 0].tolist() == [1, 1, 2, 3]


def test_by_stage_neighbours_cross_the_bands() -> None:
    edge = [s for s in pyramid.segments(16, 8, "stage")[4] if 7 * 8 + 2 in s.tokens]
    row = edge[0].neighbours[edge[0].tokens.tolist().index(7 * 8 + 2)]
    assert 8 * 8 + 2 in row
    assert 6 * 8 + 2 in row
