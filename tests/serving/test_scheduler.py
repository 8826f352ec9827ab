"""The queue: order, bound, backlog."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megen.errors import InputError
from megen.serving.scheduler import PATIENCE_S, Ahead, BusyError, Scheduler


def test_the_earliest_deadline_is_first_and_ties_go_by_arrival() -> None:
    queue: Scheduler[str] = Scheduler(10)
    for name, deadline_s in (("late", 9.0), ("soon", 1.0), ("soon too", 1.0), ("whenever", None)):
        queue.put(name, 0.1, 0.0, deadline_s)
    taken = [queue.take() for _ in range(4)]
    assert [place.item for place in taken if place] == ["soon", "soon too", "late", "whenever"]
    assert queue.take() is None


def test_no_request_waits_for_ever() -> None:
    queue: Scheduler[str] = Scheduler(10)
    queue.put("patient", 0.1, 0.0)
    queue.put("in a hurry, but later", 0.1, PATIENCE_S + 1, 0.5)
    first = queue.take()
    assert first is not None
    assert first.item == "patient"


def test_a_full_queue_says_when_to_come_again() -> None:
    queue: Scheduler[int] = Scheduler(2)
    queue.put(0, 4.0, 0.0)
    queue.put(1, 4.0, 0.0)
    with pytest.raises(BusyError, match="2 requests wait") as caught:
        queue.put(2, 4.0, 0.0)
    assert caught.value.retry_after_s == 4.0
    assert len(queue) == 2
    with pytest.raises(BusyError):
        Scheduler(0).put("none may wait", 0.1, 0.0)


def test_the_backlog_is_what_runs_and_what_is_due_earlier() -> None:
    queue: Scheduler[int] = Scheduler(10)
    first = queue.put(0, 2.0, 0.0, 1.0)
    queue.put(1, 3.0, 0.0, 5.0)
    queue.put(2, 7.0, 0.0, 9.0)
    assert queue.backlog_s(6.0) == 5.0
    assert queue.take() == first
    assert queue.backlog_s(0.5) == 2.0
    queue.worked(first, 0.5)
    assert queue.backlog_s() == 10.5
    queue.finish(first)
    assert queue.backlog_s() == 10.0
    assert Scheduler(10, engines=2).backlog_s() == 0.0


def test_a_request_waits_for_a_place_and_then_shares_its_batch() -> None:
    queue: Scheduler[int] = Scheduler(10)
    assert queue.ahead(1.0, 2) == Ahead(0.0, 0.0, 1)
    for work_s, deadline_s in ((2.0, 1.0), (3.0, 1.0)):
        queue.put(0, work_s, 0.0, deadline_s)
        queue.take()
    assert queue.ahead(1.0, 3) == Ahead(5.0, 0.0, 3)  # the third place is free
    assert queue.ahead(1.0, 2) == Ahead(5.0, 2.0, 2)  # when the shorter is over
    queue.put(0, 4.0, 0.0, 1.0)
    queue.put(0, 0.5, 0.0, 2.0)
    assert queue.ahead(1.5, 2) == Ahead(9.0, 3.0, 2)  # one takes the first place until 6, the other is due later
    assert queue.ahead(2.5, 2) == Ahead(9.5, 3.5, 2)  # and the other the second until 3.5
    pair: Scheduler[int] = Scheduler(10, engines=2)
    pair.put(0, 1.0, 0.0)
    pair.take()
    assert pair.ahead(9.0, 4) == Ahead(0.5, 0.0, 1)


def test_a_request_whose_engine_was_lost_is_as_urgent_as_it_was() -> None:
    queue: Scheduler[str] = Scheduler(1)
    queue.put("first", 1.0, 0.0, 1.0)
    place = queue.take()
    assert place is not None
    queue.put("second", 1.0, 0.0, 2.0)
    queue.again(place)  # past the bound: it has been accepted
    assert [*queue] == ["first", "second"]
    assert queue.running == 0


@given(st.lists(st.tuples(st.floats(0.1, 50), st.booleans()), max_size=30))
def test_what_is_taken_out_is_gone_and_the_rest_keeps_its_order(requests: list[tuple[float, bool]]) -> None:
    queue: Scheduler[tuple[float, bool]] = Scheduler(100)
    places = [queue.put(request, 0.1, 0.0, request[0]) for request in requests]
    queue.remove(lambda request: request[1])
    left = [place for place in sorted(places) if not place.item[1]]
    assert [*queue] == [place.item for place in left]
    for k, place in enumerate(left):
        assert queue.position(place) == k


def test_bounds() -> None:
    for wrong in ({"capacity": -1}, {"capacity": 1, "engines": 0}):
        with pytest.raises(InputError):
            Scheduler(**wrong)


def test_room_for_several_at_once() -> None:
    scheduler = Scheduler[str](capacity=2)
    scheduler.check_room(3, places=1)
    with pytest.raises(InputError, match="holds at most 3 requests at once, got 4"):
        scheduler.check_room(4, places=1)
    scheduler.put("a", 1.0, 0.0)
    assert scheduler.take() is not None
    scheduler.check_room(2, places=1)
    with pytest.raises(BusyError):
        scheduler.check_room(3, places=1)
    with pytest.raises(BusyError):
        Scheduler[str](capacity=0).check_room(1, places=1)  # it takes none
    for name in "bc":
        scheduler.put(name, 4.0, 0.0)
    for missing in (1, 3):  # 9 s of work, 2 that wait
        with pytest.raises(BusyError) as caught:
            scheduler.check_room(missing, places=1)
        assert caught.value.retry_after_s == missing * 4.5
