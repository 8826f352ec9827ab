"""Parts of a payload that are sent while others are coded: over a real socket, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from megen.link import PerfectLink
from megen.protocol.messages import Resume
from megen.serving import connection, server
from megen.serving.access import ANYONE
from megen.serving.decider import Decider
from megen.serving.job import EngineLostError
from megen.types import ChannelState

from .helpers import InTurn, Peer, ToldEngine, finished, live, payload, progress, until
from .test_requests import Make, kinds, request

PARTS = payload().parts
EVERY = ["coded", "part 0", "part 1", "part 2", "part 3", "done"]


def test_parts_go_out_while_the_next_is_coded(told: Make) -> None:
    """A part that is coded later has a message before it, so that its acknowledgement tells the link's rate and not the coder's."""
    with live(told(ToldEngine(*PARTS[:3], 0.5, PARTS[3], finished()))) as url:
        peer, asked = Peer(url), request()
        peer.send(asked)
        began_s = time.monotonic()
        first = peer.until("coded")[-1]
        assert time.monotonic() - began_s < 0.4
        assert (first.parts, first.bytes) == (4, 24)
        events = peer.until("done")
        assert kinds(events) == ["part 0", "part 1", "part 2", "coded", "part 3", "done"]
        assert events[3].bytes == sum(len(part.data) for part in PARTS)
        assert peer.protocol.parts[asked.id].received().payload == payload()


def test_a_slow_link_gets_no_message_more(told: Make) -> None:
    """There the part before is still in transit; a part whose seconds are mostly the coder's tells no rate."""
    app = told(ToldEngine(*PARTS[:3], 0.2, PARTS[3], finished()))
    with live(app) as url:
        app._goodputs._last_bps[ANYONE, "127.0.0.1"] = connection.MARKED_BPS / 2
        peer = Peer(url)
        peer.send(request())
        assert kinds(peer.until("done", ms=50)) == ["accepted", *EVERY]
        until(lambda: b"megen_goodput_bits_per_second_count 3.0" in app.metrics.text())  # of four frames


def test_a_phone_that_comes_back_while_parts_are_coded_gets_the_rest(told: Make) -> None:
    engine = ToldEngine(*PARTS[:2], 0.6, *PARTS[2:], finished())
    with live(told(engine)) as url:
        first, asked = Peer(url), request()
        first.send(asked)
        first.until("coded")
        first.receive()
        first.socket.socket.shutdown(socket.SHUT_RDWR)
        again = Peer(url)
        again.protocol.parts[asked.id] = first.protocol.parts[asked.id]
        again.send(Resume(id=asked.id, have=(0,)))
        said = kinds(again.until("done"))
        assert [what for what in said if what != "coded"] == ["accepted", "part 1", "part 2", "part 3", "done"]
        assert again.protocol.parts[asked.id].received().payload == payload()


@pytest.mark.parametrize(("data", "last"), [(b"abc", "done"), (b"abd", "error")])
def test_an_engine_lost_in_mid_payload_goes_unseen_unless_the_next_codes_otherwise(told: Make, data: bytes, last: str) -> None:
    other = replace(PARTS[3], data=data)
    engine = InTurn(ToldEngine(*PARTS, EngineLostError("killed")), ToldEngine(*PARTS[:3], other, finished()))
    with live(told(engine)) as url:
        peer = Peer(url)
        peer.send(request())
        events = peer.until(last)
        assert kinds(events) == ["accepted", *EVERY[:-1], last]
        assert last == "done" or (events[-1].retryable and "two engines made other features" in events[-1].message)


def test_what_crosses_an_emulated_link_is_sent_when_it_has(told: Make) -> None:
    app = told(ToldEngine(*PARTS, 0.2, finished()))
    app.service.link = PerfectLink()
    with live(app) as url:
        peer = Peer(url)
        peer.send(request())
        events = peer.until("done")
        assert kinds(events) == ["accepted", *EVERY]
        assert events[1].bytes == sum(len(part.data) for part in PARTS)


def test_the_servers_sockets_hold_no_small_message_back() -> None:
    """Nagle's algorithm would keep a part until the phone has acknowledged the one before: a round trip for each."""
    listening = server.bound("127.0.0.1", 0)

    async def accepted() -> int:
        asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await asked

    assert asyncio.run(accepted()) == 1


@pytest.mark.parametrize(
    ("decodes", "link", "picture", "streams"),
    [
        (True, None, False, True),
        (None, None, False, True),
        (True, PerfectLink(), False, False),
        (False, None, True, False),  # the call for images decodes here when all is coded
        (True, None, True, False),
    ],
)
def test_only_what_is_sent_part_by_part_is_planned_so(
    told: Make, decodes: bool | None, link: PerfectLink | None, picture: bool, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[bool] = []
    decide = Decider.decide

    def noted(*args, streams=False):  # type: ignore[no-untyped-def]
        planned.append(streams)
        return decide(*args, streams=streams)

    monkeypatch.setattr(Decider, "decide", noted)
    service = told(ToldEngine(finished())).service
    service.link, service.picture = link, (lambda payload: b"a file") if picture else None

    async def ask() -> None:
        service.submit(request(), "somebody", lambda s, e: None, channel=ChannelState(None, 0.0, 1e6), decode_s=None, decodes=decodes)
        await service.drain(5.0)

    asyncio.run(ask())
    assert planned == [streams]


def test_a_step_that_is_made_again_is_not_said_after_parts(told: Make) -> None:
    engine = InTurn(ToldEngine(progress(1), *PARTS[:3], EngineLostError("killed")), ToldEngine(progress(1), *PARTS, finished()))
    with live(told(engine)) as url:
        peer = Peer(url)
        peer.send(request())
        assert [what for what in kinds(peer.until("done")) if what != "coded"] == ["accepted", "step", *EVERY[1:]]


def test_a_link_that_turns_out_fast_is_noticed_by_parts_that_waited_for_the_coder(told: Make) -> None:
    """Below the rate from which on parts are marked their seconds hold the coder's too: then they tell the least that the rate can be."""
    parts = payload(3000).parts
    app = told(ToldEngine(*parts[:2], 0.01, *parts[2:], finished(3000)))
    with live(app) as url:
        app._goodputs._last_bps[ANYONE, "127.0.0.1"] = 1e5
        peer = Peer(url)
        peer.send(request())
        peer.until("done", ms=12)
        until(lambda: b"megen_goodput_bits_per_second_count 4.0" in app.metrics.text())
