"""What nobody may take from others: connections, rates, quotas, the log's lines; and what pages of other sites may do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from megen.cli.main import main
from megen.control import fit
from megen.errors import InputError
from megen.protocol.messages import Cancel, Shown
from megen.serving import connection, outcome, server, transports
from megen.serving.access import Access, Limits
from megen.serving.app import App, Asset, takes_gzip
from megen.serving.goodput import SLOWER, GoodputEstimate

from .helpers import Peer, ToldEngine, finished, live, until
from .test_app import ask
from .test_requests import flood, request

Make = Callable[..., App]
IMAGES = "v1/images/generations"


def opened(url: str, data: bytes = b"") -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    out = socket.create_connection((host, int(port)), timeout=10)
    out.sendall(data)
    return out


def over(connected: socket.socket) -> bool:
    """Whether the server ended a connection."""
    connected.settimeout(0.2)
    try:
        return connected.recv(1000) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def all_of(peer: Peer) -> None:
    """Take in whatever comes, for ever."""
    while True:
        peer.socket.recv(timeout=10)


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n"])
def test_a_request_that_does_not_come_to_an_end_is_cut_off(told: Make, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(server, "Bounds", lambda each: transports.Bounds(each, request_s=0.3))
    body = b"Content-Length: 900\r\n\r\n{" if begun.startswith(b"POST") else b""
    with live(told(ToldEngine(finished()))) as url:
        slow = opened(url, begun + body)
        assert ask(f"{url}/healthz")[0] == 200
        until(lambda: over(slow), 5)
        kept = opened(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")  # a whole one is answered, and may be followed by a next
        assert b"200 OK" in kept.recv(4000)
        time.sleep(0.5)
        assert not over(kept)
        kept.sendall(b"GET /healthz HTTP/1.1\r\n")
        until(lambda: over(kept), 5)


def test_connections_of_an_address_and_of_all_are_bounded(told: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = transports.Bounds(3, open=8, proxies=())
    monkeypatch.setattr(server, "Bounds", lambda each: bounds)
    with live(told(ToldEngine(finished()))) as url:
        half = [opened(url, b"GET / HTTP/1.1\r\n") for _ in range(3)]
        assert over(opened(url))
        half.pop().close()
        until(lambda: not over(opened(url)), 5)
        bounds.each = 100
        half += [opened(url) for _ in range(20)]
        until(lambda: sum(map(over, half)) >= 10, 20)
        for connected in half:
            connected.close()
        until(lambda: not bounds.connected, 5)
        assert ask(f"{url}/healthz")[0] == 200
        bounds.each, bounds.proxies = 0, ("127.0.0.1",)  # a proxy brings many clients
        assert ask(f"{url}/healthz")[0] == 200
    assert 1 <= transports.most_open() <= transports.MOST_OPEN


def test_a_pipelined_request_and_a_late_body_have_their_own_time(told: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Bounds", lambda each: transports.Bounds(each, request_s=0.5))
    begun = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with live(told(ToldEngine(finished()), Access({"one": "a" * 20}))) as url:
        pipelined = opened(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + begun)
        until(lambda: over(pipelined), 5)
        late = opened(url, begun)  # refused before its body is there
        time.sleep(0.2)
        assert b"401" in late.recv(4000)
        late.sendall(b"x" * 9)
        time.sleep(0.8)
        late.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in late.recv(4000)


@pytest.mark.parametrize("path", ["/big", "/v1/ws"])
def test_who_takes_nothing_in_is_dropped(told: Make, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    bounds = transports.Bounds(9)
    monkeypatch.setattr(server, "Bounds", lambda each: bounds)
    monkeypatch.setattr(transports, "STUCK_S", 0.3)
    app = told(ToldEngine(finished(2**22)))
    app.files["/big"] = Asset(bytes(2**24), "application/octet-stream", "no-cache")
    with live(app) as url:
        if path == "/big":
            stuck = opened(url, b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: bool(bounds.connected))
            until(lambda: not bounds.connected, 10)
            stuck.close()
        else:
            peer = Peer(url, max_queue=1)
            flood(peer, 1)
            until(lambda: app.metrics.connections._value.get() == 0, 10)


def test_a_whole_websocket_is_no_unfinished_request(told: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Bounds", lambda each: transports.Bounds(each, request_s=0.2))
    with live(told(ToldEngine(finished()))) as url:
        peer = Peer(url)
        time.sleep(0.5)
        peer.send(request())
        assert peer.until("done")[-1].type == "done"


def test_a_reader_that_takes_nothing_in_is_dropped(told: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_WAITING_BYTES", 2**20)
    monkeypatch.setattr(connection, "CLOSE_S", 0.2)
    app = told(ToldEngine(finished(2**22)), rows=2)
    with live(app) as url:
        peer = Peer(url, max_queue=1)
        flood(peer, 3)
        until(lambda: app.metrics.connections._value.get() == 0, 10)
        with pytest.raises(ConnectionClosed):
            all_of(peer)


def test_seconds_that_cannot_be_true_and_a_single_stall_change_little(told: Make) -> None:
    app = told(ToldEngine(finished()))
    with live(app) as url:
        peer = Peer(url)
        peer.send(request())
        peer.until("done", ms=3.6e6)  # an hour a frame
        until(lambda: any(app.service._requests[i].air_s for i in app.service._requests))
        served = next(iter(app.service._requests.values()))
        assert served.air_s < 2  # as long as it can have been
    estimate = GoodputEstimate(1e6)
    estimate.observe(1000, 3600.0)
    assert estimate.bps > 1e6 / SLOWER
    for _ in range(60):
        estimate.observe(1000, 0.8)  # a link of 10 kbit/s is found out all the same
    assert estimate.bps == pytest.approx(1e4, rel=0.1)


def test_metrics_take_the_latency_that_can_be(told: Make) -> None:
    app = told(ToldEngine(finished()))
    with live(app) as url:
        peer = Peer(url)
        asked = request(deadline_s=20.0)
        peer.send(asked)
        peer.until("done")
        peer.send(Shown(id=asked.id, decode_s=0.1, latency_s=1e6))
        until(lambda: b"megen_latency_seconds_count 1.0" in app.metrics.text())
    assert b"megen_late_total 0.0" in app.metrics.text()


@pytest.mark.parametrize("origin", ["http://evil.example", "http://[", "null", ""])
def test_a_page_of_another_origin_makes_no_images(told: Make, origin: str) -> None:
    engine = ToldEngine(finished())
    app = told(engine)
    with live(app) as url:
        status, _, _ = ask(f"{url}/{IMAGES}", {"prompt": "a castle"}, {"Origin": origin, "Content-Type": "text/plain"})
        assert status == 403
        assert ask(f"{url}/{IMAGES}", {"prompt": "a castle"}, {"Origin": url})[0] == 200
    assert b'megen_refused_total{code="unauthorised"} 1.0' in app.metrics.text()


def test_a_failure_is_an_answer_with_all_headers(told: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    app = told(ToldEngine(finished()), Access(origins=("https://friend.example",)))
    monkeypatch.setattr(app.images.access, "retry_after_s", lambda *args: 1 / 0)
    with live(app) as url:
        status, body, headers = ask(f"{url}/{IMAGES}", {"prompt": "a castle"}, {"Origin": "https://friend.example"})
    assert (status, json.loads(body)["error"]["message"]) == (500, "failed unexpectedly, by ZeroDivisionError")
    assert headers["access-control-allow-origin"] == "https://friend.example"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_site_that_is_named_may_read_what_decodes_and_ask(told: Make) -> None:
    with live(told(ToldEngine(finished()), Access(origins=("https://friend.example",)))) as url:
        _, _, headers = ask(f"{url}/healthz", headers={"Origin": "https://friend.example"})
        assert headers["access-control-allow-origin"] == "https://friend.example"
        assert headers["cross-origin-resource-policy"] == "cross-origin"
        assert "access-control-allow-origin" not in ask(f"{url}/healthz", headers={"Origin": "https://foe.example"})[2]
        assert ask(f"{url}/{IMAGES}", {"prompt": "a castle"}, {"Origin": "https://friend.example"})[0] == 200


NO_ORIGINS = ("", "example.com", "example.com/", "https://example.com/", "ftp://example.com", "https://Example.com", "https://[")
NO_ORIGINS += ("https://example.com:443", "https://a@b", "https://a:99999", "https://exa mple.com", "https://münchen.de")


@pytest.mark.parametrize("wrong", NO_ORIGINS)
def test_what_is_no_origin_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="an origin is a scheme, a host and maybe a port"):
        Access(origins=(wrong,))


def test_images_are_all_taken_on_or_none_and_refusals_cost_no_quota(told: Make) -> None:
    engine = ToldEngine(0.3, finished())
    app = told(engine, Access(limits=Limits(requests_a_minute=6)), rows=1, capacity=2)
    with live(app) as url:
        status, body, _ = ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 5})
        assert (status, "at most 3 requests at once" in json.loads(body)["error"]["message"]) == (400, True)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ask, f"{url}/{IMAGES}", {"prompt": "a castle", "n": 1})
            until(lambda: engine.running == 1)
            assert ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 3})[0] == 503
            assert (engine.running, len(app.service.scheduler)) == (1, 0)  # of the three none was begun
            assert first.result()[0] == 200
        assert ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 2})[0] == 200  # the refused eight were not counted
        assert ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 4})[0] == 429
        assert ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 2})[0] == 200  # nor these four
        status, body, _ = ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 7})
        assert (status, "at most 6 pictures a minute" in json.loads(body)["error"]["message"]) == (400, True)
        text = app.metrics.text()
    for code, count in (("busy", 1), ("too_many", 1), ("bad_request", 2)):
        assert f'megen_refused_total{{code="{code}"}} {count}.0'.encode() in text


def test_a_client_that_leaves_without_a_stream_stops_its_work(told: Make) -> None:
    engine = ToldEngine(30.0, finished())
    with live(told(engine)) as url:
        body = b'{"prompt": "a castle"}'
        leaving = opened(url, b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: engine.running == 1)
        leaving.close()
        until(lambda: engine.running == 0, 5)
        assert engine.cancelled == 1


def test_without_tokens_each_address_has_a_quota_of_its_own() -> None:
    anyone, known = Access(limits=Limits(requests_a_minute=1)), Access({"one": "a" * 20}, Limits(requests_a_minute=1))
    for access, second in ((anyone, 0.0), (known, pytest.approx(60, abs=1))):
        access.took(access.payer("one", "10.0.0.1"))
        assert access.retry_after_s(access.payer("one", "10.0.0.2")) == second


def test_every_request_has_its_line(told: Make, tmp_path: Path) -> None:
    import asyncio

    app = told(ToldEngine(finished()))
    with live(app) as url:
        assert ask(f"{url}/{IMAGES}", {"prompt": "a castle", "n": 2})[0] == 200
        peer = Peer(url)
        peer.send(request())
        peer.until("done")
        asyncio.run(app.service.drain(1.0))
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["unseen"] * 3
    assert all(line["decision"]["steps"] in (1, 4) for line in lines)
    assert fit.read(tmp_path / "outcomes.jsonl") == []


def test_a_line_that_did_not_fit_spoils_no_other(told: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, path = told(ToldEngine(finished())), tmp_path / "outcomes.jsonl"
    opening = Path.open

    class Full:
        """A disk that takes half a line."""

        def __init__(self, file) -> None:  # type: ignore[no-untyped-def]
            self.file = file
            self.seek, self.truncate, self.seekable = file.seek, file.truncate, file.seekable

        def __enter__(self):  # type: ignore[no-untyped-def]
            return self

        def __exit__(self, *what: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            return int(self.file.write(data[: len(data) // 2]))

    app.service.outcomes._write({"status": "unseen", "n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(outcome.Path, "open", lambda self, *a, **k: Full(opening(self, *a, **k)))
        app.service.outcomes._write({"status": "unseen", "n": 2})
    app.service.outcomes._write({"status": "unseen", "n": 3})
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 3]
    assert app.service.outcomes.unwritten == 1


def test_those_behind_hear_of_a_place_that_became_free(told: Make) -> None:
    with live(told(ToldEngine(30.0, finished()), rows=1)) as url:
        peer = Peer(url)
        asked = [request() for _ in range(4)]
        for one in asked:
            peer.send(one)
        places = [peer.receive() for _ in range(4)]
        assert sorted(event.position for event in places) == [0, 0, 1, 2]
        peer.send(Cancel(id=asked[1].id))
        events = [peer.receive() for _ in range(3)]
        assert {(event.id, getattr(event, "position", None)) for event in events} == {
            (asked[1].id, None),
            (asked[2].id, 0),
            (asked[3].id, 1),
        }


def test_gzip_only_where_it_is_taken() -> None:
    assert all(map(takes_gzip, ("gzip, br", "br;q=1, GZIP ;q=0.5")))
    assert not any(map(takes_gzip, ("gzip;q=0", "gzip;q=0.0", "br", "")))


def test_a_log_gets_no_token(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    server.say_address("http://x", "secret-token")
    assert "secret-token" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    server.say_address("http://x", "secret-token")
    assert "#token=secret-token" in capsys.readouterr().out


def test_a_broken_certificate_is_named_before_anything_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nothing")
    assert main(["serve", "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]) == 2
    error = capsys.readouterr().err
    assert "are not a certificate and its key" in error
    assert "loading" not in error


def test_a_port_in_use_is_named_before_anything_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "loading" not in capsys.readouterr().err


def test_too_many_connections_are_said_in_the_protocol(told: Make) -> None:
    with live(told(ToldEngine(finished()), Access(limits=Limits(connections=1)))) as url:
        first = Peer(url)
        with connect(url.replace("http", "ws") + "/v1/ws") as second:
            assert json.loads(second.recv())["message"] == "too many connections of this address"
        first.close()
