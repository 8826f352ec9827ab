from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from megen.link import PerfectLink
from megen.models import embedded
from megen.models.embedded import EmbeddedBackbone
from megen.pipeline import Pipeline
from megen.scenes import drafts
from megen.scenes.latent_judge import COUNT
from megen.types import Decision, InputError

CASTLE = "a castle on the left at noon, clear weather"


def test_the_requests_own_noise_is_the_first_draft_and_the_others_are_drawn_from_it() -> None:
    seeds = drafts.seeds_of(7, 4)
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert seeds[:2] == drafts.seeds_of(7, 2)
    assert drafts.seeds_of(8, 4)[1:] != seeds[1:]


def test_the_draft_that_shows_what_was_asked_most_surely_goes_on() -> None:
    judge, pool = drafts.chooser(), torch.randn(12, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    found = drafts.scores(judge, CASTLE, pool)
    assert drafts.best(CASTLE, pool) == int(found.argmax())
    torch.testing.assert_close(drafts.scores(judge, CASTLE, pool[4:5]), found[4:5], rtol=1e-4, atol=1e-4)
    assert drafts.alone(judge, pool) == [COUNT[k] == COUNT[0] for k in judge(pool)["count"].argmax(1).tolist()]


def test_the_judge_is_of_the_bundled_encoder_and_reads_no_other(tiny: EmbeddedBackbone) -> None:
    bundled = embedded.load("scenes")
    assert drafts.known(bundled)
    drafts.check(bundled, 4)
    drafts.check(tiny, 1)
    for backbone in (tiny, object()):
        assert not drafts.known(backbone)
        with pytest.raises(InputError, match="judge of the bundled world's latents"):
            drafts.check(backbone, 2)
    torch.nn.init.zeros_(bundled.latent_mean)
    assert not drafts.known(bundled)


@pytest.mark.slow
def test_drafts_of_a_request_end_in_the_picture_of_the_chosen_noise() -> None:
    pipe = Pipeline.load("scenes", link=PerfectLink())
    result = pipe("a castle", seed=5, drafts=2, steps=1)
    report = result.report
    assert report.drafts == 2
    assert report.noise_seed in drafts.seeds_of(5, 2)
    again = replace(pipe, complete=None)(report.completed_prompt, seed=report.noise_seed, steps=1)
    np.testing.assert_array_equal(again.image, result.image)
    assert report.latency_s.denoise > 0
    with pytest.raises(InputError, match="a policy does not plan for drafts"):
        replace(pipe, policy=lambda observation: Decision(1))("a castle", drafts=2)
    with pytest.raises(InputError, match=r"drafts must .*16"):
        pipe("a castle", drafts=17)
