"""Requests over a real socket, with an engine that does as it is told: faults, resumes, limits."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from megen.control import fit
from megen.errors import InputError, RunError
from megen.protocol import FEATURES, PREVIEW, Frame
from megen.protocol.messages import Cancel, Generate, Hello, Resume, Shown
from megen.scenes.completion import Completion
from megen.serving import connection
from megen.serving.access import Access, Limits
from megen.serving.app import App
from megen.serving.decider import Decided
from megen.serving.goodput import PRIOR_BPS, Goodputs
from megen.serving.job import EngineLostError
from megen.serving.request import Piece, Served
from megen.types import ChannelState, Decision

from .helpers import InTurn, Peer, ToldEngine, finished, live, progress, until

Make = Callable[..., App]


def request(**fields: object) -> Generate:
    return Generate.model_validate({"id": secrets.token_hex(16), "prompt": "a castle", **fields})


def flood(peer: Peer, count: int) -> None:
    """Ask for so many pictures and take none in; the connection may be over before all are sent."""
    with suppress(ConnectionClosed):
        for _ in range(count):
            peer.send(request())


def kinds(events: list) -> list[str]:
    return [f"{'preview' if e.kind == PREVIEW else 'part'} {e.part}" if isinstance(e, Frame) else e.type for e in events]


def test_a_request_from_beginning_to_end(told: Make, tmp_path: Path) -> None:
    app = told(ToldEngine(progress(1), progress(2, preview=b"small"), finished()))
    with live(app) as url:
        peer = Peer(url)
        assert peer.first.backbone.fingerprint == 1
        asked = request(deadline_s=5.0)
        peer.send(asked)
        events = peer.until("done")
        assert kinds(events) == ["accepted", "step", "step", "preview 2", "coded", "part 0", "part 1", "part 2", "part 3", "done"]
        assert events[-1].report["decision"] == {"steps": 4, "merge_ratio": 0.0, "quantiser_bits": 5.0}
        assert peer.protocol.parts[asked.id].received().payload.features[1] == b"abc"
        peer.send(Shown(id=asked.id, decode_s=0.1, latency_s=0.3))
        until(lambda: (tmp_path / "outcomes.jsonl").is_file())
        peer.send(Shown(id=asked.id, decode_s=0.1, latency_s=0.3))  # counts once
        peer.send(Shown(id="f" * 32, decode_s=0.1, latency_s=0.3))
        assert peer.until("error")[-1].code == "unknown_request"
    requests = fit.read(tmp_path / "outcomes.jsonl")
    assert len(requests) == 1
    assert (requests[0].ue_s, requests[0].latency_s, requests[0].deadline_s) == (0.1, 0.3, 5.0)
    assert requests[0].air_s == pytest.approx(4e-3)
    assert b'megen_requests_total{state="sent"} 1.0' in app.metrics.text()
    assert list(app.service.decider._recent) == [(4, 1.0, 0.01)]  # the server's speed is learned from it
    queue_s = app.service._requests[asked.id].seconds["queue"]
    assert list(app.service.decider._rest_s) == [pytest.approx(0.3 - 0.1 - 4e-3 - 0.01 - queue_s)]  # what no profile accounts for


def test_a_new_connection_begins_with_the_last_ones_rate(told: Make) -> None:
    app = told(ToldEngine(finished(size=40_000)))
    with live(app) as url:
        for _ in range(2):
            peer = Peer(url)
            peer.send(request())
            peer.until("done")
            peer.close()
            until(lambda: bool(app._goodputs._last_bps))
    kept = list(app._goodputs._last_bps.values())
    assert len(kept) == 1  # one address
    assert kept[0] != PRIOR_BPS


def test_a_request_that_nobody_saw_is_logged_without_an_outcome(told: Make, tmp_path: Path) -> None:
    app = told(ToldEngine(RunError("no")))
    with live(app) as url:
        peer = Peer(url)
        peer.send(request())
        error = peer.until("error")[-1]
        assert (error.code, error.message, error.retryable) == ("failed", "no", True)
    assert json.loads((tmp_path / "outcomes.jsonl").read_text())["status"] == "failed"
    assert fit.read(tmp_path / "outcomes.jsonl") == []


def test_a_wrong_request_is_not_worth_another_try(told: Make) -> None:
    with live(told(ToldEngine(InputError("too many words")))) as url:
        peer = Peer(url)
        peer.send(request())
        error = peer.until("error")[-1]
        assert (error.code, error.retryable) == ("bad_request", False)
        peer.send(request(steps=3))
        error = peer.until("error")[-1]
        assert "steps must be one of 1, 4" in error.message
        assert error.code == "bad_request"
        peer.socket.send('{"type": "generate", "id": "' + "a" * 32 + '"}')
        error = peer.until("error")[-1]
        assert (error.code, error.id) == ("bad_request", "a" * 32)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_lost_engine_is_not_seen_by_the_phone(told: Make, after: int) -> None:
    """The engine dies at each stage once: the request runs again."""
    steps = (progress(1), progress(2), finished())
    engine = InTurn(ToldEngine(*steps[:after], EngineLostError("killed")), ToldEngine(*steps))
    with live(told(engine)) as url:
        peer = Peer(url)
        peer.send(request())
        assert kinds(peer.until("done", 5.0))[-1] == "done"


def test_an_engine_that_is_always_lost_is_said_within_five_seconds(told: Make) -> None:
    engine = ToldEngine(progress(1), EngineLostError("killed"))
    with live(told(engine)) as url:
        peer = Peer(url)
        began_s = time.monotonic()
        peer.send(request())
        error = peer.until("error", 5.0)[-1]
        assert (error.code, error.retryable) == ("failed", True)
        assert time.monotonic() - began_s < 5
        assert len(engine.jobs) == 3


def test_a_lost_connection_loses_nothing(told: Make) -> None:
    engine = ToldEngine(progress(1), 0.3, finished())
    with live(told(engine)) as url:
        asked = request()
        peer = Peer(url)
        peer.send(asked)
        peer.until("step")
        peer.socket.socket.shutdown(socket.SHUT_RDWR)  # as a screen that locks
        until(lambda: engine.running == 0)
        assert engine.cancelled == 0
        again = Peer(url)
        again.protocol.parts[asked.id] = peer.protocol.parts[asked.id]
        again.send(Resume(id=asked.id, have=(0, 2)))
        assert kinds(again.until("done")) == ["accepted", "coded", "part 1", "part 3", "done"]


def test_a_resume_in_mid_request_goes_on_as_it_comes(told: Make) -> None:
    with live(told(ToldEngine(progress(1), 0.4, progress(2), finished()))) as url:
        asked = request()
        first = Peer(url)
        first.send(asked)
        first.until("step")
        first.close()
        second = Peer(url)
        second.protocol.parts[asked.id] = first.protocol.parts[asked.id]
        second.send(Resume(id=asked.id))
        assert kinds(second.until("done")) == ["accepted", "step", "coded", "part 0", "part 1", "part 2", "part 3", "done"]


def test_asking_twice_is_asking_once(told: Make) -> None:
    engine = ToldEngine(0.2, finished())
    with live(told(engine)) as url:
        peer, asked = Peer(url), request()
        peer.send(asked)
        peer.send(asked)
        assert kinds(peer.until("done")).count("accepted") == 2
        assert len(engine.jobs) == 1
        peer.socket.send(asked.model_copy(update={"prompt": "another"}).text())
        assert "another request's" in peer.until("error")[-1].message


def test_a_cancelled_request_frees_the_engine(told: Make) -> None:
    engine = ToldEngine(progress(1), 30.0, finished())
    app = told(engine)
    with live(app) as url:
        peer, asked = Peer(url), request()
        peer.send(asked)
        peer.until("step")
        peer.send(Cancel(id=asked.id))
        assert kinds(peer.until("cancelled")) == ["cancelled"]
        until(lambda: engine.running == 0 and engine.cancelled == 1)
        until(lambda: app.service.scheduler.running == 0)


def test_a_cancelled_request_in_the_queue_never_runs(told: Make) -> None:
    engine = ToldEngine(0.3, finished())
    with live(told(engine, rows=1)) as url:
        peer, first, second = Peer(url), request(), request()
        peer.send(first)
        peer.send(second)
        peer.send(Cancel(id=second.id))
        peer.until("done")
        assert len(engine.jobs) == 1


def test_a_full_queue_says_when_to_come_again(told: Make) -> None:
    with live(told(ToldEngine(5.0, finished()), rows=1, capacity=2)) as url:
        peer = Peer(url)
        for _ in range(4):
            peer.send(request())
        events = peer.until("error")
        assert (events[-1].code, events[-1].retryable) == ("busy", True)
        assert events[-1].retry_after_s > 0
        assert [e.position for e in events[:-1]] == [0, 0, 1]


def test_ids_of_others_are_nobodys(told: Make) -> None:
    access = Access({"one": "a" * 20, "two": "b" * 20})
    with live(told(ToldEngine(finished()), access)) as url:
        one, asked = Peer(url, "a" * 20), request()
        one.send(asked)
        one.until("done")
        two = Peer(url, "b" * 20)
        for message in (Resume(id=asked.id), Cancel(id=asked.id), Shown(id=asked.id, decode_s=1.0, latency_s=1.0)):
            two.send(message)
            assert two.until("error")[-1].code == "unknown_request"
        two.send(asked)
        assert two.until("error")[-1].code == "bad_request"


def test_a_wrong_token_is_let_in_nowhere(told: Make) -> None:
    with live(told(ToldEngine(finished()), Access({"one": "a" * 20}))) as url:
        for token in (None, "", "a" * 19, "ä" * 20):
            peer = Peer(url, token)
            assert peer.first.code == "unauthorised"
            with pytest.raises(ConnectionClosed) as closed:
                peer.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == connection.POLICY


def test_limits_of_a_token_and_of_an_address(told: Make) -> None:
    access = Access(limits=Limits(requests_a_minute=2, connections=2))
    with live(told(ToldEngine(finished()), access)) as url:
        peer = Peer(url)
        for _ in range(3):
            peer.send(request())
        error = peer.until("error")[-1]
        assert (error.code, error.retryable) == ("too_many", True)
        assert 0 < error.retry_after_s <= 60
        second = Peer(url)
        with connect(url.replace("http", "ws") + "/v1/ws") as third:
            assert json.loads(third.recv())["code"] == "too_many"
            with pytest.raises(ConnectionClosed) as closed:
                third.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == connection.POLICY
        second.close()
        until(lambda: access._connections["127.0.0.1"] == 1)
        Peer(url).close()


def test_a_page_of_another_origin_is_refused(told: Make) -> None:
    with live(told(ToldEngine(finished()), Access(origins=("https://friend.example",)))) as url:
        Peer(url, origin=url).close()
        Peer(url, origin="https://friend.example").close()
        with pytest.raises(InvalidStatus):
            Peer(url, origin="https://foe.example")


def test_a_slow_reader_is_bounded(told: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_WAITING_BYTES", 200_000)
    engine = ToldEngine(finished(400_000))
    app = told(engine, rows=2)
    with live(app) as url:
        peer = Peer(url, max_queue=1)
        flood(peer, 20)
        until(lambda: app.metrics.connections._value.get() == 0, 10)
        assert len(engine.jobs) >= 1  # requests went on, and are kept


def test_of_waiting_previews_the_newest_wins(told: Make) -> None:
    app = told(ToldEngine())

    async def nothing(*args: object) -> None: ...

    socket_ = WebSocket({"type": "websocket"}, nothing, nothing)  # type: ignore[arg-type]
    out = connection.Connection(socket_, app.service, app.access, app.metrics, app._offered, Goodputs())
    served = Served(request(), "", Completion("x"), Decided(Decision(1), ""), ChannelState(None), 0.0, 0.0)
    for k in range(5):
        out._tell(served, Piece(PREVIEW, k, bytes(1000)))
    out._tell(served, Piece(FEATURES, 0, b"x"))
    assert [event.part for _, event in out._out if isinstance(event, Piece)] == [4, 0]
    assert out._bytes == 1001


def test_nonsense_ends_a_connection_and_nothing_else(told: Make) -> None:
    with live(told(ToldEngine(finished()))) as url:
        good = Peer(url)
        for nonsense in ("{", "[]", "\x00", b"binary", Hello().text(), "x" * 100_000):
            peer = Peer(url)
            peer.socket.send(nonsense)
            with pytest.raises(ConnectionClosed):
                peer.until("never")
        good.send(request())
        assert kinds(good.until("done"))[-1] == "done"


def test_a_full_disk_does_not_stop_requests(told: Make, capsys: pytest.CaptureFixture[str]) -> None:
    app = told(ToldEngine(finished()), log=Path("/dev/full"))
    with live(app) as url:
        peer = Peer(url)
        for _ in range(2):
            asked = request()
            peer.send(asked)
            peer.until("done")
            peer.send(Shown(id=asked.id, decode_s=0.1, latency_s=0.3))
        until(lambda: app.service.outcomes.unwritten == 2)
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_draining_server_finishes_what_it_has_and_takes_no_more(told: Make) -> None:
    import asyncio
    import threading

    app = told(ToldEngine(0.5, finished()))
    with live(app) as url:
        peer = Peer(url)
        peer.send(request())
        peer.until("accepted")
        drained = threading.Thread(target=lambda: asyncio.run(app.service.drain(5.0)))
        drained.start()
        until(lambda: app.service.draining)
        peer.send(request())
        error = peer.until("error")[-1]
        assert (error.code, error.retryable) == ("draining", True)
        assert kinds(peer.until("done"))[-1] == "done"
        drained.join()
