from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megen.models import weights
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import drafts
from megen.scenes.latent_judge import LatentJudge, LatentJudgeConfig
from megen.training import judges
from megen.training.latents import LatentSet
from megen.types import InputError
from tests.conftest import make_tiny

RECIPE = judges.JudgeRecipe(LatentJudgeConfig(channels=8, widths=(4, 4, 4), features=8), steps=1)


def test_a_judge_of_another_recipe_is_not_taken_for_this_one(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    file, judge = tmp_path / "judge.safetensors", LatentJudge(RECIPE.config)
    judges.write(judge, file, RECIPE, tiny)
    nothing = LatentSet(torch.zeros(0, 8, 8, 8), ())
    again = judges.train(RECIPE, tiny, nothing, (nothing, nothing), file)
    torch.testing.assert_close(again.last.weight, judge.last.weight.half().float())
    with pytest.raises(InputError, match="seed is 0 there, 1 here"):
        judges.train(replace(RECIPE, seed=1), tiny, nothing, (nothing, nothing), file)
    weights.write_safely({"x": torch.zeros(1)}, file, {})
    with pytest.raises(weights.WeightsError, match="not a judge of this version"):
        drafts.read(file)


def test_more_latents_are_those_of_the_encoder_at_hand(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    doubled, nights = judges.more_latents(tiny, 2, 64, tmp_path)
    assert all(scene.time == "night" and scene.weather == "clear" for scene in nights.sources)  # type: ignore[union-attr]
    assert all(scene.object != "no object" for scene in doubled.sources)  # type: ignore[union-attr]
    written = (tmp_path / "doubled.safetensors").stat().st_mtime_ns
    again, _ = judges.more_latents(tiny, 2, 64, tmp_path)
    assert (tmp_path / "doubled.safetensors").stat().st_mtime_ns == written
    torch.testing.assert_close(again.latents, doubled.latents)
    other, _ = judges.more_latents(make_tiny(1), 2, 64, tmp_path)
    assert not torch.equal(other.latents, doubled.latents)
    assert len(judges.more_latents(make_tiny(1), 3, 64, tmp_path)[0]) == 3
