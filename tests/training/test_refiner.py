"""The refiner's training: its paths, that it learns what a mixture cannot show, and that an interruption changes nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from megen.backbone import Condition
from megen.cli.main import main
from megen.diffusion import flow_map
from megen.diffusion.flow_map import Velocity
from megen.errors import InputError
from megen.models import embedded, refiner, weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.refiner import Refiner, RefinerConfig
from megen.models.restorer import RestorerConfig
from megen.scenes.captions import Scene
from megen.scenes.splits import SHARPENING_SEED, scene
from megen.training import latents, loop
from megen.training import refiner as training
from megen.training.backbone import Plan, finish_receiver
from megen.training.batches import normalised
from megen.training.latents import LatentSet
from megen.training.refiner import Paths, RefinerRecipe
from megen.training.restorer import optimisers_of
from tests.conftest import interrupted_at, make_tiny

SMALL = RefinerConfig(channels=8, pooled_width=64, width=16, blocks=1, condition_width=32)
RECIPE = RefinerRecipe(steps=5, batch=2, paths=300, save_every=2)


@pytest.fixture
def data() -> LatentSet:
    latents = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    return LatentSet(latents, tuple(scene(SHARPENING_SEED, i) for i in range(8)))


@pytest.fixture
def tiny_flow_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a tiny flow map in the folder `weights`, and small shards."""
    for module, name, value in ((latents, "SHARD", 16), (training, "SHARD", 16), (training, "CHUNK", 8)):
        monkeypatch.setattr(module, name, value)
    backbone = make_tiny()
    backbone.config = replace(backbone.config, flow_map=True)
    embedded.save(backbone, tmp_path / "weights", {})


@pytest.mark.parametrize("steps", [2, 4, 8, 12])
def test_a_way_begins_where_noise_hides_small_things_and_goes_on_as_the_sampler(steps: int) -> None:
    way, grid = training.way(steps, 2.0), tuple(flow_map.times(steps, 2.0))
    assert way == pytest.approx(grid[-len(way) :])
    assert way[0] == 1 / 3
    assert len(way) == steps // 2 + 1


def test_a_way_never_begins_at_noise_alone() -> None:
    assert training.way(2, 1.0) == pytest.approx((1 / 3, 0.5, 1.0))
    assert training.way(2, 5.0) == pytest.approx((1 / 3, 1.0))


def test_a_single_step_is_the_whole_way() -> None:
    assert training.way(1, 2.0) == tuple(flow_map.times(1, 2.0))


def any_refiner(seed: int) -> Refiner:
    """Of random weights, so that it reads all that it is given."""
    torch.manual_seed(seed)
    net = Refiner(SMALL)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def test_an_earlier_refiner_draws_what_belongs_to_the_end_of_a_single_step(
    tiny: EmbeddedBackbone, data: LatentSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under new noise, after a last step, from the noise of the pair."""
    asked: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def to_half(net: nn.Module, condition: Condition) -> Velocity:
        def velocity(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
            asked.append((z, s, t, condition.pooled))
            return -z / 2 / (t - s)[:, None, None, None]

        return velocity

    start = any_refiner(7)
    monkeypatch.setattr(training, "velocity_of", to_half)
    made = training.paths(tiny, data, training.SHARD, 0, tmp_path, start)
    single = made.source == 0
    assert single.float().mean() == pytest.approx(training.SINGLE, abs=0.08)
    z, s, t, pooled = asked[-1]  # of the last chunk's single steps
    last = torch.nonzero(single)[-len(z) :, 0]
    noise, end = made.noise[last].float(), made.end[last].float()
    assert (2 * end).std() == pytest.approx(1, abs=0.05)  # they began at noise alone
    begin = training.way(training.MENDED, 2.0)[-2]
    assert s.tolist() == pytest.approx([begin] * len(z))
    assert t.tolist() == [1.0] * len(z)
    over = (z.float() - begin * end) / (1 - begin)
    for of, share in ((over, 1.0), (noise, 1.0)):
        assert of.std() == pytest.approx(share, abs=0.03)
    for other in (noise, end):
        assert abs(torch.corrcoef(torch.stack([over.flatten(), other.flatten()]))[0, 1]) < 0.05
    with torch.inference_mode():
        drawn = start.draw(z.float() / 2, noise, s, pooled.float())
    torch.testing.assert_close(made.true[last].float(), drawn, atol=0.05, rtol=0.05)
    for other in (None, any_refiner(8)):
        with pytest.raises(InputError, match="made_from"):
            training.paths(tiny, data, training.SHARD, 0, tmp_path, other)


def test_on_from_one_of_this_flow_map_the_command_teaches_single_steps(
    tmp_path: Path, tiny_flow_map: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one of another flow map it goes on without them; and the same command again ends as before."""
    digest = embedded.load(str(tmp_path / "weights")).flow_digest
    few = ["--scenes", "16", "--paths", "32", "--steps", "4", "--batch", "2", "--save-every", "1"]
    for whose, singles in ((digest, True), ("another", False)):
        start, out = tmp_path / f"start-{whose}", tmp_path / f"out-{whose}"
        refiner.save(any_refiner(7), start, {"flow_map": whose})
        command = ["train", "refiner", "--backbone", str(tmp_path / "weights"), "--from", str(start), "--out", str(out), *few]
        with monkeypatch.context() as patch:
            interrupted_at(patch, 2)
            assert main(command) == 130
        assert main(command) == 0
        made, tensors = refiner.read(out)
        assert made.config.single is singles
        sources = torch.cat([weights.read(file)[0]["source"] for file in (out / "paths").glob("*.safetensors")])
        assert bool((sources == 0).any()) is singles
        assert main(command) == 0
        assert all(torch.equal(tensors[name], again) for name, again in refiner.read(out)[1].items())


def test_paths_begin_at_noise_over_true_latents_and_end_where_the_flow_map_leads(
    tiny: EmbeddedBackbone, data: LatentSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[Tensor, Tensor, Tensor]] = []

    def to_nothing(net: nn.Module, condition: Condition) -> Velocity:
        def velocity(z: Tensor, s: Tensor, t: Tensor) -> Tensor:
            states.append((z, s, t))
            return -z / (1 - s)[:, None, None, None]

        return velocity

    with monkeypatch.context() as patch:
        patch.setattr(training, "velocity_of", to_nothing)
        made = training.paths(tiny, data, training.SHARD, 0, tmp_path / "nothing")
    assert made.end.abs().max() < 1e-2
    before, source, _ = states[-1]  # rows of the longest ways, of the last ones that were made
    last = slice(-training.CHUNK, None)
    left = made.noise[last][made.source[last] == source[0]].float() * (1 - source[0])
    torch.testing.assert_close(left, before.float(), atol=5e-3, rtol=1e-2)
    first, begun, _ = states[0]
    assert begun.tolist() == pytest.approx([1 / 3] * training.CHUNK)
    noise = (first - made.true.float()[: training.CHUNK] / 3) * 1.5
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert made.source.unique().tolist() == pytest.approx(sorted(training.way(n, 2.0)[-2] for n in training.COUNTS))
    made = training.paths(tiny, data, 300, 0, tmp_path)
    assert made.true.shape == made.end.shape == (300, 8, 8, 8)
    assert made.pooled.shape == (300, 64)
    whose = (made.true[:, None] == normalised(data.latents, tiny.latent_mean, tiny.latent_scale, tiny.device).half()).flatten(2).all(2)
    assert whose.sum(1).tolist() == [1] * 300
    stars = [s.stars == "stars" for s in data.sources if isinstance(s, Scene)]
    assert made.starry.tolist() == [stars[i] for i in whose.int().argmax(1).tolist()]
    assert 0 < made.starry.sum() < 300
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    (tmp_path / "paths-00001.safetensors").unlink()
    again = training.paths(tiny, data, 300, 0, tmp_path)
    assert torch.equal(again.end, made.end)
    assert (tmp_path / "paths-00000.safetensors").stat().st_mtime_ns == files["paths-00000.safetensors"]
    with pytest.raises(InputError, match="made_from"):
        training.paths(tiny, data, 300, 1, tmp_path)


def test_half_of_the_rows_are_of_starry_nights() -> None:
    nothing = torch.zeros(100, 8, 2, 2).half()
    starry = torch.arange(100) % 10 == 0
    of = Paths(nothing, nothing, nothing, torch.full((100,), 0.6), torch.zeros(100, 64).half(), starry)
    generator = torch.Generator().manual_seed(0)
    assert starry[of.drawn(1000, generator)].sum() == pytest.approx(550, abs=30)  # of the other half a tenth
    assert (of.drawn(4000, generator).bincount(minlength=100) > 0).all()
    none = replace(of, starry=torch.zeros(100).bool())
    assert none.drawn(16, generator).max() < 100


def test_it_draws_one_of_two_and_not_their_mean() -> None:
    """Where the truth is the end plus or minus one, the mean is the end itself: the refiner must choose."""
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(2, (256, 1, 1, 1), generator=generator).float() * 2 - 1
    end, noise = torch.randn(2, 256, 8, 4, 4, generator=generator)
    of = Paths((end + sign).half(), end.half(), noise.half(), torch.full((256,), 0.6), torch.zeros(256, 64).half(), torch.zeros(256).bool())
    torch.manual_seed(0)
    net = Refiner(SMALL)
    optimisers = optimisers_of(net, 5e-3, bf16=False)
    for step in range(400):
        loop.set_lr(optimisers, loop.lr_factor(step, 400, warmup=20))
        loop.descend(training.loss(net, of, 32, loop.step_generator(0, step)), net, optimisers)
    end, noise = torch.randn(2, 64, 8, 4, 4, generator=generator)
    with torch.inference_mode():
        drawn = net.draw(end, noise, torch.full((64,), 0.6), torch.zeros(64, 64)) - end
    each = drawn.mean((1, 2, 3))
    assert (each.abs() - 1).abs().mean() < 0.2
    assert 0.2 < (each > 0).float().mean() < 0.8


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    tiny: EmbeddedBackbone, data: LatentSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.train(RECIPE, SMALL, tiny, data, tmp_path / "whole")
    calls = interrupted_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        training.train(RECIPE, SMALL, tiny, data, tmp_path / "cut")
    training.train(RECIPE, SMALL, tiny, data, tmp_path / "cut")
    assert next(calls) == 7  # steps 2, 3 and 4 came after the checkpoint
    first, second = (weights.read(tmp_path / name / refiner.FILE)[0] for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(InputError, match="lr"):
        training.train(replace(RECIPE, lr=1e-3), SMALL, tiny, data, tmp_path / "cut")


def test_the_command_trains_one_that_is_used_beside_the_weights(tmp_path: Path, tiny_flow_map: None) -> None:
    """And the same command again goes on where it is used already."""
    place, out = tmp_path / "weights", tmp_path / "out"
    few = ["--scenes", "16", "--paths", "16", "--steps", "2", "--batch", "2", "--width", "8", "--blocks", "1"]
    command = ["train", "refiner", "--backbone", str(place), "--out", str(out), *few]
    assert main(command) == 0
    made = (out / refiner.FILE).read_bytes()
    (place / refiner.FILE).write_bytes(made)
    assert embedded.load(str(place)).spec.refines
    assert main(command) == 0
    first, second = (weights.read(folder / refiner.FILE)[0] for folder in (out, place))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_receiver_is_trained_beside_a_refiner(tmp_path: Path, data: LatentSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--decoder-only` does, which keeps the flow map and what it is drawn on by."""
    backbone = make_tiny()
    backbone.refiner = Refiner(SMALL)
    embedded.save(backbone, tmp_path, {})
    plan = Plan("tiny", tmp_path, pictures=None, made=8, receiver_steps=1, restorer=RestorerConfig(8, 1))
    finish_receiver(tmp_path, data, plan, torch.device("cpu"))
    assert embedded.load(str(tmp_path)).spec.refines


def test_the_command_refuses_what_is_no_flow_map(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "refiner", "--backbone", str(tiny_folder), "--out", str(tmp_path / "x")]) == 2
    assert "is no flow map" in capsys.readouterr().err
    for option, value in (("paths", "0"), ("width", "0"), ("blocks", "-1"), ("evaluations", "0")):
        assert main(["train", "refiner", "--out", str(tmp_path / "x"), f"--{option}", value]) == 2
        assert f"{option} must" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_it_trains_on_from_another_of_the_same_shape(tiny: EmbeddedBackbone, data: LatentSet, tmp_path: Path) -> None:
    torch.manual_seed(7)
    start = Refiner(SMALL)
    for parameter in start.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    few = replace(RECIPE, steps=1, lr=1e-9)
    ours, theirs = (
        refiner.read(training.train(few, SMALL, tiny, data, tmp_path / name, by))[0] for name, by in (("on", start), ("new", None))
    )
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, start.get_parameter(name), atol=2e-3, rtol=2e-3)
        assert (parameter - theirs.get_parameter(name)).abs().mean() > 0.1
    torch.testing.assert_close(ours.scale, theirs.scale)  # of these paths
    with pytest.raises(InputError, match="start is"):  # the folder's began as nothing
        training.train(few, SMALL, tiny, data, tmp_path / "new", start)
    with pytest.raises(InputError, match="give it its own shape"):
        training.train(few, replace(SMALL, width=24), tiny, data, tmp_path / "third", start)
    with pytest.raises(InputError, match="learns single steps from an earlier one of this flow map"):
        training.train(few, replace(SMALL, single=True), tiny, data, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_paths_of_another_version_are_refused(tiny: EmbeddedBackbone, data: LatentSet, tmp_path: Path) -> None:
    training.paths(tiny, data, 256, 0, tmp_path)
    file = tmp_path / "paths-00000.safetensors"
    tensors, about = weights.read(file)
    tensors.pop("starry")
    weights.write_safely(tensors, file, about)
    with pytest.raises(InputError, match="paths of another version of megen: remove it"):
        training.paths(tiny, data, 256, 0, tmp_path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--from", "nowhere"], "nowhere"),
        (["--from", "scenes-weights"], "no weights at .*refiner.safetensors"),
        (["--from", "own", "--width", "64"], "--width is that of --from"),
        (["--from", "other"], "for channels and pooled width .8, 64., scenes has .32, 384."),
        (["--width", "0"], "--width"),
    ],
)
def test_starts_that_cannot_be(
    more: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, config in (("own", RefinerConfig(width=16, blocks=1)), ("other", SMALL)):
        (tmp_path / name).mkdir()
        refiner.save(Refiner(config), tmp_path / name, {})
    (tmp_path / "scenes-weights").mkdir()
    assert main(["train", "refiner", "--out", "out", *more]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
