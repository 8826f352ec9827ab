"""What ships for the controller fits together: grid, profiles, policies, and the figures that docs/ quotes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megen import control_commands
from megen.control import policy, released, shipped
from megen.control.env import Battery
from megen.control.kernel import Kernel, evaluate
from megen.cost import profile, quality
from megen.types import Budget, ChannelState, Decision

FIGURES = Path(__file__).parents[2] / "benchmarks" / "results" / "control.json"


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return shipped.main_kernel()


def test_the_policies_are_of_the_shipped_process_and_cvpo_is_near_its_optimum(kernel: Kernel) -> None:
    files = policy.shipped()
    assert {"cvpo", "ppo-lag", "sac-lag"} <= set(files)
    for path in files.values():
        policy.table_of(policy.load(path), kernel)  # refuses those of another process
    told = json.loads(FIGURES.read_text())
    assert told["process"] == kernel.digest
    got = evaluate(kernel, policy.table_of(policy.load(files["cvpo"]), kernel))
    assert got.reward > 0.98 * told["policies"]["lp"]["reward"]
    assert (got.costs < 1.01 * kernel.limits).all()


def test_the_reference_process_has_policies_of_its_own() -> None:
    bandit = released.released_kernel()
    files = policy.shipped("as-released")
    assert "cvpo" in files
    got = evaluate(bandit, policy.table_of(policy.load(files["cvpo"]), bandit))
    assert (got.costs <= bandit.limits).all()


def test_a_server_of_another_backbone_is_refused() -> None:
    assert profile.load("a100").backbone == "sdxl"
    with pytest.raises(ValueError, match="unlike backbones: scenes, sdxl"):
        shipped.main_kernel(server="a100")


def test_the_grid_has_enough_prompts_of_every_class() -> None:
    grid = quality.load()
    assert grid.counts.sum() >= 200
    assert grid.counts.min() >= 50
    assert grid.about["class_correlation_held_out"] > 0.3
    assert {"commit", "device", "command"} <= set(grid.about)


def test_auto_decides_by_deadline_and_channel(kernel: Kernel) -> None:
    def decide(snr_db: float, deadline_s: float | None) -> set[Decision]:
        asked = ("a lighthouse at sunset", None, None, ChannelState(snr_db, 1e6, 0.0), Budget(deadline_s))
        return {control_commands.decide(*asked, seed, "scenes") for seed in range(12)}

    free, soon = decide(12.0, None), decide(12.0, 0.36)
    assert max(d.steps for d in free) == 12
    assert max(d.steps for d in soon) < 8
    poor = decide(-6.0, 0.7)
    assert max(d.steps for d in poor) < 12 or min(d.merge_ratio for d in poor) > 0  # the airtime leaves less


def test_merging_much_keeps_the_batterys_limit_and_merging_nothing_does_not(kernel: Kernel) -> None:
    def empty(decision: Decision) -> float:
        battery, total = Battery(kernel), 0.0
        share = (1 - kernel.gamma) * kernel.gamma ** np.arange(battery.horizon) / (1 - kernel.gamma**battery.horizon)
        for seed in range(8):
            battery.reset(seed=seed)
            action = np.int64(kernel.decisions.index(decision))
            total += share @ [battery.step(action)[4]["cost"][2] for _ in range(battery.horizon)] / 8
        return float(total)

    limit = Battery(kernel).limits[2]
    assert empty(Decision(12, 0.75)) < limit < empty(Decision(12, 0.0))
