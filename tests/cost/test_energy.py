from __future__ import annotations

import pytest

from megen.cost.energy import ES_W, RADIO_W, UE_DECODE_W, energy_j


def test_energy_is_power_times_time_and_parts_stay_apart() -> None:
    parts = energy_j(es_s=2.0, transmit_s=0.5, rate_bps=1e6, ue_s=0.25)
    assert parts.es == 2 * ES_W
    assert parts.radio == pytest.approx(0.5 * (RADIO_W + 0.0115))
    assert parts.ue == 0.25 * UE_DECODE_W
    assert parts.total == pytest.approx(parts.es + parts.radio + parts.ue)
    assert energy_j(1, 0, None, 0).radio == 0
