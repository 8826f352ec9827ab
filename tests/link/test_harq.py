from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from megen.link import NotDeliveredError, RadioLink, digital, harq
from megen.link.adaptation import OuterLoop
from megen.link.carrier import symbol_rate_hz, symbols_per_hz
from megen.link.fading import Forecast
from megen.types import Payload, Transmission


def steady(snr_db: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda t: np.full(np.shape(t), snr_db)


def run(bits: list[int], snr_db: float, believed_db: float, seed: int, loop: OuterLoop | None = None, limit: float = 0.1) -> harq.Reception:
    known, rng = Forecast(10 ** (believed_db / 10)), np.random.default_rng(seed)
    return harq.transmit(bits, [limit] * len(bits), steady(snr_db), lambda t: known, 1e6, rng, loop)


def test_symbols_of_a_carrier_by_hand() -> None:
    assert symbols_per_hz(5e6) == pytest.approx(25 * 12 * 14 * 1000 * 0.86 / 5e6)
    assert symbols_per_hz(20e6) == pytest.approx(0.766, abs=5e-4)
    assert symbols_per_hz(100e6) == pytest.approx(0.789, abs=5e-4)
    assert symbol_rate_hz(1e6) == pytest.approx(722_400)
    assert symbol_rate_hz(3e8) == pytest.approx(3e8 * symbols_per_hz(100e6))


def test_mean_attempts_against_the_closed_form() -> None:
    got = [run([400], 5.0, 5.9, seed) for seed in range(4000)]  # a little too bold
    sent = got[0].blocks[0].sent
    # 1 + P1 + P2 + ..., each P of the SNR so far: the k-th attempt is made where all before it failed
    rates = [float(digital.transport_error(sent.mcs, sent.bits, 5.0 + 10 * math.log10(k))) for k in range(1, harq.MAX_ATTEMPTS + 1)]
    assert len(got[0].blocks) == 1
    assert 1 + sum(rates[:-1]) > 1.05
    assert np.mean([g.blocks[0].attempts for g in got]) == pytest.approx(1 + sum(rates[:-1]), rel=0.02)
    assert np.mean([not g.delivered[0] for g in got]) == pytest.approx(rates[-1], abs=0.005)


def test_parts_go_in_blocks_of_a_slot_at_most() -> None:
    got = run([8000, 500], 12.0, 12.0, 0)
    for part, bits in ((0, 8000), (1, 500)):
        assert sum(b.sent.bits for b in got.blocks if b.part == part) == bits
    seconds = [b.sent.repetition * digital.symbols(b.sent.bits, b.sent.mcs) / symbol_rate_hz(1e6) for b in got.blocks]
    assert max(seconds) <= harq.SLOT_S
    assert got.airtime_s == pytest.approx(sum(s * b.attempts for s, b in zip(seconds, got.blocks, strict=True)))
    assert len(got.blocks) >= 5
    with pytest.raises(ValueError, match="bandwidth_hz must be positive"):
        harq.transmit([1], [0.1], steady(9), lambda t: Forecast(1), 0.0, np.random.default_rng(0))


def test_a_retransmission_waits_for_the_answer_to_its_block() -> None:
    got = run([400], -12.0, 3.0, 0)  # it cannot succeed
    block = got.blocks[0]
    copy_s = digital.symbols(block.sent.bits, block.sent.mcs) / symbol_rate_hz(1e6)
    assert block.attempts == harq.MAX_ATTEMPTS
    assert got.latency_s == pytest.approx(harq.MAX_ATTEMPTS * copy_s + (harq.MAX_ATTEMPTS - 1) * harq.ROUND_TRIP_S)


def test_a_link_that_is_worse_than_believed_costs_attempts_and_says_what_is_lost() -> None:
    fine, poor, hopeless = (run([4000] * 4, 12.0 - x, 12.0, 0) for x in (0.0, 2.5, 30.0))
    assert all(fine.delivered)
    assert np.mean([b.attempts for b in poor.blocks]) > np.mean([b.attempts for b in fine.blocks])
    assert poor.airtime_s > fine.airtime_s
    assert poor.latency_s >= poor.airtime_s
    assert not any(hopeless.delivered)


def test_the_outer_loop_makes_up_for_what_is_believed_wrongly() -> None:
    loop, lost, expected = OuterLoop(), [], []
    for k in range(1500):  # the sender believes 2 dB too much
        got = run([400], 8.0, 10.0, k, loop, 0.3)
        loop = got.outer_loop
        if k > 100:
            lost.append(got.blocks[0].attempts > 1)
            expected.append(got.blocks[0].sent.expected)
    assert loop.offset_db(0.3) == pytest.approx(-2, abs=0.8)
    assert np.mean(lost) == pytest.approx(np.mean(expected), rel=0.3, abs=0.01)


def test_copies_of_a_block_add_up() -> None:
    one = harq._linear_snr(steady(-9.0), 0.0, 1e-3, 1.0, 2)
    assert one == pytest.approx(10**-0.9, rel=1e-3)
    assert harq._linear_snr(steady(-9.0), 0.0, 1e-3, 2.0, 2) == pytest.approx(2 * one, rel=1e-3)
    assert one < harq._linear_snr(steady(-9.0), 0.0, 1e-3, 1.5, 2) <= 1.5 * one * 1.001
    fading_away = lambda t: np.where(t < 1e-3, 3.0, -30.0)  # noqa: E731
    assert harq._linear_snr(fading_away, 0.0, 1e-3, 2.0, 2) == pytest.approx(10**0.3, rel=0.02)


def test_what_must_arrive_does_at_a_run_with_old_knowledge_of_the_channel() -> None:
    link = RadioLink(10.0, fading="rayleigh", speed_m_s=10.0)
    sent = Transmission(Payload(bytes(40), b"", (bytes(100),)), None, (0.003, 0.01))
    rng, loop, retried = np.random.default_rng(0), (), 0
    for _ in range(400):
        try:
            delivery = link.send(sent, rng, loop)
        except NotDeliveredError:
            pytest.fail("lost")
        loop, retried = delivery.outer_loop, retried + (delivery.attempts > 1)
    assert retried <= 0.05 * 400  # of three or four blocks each; with no margin for age a third of the headers


def test_a_connection_goes_on_where_the_last_transmission_left_its_adaptation() -> None:
    link = RadioLink(10.0, fading="rayleigh", speed_m_s=10.0)
    sent = Transmission(Payload(bytes(40), b"", (bytes(900),)), None, (0.003, 0.3))
    connection, rng, again = link.connect(), np.random.default_rng(0), np.random.default_rng(0)
    first = connection.send(sent, rng)
    second = connection.send(sent, rng)
    assert first.outer_loop != second.outer_loop == connection.outer_loop
    assert link.send(sent, again).outer_loop == first.outer_loop
    assert link.send(sent, again, first.outer_loop).outer_loop == second.outer_loop
    assert connection.state() == link.state()
