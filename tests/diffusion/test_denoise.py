from __future__ import annotations

import pytest
import torch

from megen.backbone import Condition
from megen.diffusion import denoise
from megen.models.embedded import EmbeddedBackbone
from tests.conftest import make_tiny

PROMPTS = ["a cabin at night", "rain, a lake and pine trees", "", "a castle on the left at dawn, fog, rolling hills, clouds, the sea"]
STEPS = [4, 1, 2, 4]


def alone(backbone: EmbeddedBackbone, i: int, guidance: float | None = None) -> torch.Tensor:
    with torch.inference_mode():
        condition = backbone.condition(PROMPTS[i : i + 1], guidance)
    return denoise.sample(backbone, condition, [i], backbone.spec.times[STEPS[i]])


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_rows_that_join_and_leave_are_what_they_are_alone_to_the_bit(threads: int, precision: torch.dtype) -> None:
    backbone = make_tiny()
    backbone.denoiser.to(precision)
    with torch.inference_mode():
        rows = denoise.start(backbone, backbone.condition(PROMPTS[:2]), [0, 1], [backbone.spec.times[n] for n in STEPS[:2]])
    names, results = [0, 1], {}
    joined = False
    while len(rows):
        rows = denoise.advance(backbone, rows)
        for k, done in enumerate(rows.finished):
            if done:
                results[names[k]] = rows.z[k : k + 1]
        staying = [k for k, done in enumerate(rows.finished) if not done]
        rows, names = denoise.keep(rows, staying), [names[k] for k in staying]
        if not joined:
            with torch.inference_mode():
                late = denoise.start(backbone, backbone.condition(PROMPTS[2:]), [2, 3], [backbone.spec.times[n] for n in STEPS[2:]])
            rows, names, joined = denoise.join(rows, late), [*names, 2, 3], True
    assert sorted(results) == [0, 1, 2, 3]
    for i, z in results.items():
        assert torch.equal(z, alone(backbone, i)), i


def test_every_row_has_its_own_guidance(tiny: EmbeddedBackbone) -> None:
    with torch.inference_mode():
        parts = [tiny.condition(PROMPTS[:1], g) for g in (1.0, 3.0)]
        both = Condition.cat(parts)
    together = denoise.sample(tiny, both, [0, 0], tiny.spec.times[2])
    for k, part in enumerate(parts):
        torch.testing.assert_close(together[k : k + 1], denoise.sample(tiny, part, [0], tiny.spec.times[2]), atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_conditions_of_unlike_lengths_join(tiny: EmbeddedBackbone) -> None:
    with torch.inference_mode():
        condition = tiny.condition(PROMPTS)
    short = Condition(condition.text[:1, :4], condition.pooled[:1], condition.mask[:1, :4], condition.guidance[:1])
    joined = Condition.cat([short, condition.rows([1])])
    assert joined.text.shape == (2, condition.text.shape[1], condition.text.shape[2])
    assert joined.mask[0].sum() == 4
    torch.testing.assert_close(joined.rows([1]).text, condition.text[1:2])


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_bundled_backbone_batched_is_alone_to_the_bit(threads: int, precision: torch.dtype) -> None:
    from megen.models import embedded

    backbone = embedded.load("scenes")
    backbone.denoiser.to(precision)
    with torch.inference_mode():
        rows = denoise.start(backbone, backbone.condition(PROMPTS), [0, 1, 2, 3], [backbone.spec.times[n] for n in STEPS])
    rows = denoise.advance(backbone, rows)
    for i, prompt in enumerate(PROMPTS):
        row = denoise.start(backbone, backbone.condition([prompt]), [i], [backbone.spec.times[STEPS[i]]])
        assert torch.equal(rows.z[i : i + 1], denoise.advance(backbone, row).z), i
