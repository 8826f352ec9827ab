"""The main process: a scenario checks itself, and its chains have the moments of their processes."""

from __future__ import annotations

import numpy as np
import pytest

from megen.control.cmdp import stationary_distribution
from megen.control.scenarios.main import exponential_quantiles, gauss_markov, main_cmdp
from megen.control.scenarios.scenario import Scenario


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"late_limit": 0.0}, r"late_limit must lie in \[1e-06, 1\], got 0"),
        ({"late_limit": 1e-300}, r"late_limit must lie in \[1e-06, 1\], got 1e-300"),
        ({"snr_mean_db": 1e300}, r"snr_mean_db must lie in \[-100, 100\]"),
        ({"deadline_s": 1e308}, r"deadline_s must lie in \[1e-06, 1e\+09\]"),
        ({"late_limit": 5.0}, r"late_limit must lie in \[1e-06, 1\], got 5"),
        ({"gamma": 1.5}, r"gamma must lie in \(0, 1\], got 1.5"),
        ({"phase_stay": (1.2, 0.5)}, r"phase_stay must lie in \[0, 1\)"),
        ({"snr_correlation": 1.0}, r"snr_correlation must lie in \(-1, 1\), got 1"),
        ({"deadline_s": 0.0}, r"deadline_s must lie in \[1e-06, 1e\+09\], got 0"),
        ({"mean_gap_s": (0.2, -1.0)}, r"mean_gap_s must lie in \[1e-06, 1e\+09\], got -1"),
        ({"snr_std_db": 0.0}, r"snr_std_db must lie in \[1e-06, 1e\+09\], got 0"),
        ({"energy_limit_j": float("nan")}, r"energy_limit_j must lie in \[1e-06, 1e\+09\], got nan"),
        ({"mean_gap_s": (float("inf"), 1.0)}, r"mean_gap_s must lie in .* got inf"),
        ({"backlog_cells": 1}, r"backlog_cells must lie in \[2, 10000\], got 1"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_as_it_is_made(change: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Scenario(**change)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gaps": 2.5}, r"gaps must lie in \[1, 10000\], got 2.5"),
        ({"mean_gap_s": (0.2,)}, r"mean_gap_s must be a tuple of two, got \(0.2,\)"),
        ({"mean_gap_s": 0.5}, "mean_gap_s must be a tuple of two, got 0.5"),
        ({"phase_stay": (0.9, 0.8, 0.7)}, "phase_stay must be a tuple of two"),
        ({"quantiser_bits": 5.0}, "quantiser_bits must be a tuple, got 5.0"),
        ({"deadline_s": None}, "deadline_s must lie in .* got None"),
        ({"deadline_s": "0.7"}, "deadline_s must lie in .* got '0.7'"),
        ({"budgets": (0.7,)}, "each of budgets must be a BudgetClass, got 0.7"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_scenario_of_other_types_is_refused_as_it_is_made(change: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Scenario(**change)


def test_the_bundled_tables_follow_the_scenario() -> None:
    cmdp = main_cmdp(Scenario(deadline_s=0.9, late_limit=0.1, gaps=4, gamma=0.9))
    assert (cmdp.deadline_s, cmdp.gamma, cmdp.gap_s.shape) == (0.9, 0.9, (2, 4))
    assert cmdp.named(cmdp.limits) == {"late": 0.1, "energy_j": 6.4}
    assert (cmdp.cost_tables["ue_energy_j"] < cmdp.cost_tables["energy_j"]).all()


def test_the_channels_chain_has_the_moments_of_its_process() -> None:
    levels = np.linspace(-30, 30, 121)
    chain = gauss_markov(levels, 5.0, 6.0, 0.8)
    share = stationary_distribution(chain)
    mean = share @ levels
    deviation = np.sqrt(share @ (levels - mean) ** 2)
    assert mean == pytest.approx(5.0, abs=0.05)
    assert deviation == pytest.approx(6.0, abs=0.05)
    correlation = share @ ((levels - mean) * (chain @ (levels - mean))) / deviation**2
    assert correlation == pytest.approx(0.8, abs=0.005)
    for bad in ((levels[::-1], 6.0, 0.8), (levels, 0.0, 0.8), (levels, 6.0, 1.0)):
        with pytest.raises(ValueError, match="Gauss-Markov"):
            gauss_markov(bad[0], 5.0, bad[1], bad[2])


def test_gap_quantiles_keep_the_mean_and_approach_the_variance() -> None:
    for count in (1, 4, 64):
        gaps = exponential_quantiles(1.7, count)
        assert gaps.mean() == pytest.approx(1.7)
        assert (np.diff(gaps) > 0).all()
    assert exponential_quantiles(1.0, 512).var() == pytest.approx(1.0, abs=0.02)
