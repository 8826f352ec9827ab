from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megen.control.cmdp import CMDP
from megen.control.scenarios.main import exponential_quantiles, gauss_markov
from megen.cost.quality_grid import QualityGrid
from megen.types import Decision


def make_cmdp(gamma: float = 0.9) -> CMDP:
    """Small, and with everything in it: three channels, two prompt classes, bursts, four decisions."""
    decisions = (Decision(1, 0.0), Decision(1, 0.5), Decision(4, 0.0), Decision(4, 0.5))
    snr_db = np.array([-3.0, 6.0, 15.0])
    work = np.array([0.1, 0.1, 0.4, 0.4])
    bits = np.array([1.0, 0.5, 1.0, 0.5])
    air = 0.4 / (1 + np.arange(3.0))[:, None, None, None] * bits[None, None, :, None] * np.array([0.8, 1.3])
    air = np.broadcast_to(air, (3, 2, 4, 2))
    quality = np.array([2.0, 1.6, 4.0, 3.1])
    return CMDP(
        decisions=decisions,
        snr_db=snr_db,
        backlog_s=np.linspace(0, 1.5, 6),
        channel=gauss_markov(snr_db, 6.0, 8.0, 0.7),
        prompts=np.array([0.6, 0.4]),
        phases=np.array([[0.8, 0.2], [0.4, 0.6]]),
        reward=np.broadcast_to(np.stack([quality, 0.8 * quality]), (3, 2, 4)),
        service_s=work[:, None] + air,
        cost_tables={"energy_j": 30 * work[:, None] + 3 * air + 1.0, "ue_energy_j": 3 * air + 1.0},
        decode_s=0.1,
        gap_s=np.stack([exponential_quantiles(m, 3) for m in (0.4, 1.2)]),
        deadline_s=0.9,
        cost_names=("late", "energy_j"),
        limits=np.array([0.15, 9.0]),
        gamma=gamma,
    )


def make_three_cost_cmdp() -> CMDP:
    """The small one with the radio's seconds as a third cost; all three limits bind."""
    small = make_cmdp()
    work = np.array([0.1, 0.1, 0.4, 0.4])
    tables = {**small.cost_tables, "air_s": small.service_s - work[:, None]}
    return replace(small, cost_tables=tables, cost_names=("late", "energy_j", "air_s"), limits=np.array([0.15, 9.0, 0.16]))


def state_transitions(cmdp: CMDP, policy: np.ndarray) -> np.ndarray:
    """The state transition matrix [S, S'] of a policy [S, A]."""
    parts = (cmdp.policy_transition(policy), cmdp.channel, cmdp.prompts, cmdp.phases)
    full = np.einsum("cpfwv,cd,q,fg->cpfwdqgv", *parts, optimize=True)
    return np.ascontiguousarray(full).reshape(cmdp.states, cmdp.states)


def make_grid() -> QualityGrid:
    """Two prompt classes, 1, 4 and 12 steps, two ratios, three SNRs; better with steps, worse with merging."""
    steps, ratios, snr_db = np.array([1, 4, 12]), np.array([0.0, 0.5]), np.array([-4.0, 6.0, 16.0])
    log_mse = -3 - 0.8 * np.log2(steps)[None, :, None, None] + np.array([0.0, 0.7])[None, None, :, None] + np.array([0.4, 0.1, 0.0])
    log_mse = log_mse + np.array([0.0, 0.5])[:, None, None, None]
    flat = np.ones((2, 3, 2))
    air = np.array([0.3, 0.1, 0.03])[None, None, :, None] * np.array([1.0, 0.6])[None, :, None, None] * np.array([0.8, 1.2])
    return QualityGrid(
        steps=steps,
        merge_ratios=ratios,
        quantiser_bits=np.full(2, 5.0),
        snr_db=snr_db,
        log_mse=log_mse,
        log_mse_error=0.1 * np.ones_like(log_mse),
        fidelity=0.9 * flat,
        fidelity_error=0.01 * flat,
        payload_bits=5e4 * flat,
        airtime_s=np.broadcast_to(air, (2, 2, 3, 2)).copy(),
        airtime_draws_s=np.broadcast_to(np.tile(air, 20), (2, 2, 2, 3, 40)).copy(),
        delivered=np.ones((2, 3)),
        counts=np.array([5, 3]),
        word_weights=np.array([1.0]),
        class_edges=np.array([0.5]),
        words=("snow",),
        about={},
    )


@pytest.fixture(scope="session")
def grid() -> QualityGrid:
    return make_grid()


@pytest.fixture(scope="session")
def small() -> CMDP:
    return make_cmdp()


@pytest.fixture(scope="session")
def three() -> CMDP:
    return make_three_cost_cmdp()


@pytest.fixture
def impossible(small: CMDP) -> CMDP:
    return replace(small, limits=np.array([0.15, 3.0]))
