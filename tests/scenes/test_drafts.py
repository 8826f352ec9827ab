from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from megen.link import PerfectLink
from megen.pipeline import Pipeline
from megen.scenes import drafts
from megen.scenes.latent_judge import COUNT
from megen.types import InputError

CASTLE = "a castle on the left at noon, clear weather"


def test_the_requests_own_noise_is_the_first_draft_and_the_others_are_drawn_from_it() -> None:
    seeds = drafts.seeds_of(7, 4)
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert seeds[:2] == drafts.seeds_of(7, 2)
    assert drafts.seeds_of(8, 4)[1:] != seeds[1:]


def test_the_draft_that_shows_what_was_asked_most_surely_goes_on() -> None:
    judge = drafts.chooser()
    pool = torch.randn(12, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    by_seed: dict[int, Tensor] = dict(zip(drafts.seeds_of(3, 12), pool, strict=True))

    def draw(texts: list[str], seeds: list[int]) -> Tensor:
        assert texts == [CASTLE] * len(seeds)
        return torch.stack([by_seed[seed] for seed in seeds])

    found = drafts.scores(judge, CASTLE, pool)
    assert drafts.best(draw, CASTLE, 3, 12) == list(by_seed)[int(found.argmax())]
    assert drafts.best(draw, CASTLE, 3, 1) == 3
    torch.testing.assert_close(drafts.scores(judge, CASTLE, pool[4:5]), found[4:5], rtol=1e-4, atol=1e-4)
    assert drafts.alone(judge, pool) == [COUNT[k] == COUNT[0] for k in judge(pool)["count"].argmax(1).tolist()]


@pytest.mark.slow
def test_drafts_of_a_request_end_in_the_picture_of_the_chosen_noise() -> None:
    pipe = Pipeline.load("scenes", link=PerfectLink())
    result = pipe("a castle", seed=5, drafts=2, steps=1)
    report = result.report
    assert report.drafts == 2
    assert report.noise_seed in drafts.seeds_of(5, 2)
    again = replace(pipe, complete=None)(report.completed_prompt, seed=report.noise_seed, steps=1)
    np.testing.assert_array_equal(again.image, result.image)
    with pytest.raises(InputError, match=r"drafts must .*16"):
        pipe("a castle", drafts=17)
