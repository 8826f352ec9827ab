"""The Python user equipment against servers that are well, busy, slow, cut off or gone."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from experiments.serving.proxy import proxied
from megen import export
from megen.cli.main import main
from megen.codec.arriving import Arriving
from megen.errors import InputError, RunError
from megen.models import embedded
from megen.pipeline import Pipeline
from megen.serving import server
from megen.serving.access import Access
from megen.serving.app import App
from megen.serving.job import EngineLostError
from megen.ue import Receiver
from megen.ue import client as client_module
from megen.ue.client import Answer, Client

from .helpers import Peer, ToldEngine, finished, live, progress, until

Make = Callable[..., App]


class GreyReceiver(Receiver):
    """Decodes whatever it is given."""

    def __init__(self) -> None:
        object.__setattr__(self, "codec", type("Codec", (), {"fingerprint": 1})())

    def arriving(self, payload: object) -> Arriving:
        return Taken()

    def image_of(self, features: object) -> np.ndarray:
        return np.zeros((64, 64, 3), np.uint8)


class Taken(Arriving):
    """Takes whatever arrives."""

    def __init__(self) -> None: ...

    def take(self, number: int, part: bytes) -> None: ...

    def features(self) -> Any: ...


def ask(servers: list[str] | str, patience_s: float = 10.0, token: str | None = None, **options: Any) -> tuple[Answer, list[Any]]:
    events: list[Any] = []
    client = Client([servers] if isinstance(servers, str) else servers, token, GreyReceiver(), patience_s, on_event=events.append)
    return asyncio.run(client.ask("a castle", **options)), events


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_the_picture_is_the_one_of_the_pipeline(tiny_server: str, tiny_folder: Path) -> None:
    own = export.receiver_of(embedded.load(str(tiny_folder)), tiny_folder)
    client = Client([tiny_server], receiver=own)
    answer = asyncio.run(client.ask("a castle at dawn", seed=3, steps=4, merge_ratio=0.5))
    pipe = Pipeline.load(str(tiny_folder), device="cpu")
    latent = pipe.transmitter.denoise(["a castle at dawn"], [3], 4)
    assert (answer.image == pipe.receiver.decode(server_payload(pipe, latent))).all()
    assert answer.report["seed"] == 3
    assert answer.accepted.decision.steps == 4
    assert answer.reconnects == 0
    assert 0 < answer.decode_s < answer.latency_s


def server_payload(pipe: Pipeline, latent: Any) -> Any:
    from megen.types import Received

    return Received(pipe.transmitter.encode(latent, 0.5, order="stage").payload)


def test_a_receiver_that_nobody_has_is_fetched_from_the_server_and_kept(tiny_server: str, tiny_app: App) -> None:
    for _ in range(2):
        answer = asyncio.run(Client([tiny_server]).ask("a castle", steps=1))
        assert answer.image.shape == (256, 256, 3)
    wrong = GreyReceiver()
    with pytest.raises(InputError, match="another backbone"):
        asyncio.run(Client([tiny_server], receiver=wrong).ask("a castle"))


def test_a_cut_connection_is_resumed(told: Make) -> None:
    engine = ToldEngine(progress(1), 0.5, progress(2), finished(40_000))

    async def run() -> tuple[Answer, list[Any]]:
        events: list[Any] = []
        async with proxied(port_of(url), down_bps=400_000) as (proxy, through):
            client = Client([through], receiver=GreyReceiver(), on_event=events.append)
            asking = asyncio.create_task(client.ask("a castle"))
            for cut_s in (0.3, 0.5, 0.9):  # before, while and after the features are sent
                await asyncio.sleep(cut_s)
                proxy.cut()
            return await asking, events

    with live(told(engine)) as url:
        answer, events = asyncio.run(run())
    assert answer.reconnects >= 2
    assert len(engine.jobs) == 1
    assert any("trying again" in event for event in events if isinstance(event, str))
    assert answer.received.payload.features[0] == bytes(40_000)


def test_a_server_that_has_forgotten_is_asked_anew(told: Make) -> None:
    app = told(ToldEngine(progress(1), 0.3, finished()))

    async def run() -> Answer:
        async with proxied(port_of(url)) as (proxy, through):
            asking = asyncio.create_task(Client([through], receiver=GreyReceiver()).ask("a castle"))
            await asyncio.sleep(0.2)
            proxy.cut()
            app.service._requests.clear()  # as a server that was started anew
            return await asking

    with live(app) as url:
        assert asyncio.run(run()).reconnects >= 1


def test_the_server_plans_with_what_is_left_of_the_deadline(told: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = client_module.receiver_for

    def slow(*given: Any) -> Receiver:
        time.sleep(0.3)  # as a receiver that is loaded
        return loading(*given)

    monkeypatch.setattr(client_module, "receiver_for", slow)
    with live(told(ToldEngine(finished()))) as url:
        answer, _ = ask(url, deadline_s=5.0)
        hopeless, _ = ask(url, deadline_s=0.2)
        free, _ = ask(url)
        log = tmp_path / "outcomes.jsonl"
        until(lambda: log.is_file() and len(log.read_text().splitlines()) == 3)
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["observation"]["deadline_s"] for row in logged] == [pytest.approx(4.7, abs=0.25), 0.001, None]
    for row, said in zip(logged, (answer, hopeless, free), strict=True):
        assert row["outcome"]["latency_s"] == pytest.approx(said.latency_s - 0.3, abs=0.25)
        assert row["outcome"]["latency_s"] < said.latency_s - 0.29


def test_a_receiver_is_loaded_once(tiny_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, loaded = client_module.receiver_for, []

    def counted(*given: Any) -> Receiver:
        loaded.append(loading(*given))
        return loaded[-1]

    monkeypatch.setattr(client_module, "receiver_for", counted)
    client = Client([tiny_server])

    async def both() -> list[Any]:
        return list(await asyncio.gather(*(client.ask("a castle", seed=1, steps=1) for _ in range(3))))

    pictures = [answer.image for _ in range(2) for answer in asyncio.run(both())]
    assert all((picture == pictures[0]).all() for picture in pictures)
    assert len(loaded) == 1


def test_a_request_that_no_server_has_is_sent_with_what_is_left_by_then(told: Make) -> None:
    busy, well = told(ToldEngine(5.0), rows=1, capacity=0), told(ToldEngine(finished()))
    with live(busy) as first, live(well) as second:
        ask([first, second], deadline_s=9.0)
    (served,) = well.service._requests.values()
    assert served.asked.deadline_s is not None
    assert served.asked.deadline_s < 9.0 - 0.1  # the wait before the next server


def test_the_next_server_is_asked_where_one_is_gone_or_busy(told: Make) -> None:
    busy, well = told(ToldEngine(5.0), rows=1, capacity=0), told(ToldEngine(finished()))
    with live(busy) as first, live(well) as second:
        answer, events = ask([f"ws://{nobody()}", first, second])
        assert answer.image.shape == (64, 64, 3)
        said = [event for event in events if isinstance(event, str)]
        assert len(said) == 2
        assert "busy" in said[1]


def test_a_failed_engine_is_another_servers_work(told: Make) -> None:
    with live(told(ToldEngine(EngineLostError("dead")))) as first, live(told(ToldEngine(finished()))) as second:
        assert ask([first, second])[0].report["seed"] == 0


def test_patience_ends(told: Make) -> None:
    with pytest.raises(RunError, match=r"no picture within 0\.5 s"):
        ask(f"ws://{nobody()}", patience_s=0.5)


def test_what_is_wrong_is_not_tried_again(told: Make) -> None:
    with live(told(ToldEngine(finished()), Access({"one": "a" * 20}))) as url:
        with pytest.raises(InputError, match="token"):
            ask(url, token="b" * 20)
        with pytest.raises(InputError, match="steps must be one of"):
            ask(url, token="a" * 20, steps=3)
        assert ask(url, token="a" * 20)[0].image.any() == 0
    for wrong in ({"seed": -1}, {"deadline_s": 0.0}, {"merge_ratio": 2.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ask("ws://localhost:1", **wrong)
    for address in ("ftp://x", "http://", ""):
        with pytest.raises(InputError, match="address"):
            Client([address])
    with pytest.raises(InputError, match="address"):
        Client([])


def test_a_cancelled_ask_cancels_the_request(told: Make) -> None:
    engine = ToldEngine(progress(1), 30.0)

    async def run() -> None:
        asking = asyncio.create_task(Client([url], receiver=GreyReceiver()).ask("a castle"))
        while not engine.running:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    with live(told(engine)) as url:
        asyncio.run(run())
        until(lambda: engine.cancelled == 1)


def test_what_is_no_edge_server_is_said(told: Make) -> None:
    import http.server
    import threading

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with pytest.raises(RunError, match="no edge server of megen"):
        ask(f"http://127.0.0.1:{web.server_address[1]}", patience_s=0.3)
    web.shutdown()


def test_goodput_is_what_the_link_has(told: Make) -> None:
    """Acknowledgements through a link of 1 Mbit/s: the server's estimate, as its log has it."""
    app = told(ToldEngine(finished(20_000)))

    async def run() -> None:
        async with proxied(port_of(url), down_bps=1e6) as (_, through):
            client = Client([through], receiver=GreyReceiver())
            await client.ask("a castle")

    seen: list[float] = []
    app.metrics.goodput.observe = seen.append  # type: ignore[method-assign, assignment]
    with live(app) as url:
        asyncio.run(run())
        until(lambda: len(seen) == 4)
    assert 0.7e6 < seen[-1] < 1.4e6


def test_the_client_needs_no_torch() -> None:
    import subprocess

    code = "import sys, megen.ue.client; assert 'torch' not in sys.modules and 'starlette' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_commands(tiny_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report, payload = tmp_path / "x.png", tmp_path / "x.json", tmp_path / "x.megen"
    options = ["--server", tiny_server, "--steps", "2", "--report", str(report), "--payload", str(payload)]
    assert main(["ask", "a castle at dawn", *options, "--out", str(out)]) == 0
    assert out.is_file()
    assert report.is_file()
    assert payload.is_file()
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out)
    assert "features in" in shown.err
    for wrong in (
        ["--steps", "x"],
        ["--steps", "2.5"],
        ["--merge-ratio", "9"],
        ["--server", "ftp://x"],
        ["--patience-s", "0"],
        ["--seed", "-1"],
    ):
        assert main(["ask", "a castle", "--out", str(out), *wrong]) == 2
    assert main(["ask", "a castle", "--out", str(out), "--server", f"http://{nobody()}", "--patience-s", "0.3"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--port", "70000"], "--port"),
        (["--token-file", "/nowhere"], "/nowhere"),
        (["--rows", "0"], "rows"),
        (["--queue", "0"], "--queue must lie in [1, 1e+06], got 0"),
        (["--threads", "0"], "--threads"),
        (["--connections", "0"], "connections"),
        (["--tls-cert", "x.pem"], "--tls-key"),
        (["--emulate-link", "snr=3"], "snr_db"),
        (["--emulate-link", "snr_db=x"], "snr_db"),
        (["--emulate-link", "speed_m_s=-1"], "speed"),
        (["--backbone", "nothing"], "no backbone"),
        (["--log", "/nowhere/x.jsonl"], "/nowhere"),
    ],
)
def test_serve_refuses_what_cannot_be(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot listen"):
            server.bound("127.0.0.1", taken.getsockname()[1])


def test_two_peers_of_one_request_both_hear_of_it(told: Make) -> None:
    from megen.protocol.messages import Resume

    from .test_requests import request

    with live(told(ToldEngine(progress(1), 0.4, finished()))) as url:
        first, second, asked = Peer(url), Peer(url), request()
        first.send(asked)
        first.until("step")
        second.protocol.parts[asked.id] = type(first.protocol.parts[asked.id])()
        second.send(Resume(id=asked.id))
        assert second.until("done")[-1].type == first.until("done")[-1].type == "done"
