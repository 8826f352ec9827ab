from __future__ import annotations

import itertools

import pytest
import torch

from megen.diffusion import flow_map, losses


def test_times_run_from_noise_to_data() -> None:
    for steps in (1, 2, 7):
        for shift in (1.0, 3.0):
            grid = flow_map.times(steps, shift)
            assert len(grid) == steps + 1
            assert grid[0] == pytest.approx(0)
            assert grid[-1] == pytest.approx(1)
            assert all(a < b for a, b in itertools.pairwise(grid))
    with pytest.raises(ValueError, match="at least 1"):
        flow_map.times(0, 1.0)


def test_the_true_velocity_of_one_picture_is_sampled_exactly_in_any_number_of_steps() -> None:
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)

    def velocity(z: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (x - z) / (1 - s)[:, None, None, None]

    for steps in (1, 3, 10):
        *_, end = flow_map.sample(velocity, noise, flow_map.times(steps, 2.0))
        torch.testing.assert_close(end, x, atol=1e-5, rtol=1e-5)


def test_every_row_has_its_own_times() -> None:
    z = torch.zeros(2, 1, 1, 1)
    out = flow_map.step(lambda z, s, t: torch.ones_like(z), z, torch.tensor([0.0, 0.5]), torch.tensor([0.25, 1.0]))
    assert out.flatten().tolist() == [0.25, 0.5]


def test_flow_matching_is_zero_at_the_true_velocity() -> None:
    x, noise, t = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3), torch.rand(4)
    value = losses.flow_matching(lambda z, s, u: x - noise, x, noise, t)
    torch.testing.assert_close(value, torch.zeros(4))
    torch.testing.assert_close(flow_map.interpolate(x, noise, torch.zeros(4)), noise)
    torch.testing.assert_close(flow_map.interpolate(x, noise, torch.ones(4)), x)


def test_sampled_times_lean_towards_noise_by_the_shift() -> None:
    plain = losses.sample_times(20_000, 1.0, torch.Generator().manual_seed(0))
    moved = losses.sample_times(20_000, 2.0, torch.Generator().manual_seed(0))
    assert plain.median() == pytest.approx(0.5, abs=0.01)
    assert moved.median() == pytest.approx(1 / 3, abs=0.01)
    assert moved.min() >= 1 - losses.MAX_NOISE - 1e-6
