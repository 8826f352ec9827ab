"""Distillation on a net small enough for a test: it learns, resumes exactly, and its losses vanish at the true map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from megen.diffusion import flow_map, losses
from megen.models.denoiser import Denoiser
from megen.models.embedded import EmbeddedBackbone
from megen.scenes.captions import caption
from megen.scenes.splits import scene
from megen.training import distill
from megen.training.latents import LatentSet
from megen.training.trajectories import Trajectories, compute
from tests.conftest import make_tiny

CPU = torch.device("cpu")
MEAN = torch.tensor([0.3, -0.5, 0.8])[:, None, None]
VARIANCE = 0.4


def exact_velocity(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """The flow map's average velocity where the data are Gaussian: z = m_t + sigma_t * e with e kept along the path."""

    def moments(time: Tensor) -> tuple[Tensor, Tensor]:
        at = time[:, None, None, None]
        return at * MEAN, ((1 - at) ** 2 + at**2 * VARIANCE).sqrt()

    (mean_s, std_s), (mean_t, std_t) = moments(s), moments(t)
    end = mean_t + std_t / std_s * (z - mean_s)
    slope = MEAN + (s * VARIANCE - (1 - s))[:, None, None, None] / std_s**2 * (z - mean_s)
    span = (t - s)[:, None, None, None]
    return torch.where(span > 1e-9, (end - z) / span.clamp(min=1e-9), slope)


def spans(n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    s = losses.sample_times(n, 2.0, generator).double()
    t = losses.sample_spans(s, n // 4, generator).double()
    return torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64), s, t


def test_all_losses_vanish_at_the_true_flow_map() -> None:
    z, s, t = spans()
    assert losses.progressive(exact_velocity, exact_velocity, z, s, t).abs().max() < 1e-9
    coarse, fine = (losses.lagrangian(exact_velocity, exact_velocity, z, s, t, h).square().mean() for h in (0.04, 0.004))
    assert fine < coarse < 1e-3  # what is left is the central difference's
    one = losses.consistency(exact_velocity, exact_velocity, exact_velocity, z, s, 0.02, 0.2).square().mean()
    assert losses.consistency(exact_velocity, exact_velocity, exact_velocity, z, s, 0.002, 0.2).square().mean() < one < 1e-3


def test_no_loss_vanishes_elsewhere() -> None:
    z, s, t = spans()

    def straight(z: Tensor, s: Tensor, t: Tensor) -> Tensor:  # a teacher asked for a long step: right at t = s only
        return exact_velocity(z, s, s)

    assert losses.progressive(straight, straight, z, s, t).square().mean() > 1e-2
    assert losses.lagrangian(straight, exact_velocity, z, s, t, 0.04).square().mean() > 1e-2
    assert losses.consistency(straight, straight, exact_velocity, z, s, 0.02, 0.2).square().mean() > 1e-3


def test_the_midpoint_rule_is_of_second_order() -> None:
    z, _, _ = spans(4)
    *_, exact = flow_map.sample(exact_velocity, z, [0.0, 1.0])
    error = {}
    for name, solver in (("euler", flow_map.sample), ("midpoint", flow_map.sample_midpoint)):
        for n in (16, 32):
            *_, end = solver(lambda z, s, t: exact_velocity(z, s, s), z, flow_map.times(n, 1.0))  # type: ignore[operator]
            error[name, n] = float((end - exact).abs().max())
    assert 1.7 < error["euler", 16] / error["euler", 32] < 2.4
    assert error["midpoint", 16] / error["midpoint", 32] > 3.4


def test_adams_bashforth_is_of_second_order_and_its_cubics_fit_between() -> None:
    z, _, _ = spans(4)
    times = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    exact = [z + t * exact_velocity(z, torch.zeros(4, dtype=torch.float64), t.expand(4)) for t in times]
    error = {}
    for n in (10, 20, 40):
        grid = flow_map.times(n, 2.0)
        states, velocities = zip(*flow_map.adams_bashforth(lambda z, s, t: exact_velocity(z, s, s), z, grid), strict=True)
        known = Trajectories(
            torch.stack(states, 1), torch.stack(velocities, 1), torch.tensor(grid, dtype=torch.float64), torch.zeros(4, 1).long()
        )
        found = [known.at(torch.arange(4), t.expand(4)) for t in times]
        error[n] = max(float((a - b).abs().max()) for (a, _), b in zip(found, exact, strict=True))
        slopes = [exact_velocity(b, t.expand(4), t.expand(4)) for b, t in zip(exact, times, strict=True)]
        assert max(float((v - b).abs().max()) for (_, v), b in zip(found, slopes, strict=True)) < 40 / n**2
    assert error[10] / error[20] > 3.2
    assert error[20] / error[40] > 3.5


def test_the_mean_velocity_of_a_path_is_the_flow_maps() -> None:
    z, s, t = (x[:4] for x in spans(64))
    t = torch.cat([t[:1], 1 - (1 - s[1:]) / 2])
    grid = flow_map.times(64, 2.0)
    states, velocities = zip(*flow_map.adams_bashforth(lambda z, s, t: exact_velocity(z, s, s), z, grid), strict=True)
    known = Trajectories(
        torch.stack(states, 1), torch.stack(velocities, 1), torch.tensor(grid, dtype=torch.float64), torch.zeros(4, 1).long()
    )
    state, mean = known.mean_velocity(torch.arange(4), s, t)
    torch.testing.assert_close(mean, exact_velocity(state, s, t), atol=2e-3, rtol=0)


def test_a_consistency_model_that_is_exact_samples_the_data() -> None:
    z = torch.randn(4000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    *_, end = flow_map.sample_consistency(exact_velocity, z, flow_map.times(4, 2.0), torch.Generator().manual_seed(1))
    torch.testing.assert_close(end.mean(0, keepdim=True)[0], MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(end.var((0, 2, 3)), torch.full((3,), VARIANCE), atol=0.04, rtol=0)


def held(n: int) -> LatentSet:
    values = torch.randn(n, 8, 8, 8, generator=torch.Generator().manual_seed(n)).half()
    return LatentSet(values, tuple(scene(1, i) for i in range(n)))


def run(folder: Path, loss: str, steps: int = 30, stop: int | None = None, elastic: bool = False) -> tuple[Denoiser, dict[str, float]]:
    recipe = distill.DistillRecipe(loss, steps=steps, batch=8, save_every=10, lr=2e-3, elastic=elastic, held=6, paths=64)

    class Killed(Exception):
        pass

    def kill(model: Denoiser, step: int) -> None:
        if stop is not None and step >= stop:
            raise Killed

    if stop is not None:
        with pytest.raises(Killed):
            distill.train(recipe, teacher(), lambda step: held(24), held(6), folder, CPU, on_save=kill)
    return distill.train(recipe, teacher(), lambda step: held(24), held(6), folder, CPU)


def teacher() -> EmbeddedBackbone:
    tiny = make_tiny(5)
    with torch.no_grad():
        tiny.denoiser.outward.weight.mul_(20)  # bends the teacher's paths, so that one straight step is wrong
    return tiny


@pytest.mark.parametrize("loss", [distill.LOSSES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in distill.LOSSES[1:])])
def test_distillation_brings_few_steps_closer_to_the_teacher(loss: str, tmp_path: Path) -> None:
    recipe = distill.DistillRecipe(loss, steps=0, held=6, paths=64)
    _, before = distill.train(recipe, teacher(), lambda step: held(24), held(6), tmp_path / "a", CPU)
    _, after = run(tmp_path / "b", loss)
    assert after["1"] < 0.9 * before["1"]


def test_a_killed_distillation_resumes_to_the_same_weights(tmp_path: Path) -> None:
    (whole, errors), (resumed, again) = run(tmp_path / "a", "progressive", 50), run(tmp_path / "b", "progressive", 50, stop=20)
    assert errors == pytest.approx(again)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_nets_of_reduced_depth_are_drawn_towards_the_full_one(tmp_path: Path) -> None:
    def gap(net: Denoiser) -> float:
        tiny = teacher()
        rng = np.random.default_rng(0)
        context = tiny.condition([caption(scene(1, i), rng) for i in range(6)])
        z, s = torch.randn(6, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 0.9, 6)
        with torch.inference_mode():
            full, shallow = (net(z, s, s, context.text, context.pooled, context.mask, k) for k in (0, 3))
        return float((full - shallow).square().mean() / full.square().mean())

    plain, elastic = run(tmp_path / "a", "progressive")[0], run(tmp_path / "b", "progressive", elastic=True)[0]
    assert gap(elastic) < gap(plain)


def test_paths_are_kept_and_another_teachers_refused(tmp_path: Path) -> None:
    arguments, drawn = (held(24), 40, tmp_path, CPU), {"caption_dropout": 0.1, "seed": 0, "bf16": False}
    first = compute(teacher(), 2.0, *arguments, **drawn)
    assert len(first) == 64
    assert sorted(f.name for f in tmp_path.iterdir()) == ["paths-00000.safetensors", "paths-00001.safetensors"]
    again = compute(teacher(), 2.0, *arguments, **drawn)
    torch.testing.assert_close(first.states, again.states)
    with pytest.raises(ValueError, match="another teacher's paths"):
        compute(teacher(), 3.0, *arguments, **drawn)


def test_an_unknown_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of trajectory"):
        distill.train(replace(distill.DistillRecipe(), loss="mse"), teacher(), lambda step: held(4), held(2), tmp_path, CPU)
