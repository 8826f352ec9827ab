"""What is bundled for the controller fits together: grid, profiles, policies, and the figures that docs/ quotes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megen.control import policy
from megen.control.cmdp import CMDP, evaluate
from megen.control.controller import AS_IT_IS
from megen.control.env import Battery
from megen.control.judge import Process, drawn_from, judge
from megen.control.scenarios import reference
from megen.control.scenarios.main import main_cmdp
from megen.control.scenarios.scenario import long_run
from megen.cost import device_profile as profile
from megen.cost import quality_grid as quality
from megen.errors import InputError
from megen.types import Decision

FIGURES = Path(__file__).parents[2] / "experiments" / "control" / "result.json"


@pytest.fixture(scope="module")
def cmdp() -> CMDP:
    return main_cmdp()


def test_the_policies_are_of_the_bundled_cmdp_and_cvpo_is_near_its_optimum(cmdp: CMDP) -> None:
    files = policy.bundled()
    assert {"cvpo", "ppo-lag", "sac-lag"} <= set(files)
    for path in files.values():
        policy.table_of(policy.load(path), cmdp)  # refuses those of another CMDP
    told = json.loads(FIGURES.read_text())
    assert told["process"] == cmdp.digest  # grid and profiles of the benchmark stay as they are, whatever is bundled for plans
    got = evaluate(cmdp, policy.table_of(policy.load(files["cvpo"]), cmdp))
    assert got.reward > 0.98 * told["policies"]["lp"]["reward"]
    assert (got.costs < 1.01 * cmdp.limits).all()


def test_the_long_run_policies_are_of_todays_tables_and_cvpo_keeps_the_limits_of_the_process() -> None:
    """Figures in docs/ and the bundled policies are made again with the grid and the profiles, or not at all."""
    cmdp = main_cmdp(long_run())
    written = json.loads((FIGURES.parents[1] / "long_run" / "result.json").read_text())
    files = policy.bundled("long-run")
    learned = policy.load(files["cvpo"])
    assert written["process"] == cmdp.digest
    assert {policy.load(path).about["process"] for path in files.values()} == {cmdp.digest}
    assert np.array_equal(policy.find("cvpo", AS_IT_IS).table, learned.table)
    assert evaluate(cmdp, policy.table_of(learned, cmdp)).reward > 0.98 * written["optimum"]
    server, phone = (replace(profile.load(name), spread=written["stage_spread"]) for name in profile.LONG_RUN)
    process = Process(long_run(), quality.load(), server, phone)
    verdict = judge(process, drawn_from(learned, process), links=256, requests=600, seed=5)
    assert all(over.mean < 0 for over in verdict.over_limit.values())  # of the process; the tables are on the safe side


def test_the_reference_process_has_policies_of_its_own() -> None:
    bandit = reference.reference_cmdp()
    files = policy.bundled("as-released")
    assert "cvpo" in files
    got = evaluate(bandit, policy.table_of(policy.load(files["cvpo"]), bandit))
    assert (got.costs <= bandit.limits).all()


def test_a_server_of_another_backbone_is_refused() -> None:
    assert profile.load("a100").backbone == "sdxl"
    with pytest.raises(ValueError, match="unlike backbones: scenes, sdxl"):
        main_cmdp(server="a100")


@pytest.mark.parametrize(("name", "prompts"), [("BUNDLED", 114), ("MAIN_V0", 200)])
def test_the_grids_have_enough_prompts_of_every_class(name: str, prompts: int) -> None:
    grid = quality.load(getattr(quality, name))
    assert grid.counts.sum() >= prompts
    assert grid.counts.min() >= prompts // 4
    assert grid.about["class_correlation_held_out"] > 0.3
    assert {"commit", "device", "command"} <= set(grid.about)


def test_what_is_seen_saturates_and_a_coarser_quantiser_is_seen_sooner_than_fewer_steps() -> None:
    grid = quality.load()
    best = grid.reward("seen")[..., -1].mean(0)  # [N, M]
    finest, coarser = (grid.decisions.index(Decision(1, 0.0, bits)) for bits in (5.0, 3.5))
    assert 0 <= best.min() <= best.max() <= 1
    gains = np.diff(best[:, finest])
    assert gains[0] > max(0.01, gains[1])  # from one step to two
    assert gains[-1] < 0.02  # from eight to twelve
    assert best[2, finest] > best[4, coarser]


def test_merging_much_keeps_the_batterys_limit_and_merging_nothing_does_not(cmdp: CMDP) -> None:
    def empty(decision: Decision) -> float:
        battery, total = Battery(cmdp), 0.0
        share = (1 - cmdp.gamma) * cmdp.gamma ** np.arange(battery.horizon) / (1 - cmdp.gamma**battery.horizon)
        for seed in range(8):
            battery.reset(seed=seed)
            action = np.int64(cmdp.decisions.index(decision))
            total += share @ [battery.step(action)[4]["cost"][2] for _ in range(battery.horizon)] / 8
        return float(total)

    limit = Battery(cmdp).limits[2]
    assert empty(Decision(12, 0.75)) < limit < empty(Decision(12, 0.0))


def test_the_grid_was_measured_on_the_bundled_weights() -> None:
    from megen.models import embedded

    weights = embedded.load("scenes").digest
    assert quality.load(quality.BUNDLED).about["weights"] == weights


def test_a_policy_of_the_tables_that_stay_decides_for_todays_weights_and_says_so() -> None:
    from megen.control.controller import Controller

    learned = Controller.load(str(policy.bundled()["cvpo"]), server="cpu", phone="phone")
    today = quality.load().about["weights"]
    learned.check(today)
    assert any("earlier weights" in line for line in learned.assumptions)
    assert not any("earlier weights" in line for line in Controller.load(server="cpu", phone="phone").assumptions)
    with pytest.raises(InputError, match="measured on other weights"):
        learned.check("0123456789abcdef")
