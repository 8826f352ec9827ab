"""The refiner: closed forms of its path, rows that do not depend on their batch, and its file beside a backbone's weights."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megen.diffusion import denoise, flow_map
from megen.errors import InputError
from megen.models import embedded, refiner, weights
from megen.models.embedded import EmbeddedBackbone
from megen.models.placement import place
from megen.models.refiner import Refiner, RefinerConfig
from tests.conftest import make_tiny

SMALL = RefinerConfig(channels=8, pooled_width=64, width=16, blocks=2, condition_width=32)


def small(seed: int = 0, config: RefinerConfig = SMALL) -> Refiner:
    """Of random weights, the last ones too."""
    torch.manual_seed(seed)
    net = Refiner(config)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    net.scale.uniform_(0.2, 0.6)
    return net.eval()


def refined(seed: int = 0) -> EmbeddedBackbone:
    backbone = make_tiny()
    backbone.refiner = small(seed)
    return backbone


def ends(rows: int = 3, config: RefinerConfig = SMALL, side: int = 8) -> tuple[Tensor, ...]:
    """Ends, noise, times and prompts' vectors of so many rows."""
    generator = torch.Generator().manual_seed(0)
    y, noise = torch.randn(2, rows, config.channels, side, side, generator=generator)
    return y, noise, torch.linspace(0.3, 0.8, rows), torch.randn(rows, config.pooled_width, generator=generator)


@pytest.mark.parametrize("evaluations", [1, 4, 7])
def test_a_net_that_knows_the_residual_draws_it_in_any_number_of_steps(evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, (y, noise, source, pooled) = small(config=replace(SMALL, evaluations=evaluations)), ends()
    residual = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    seen: list[float] = []

    def knows(r: Tensor, y: Tensor, t: Tensor, source: Tensor, pooled: Tensor) -> Tensor:
        torch.testing.assert_close(r, flow_map.interpolate(residual, refiner.NOISE * noise, t))  # the states lie on the straight path
        seen.append(float(t[0]))
        return residual

    monkeypatch.setattr(net, "forward", knows)
    torch.testing.assert_close(net.draw(y, noise, source, pooled), y + net.scale[:, None, None] * residual)
    assert seen == pytest.approx([(k / evaluations) ** refiner.EARLY for k in range(evaluations)])


@pytest.mark.parametrize("single", [False, True])
def test_ends_of_single_steps_stay_as_they_are_where_it_never_saw_any(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, (y, noise, _, pooled) = small(config=replace(SMALL, single=single)), ends(4)
    seen: list[Tensor] = []
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda r, y, t, source, pooled: seen.append(source) or forward(r, y, t, source, pooled))
    with torch.inference_mode():
        drawn = net.draw(y, noise, torch.tensor([2e-16, 0.1, 0.6, 0.9]), pooled)  # a grid's rounding error, and times that are none
        alone = net.draw(y[:1], noise[:1], torch.zeros(1), pooled[:1])
    moved = (drawn - y).abs().mean((1, 2, 3)) > 0.1
    assert moved.tolist() == [single, True, True, True]
    assert torch.equal(alone, y[:1]) != single
    assert torch.equal(drawn[0], y[0]) != single
    assert len(seen) == net.config.evaluations * (1 + single)  # where nothing is drawn, nothing is evaluated
    assert seen[0].tolist() == pytest.approx([0.0, refiner.SEEN[0], 0.6, refiner.SEEN[1]])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("single", [False, True])
def test_a_row_does_not_depend_on_its_batch(precision: torch.dtype, single: bool) -> None:
    """At the size that ships: torch takes other kernels for a lone row of a tiny convolution."""
    net = place(small(config=RefinerConfig(blocks=2, single=single)), "cpu").to(precision)
    y, noise, source, pooled = ends(3, RefinerConfig(), 32)
    source[0] = 0
    with torch.inference_mode():
        together = net.draw(y, noise, source, pooled)
        for i in range(3):
            one = slice(i, i + 1)
            assert torch.equal(net.draw(y[one], noise[one], source[one], pooled[one]), together[one])


def test_the_last_step_alone_is_refined() -> None:
    plain, whole = make_tiny(), refined()
    with torch.inference_mode():
        condition = whole.condition(["a cabin", "snow"])
        z = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(2))
        s, t = torch.tensor([0.3, 0.6]), torch.tensor([0.6, 1.0])
        noise = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(3))
        without, with_it = plain.step(z, s, t, condition), whole.step(z, s, t, condition, noise)
        assert torch.equal(with_it[0], without[0])
        end = flow_map.step(lambda z, s, t: plain.velocity(z, s, t, condition), z, s, t)[1:]
        assert whole.refiner is not None
        drawn = whole.refiner.draw(end, noise[1:], s[1:], condition.pooled[1:])
        torch.testing.assert_close(with_it[1:], drawn)
        assert (drawn - end).abs().mean() > 0.1


def test_it_lies_beside_the_weights_and_counts_for_what_pictures_come_from(tmp_path: Path) -> None:
    embedded.save(make_tiny(), tmp_path, {})
    before = embedded.load(str(tmp_path))
    assert before.refiner is None
    shards = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refiner.save(small(), tmp_path, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != refiner.FILE} == shards
    after = embedded.load(str(tmp_path))
    assert after.digest != before.digest
    assert after.spec.refines
    refiner.save(small(config=replace(SMALL, evaluations=8)), tmp_path, {})
    assert embedded.load(str(tmp_path)).digest not in (after.digest, before.digest)
    refiner.save(small(config=replace(SMALL, single=True)), tmp_path, {})
    assert embedded.load(str(tmp_path)).digest not in (after.digest, before.digest)
    tensors, about = weights.read(refiner.save(small(), tmp_path, {}))
    about["config"].pop("single")  # as files were before it knew single steps
    weights.write_safely(tensors, tmp_path / refiner.FILE, about)
    assert embedded.load(str(tmp_path)).digest == after.digest
    refiner.save(small(), tmp_path, {})
    times = flow_map.times(2, 2.0)
    with torch.inference_mode():
        first, second = (denoise.sample(b, b.condition(["a cabin"]), [1], times) for b in (after, embedded.load(str(tmp_path))))
    torch.testing.assert_close(first, second)
    embedded.save(after, tmp_path / "copy", {})
    assert embedded.load(str(tmp_path / "copy")).digest == after.digest


def test_the_bundled_backbone_has_one() -> None:
    assert embedded.load("scenes").spec.refines


def test_files_that_are_none(tmp_path: Path, unchecked: None) -> None:
    embedded.save(make_tiny(), tmp_path, {})
    weights.write_safely({"a": torch.zeros(1)}, tmp_path / refiner.FILE, {"format": "other"})
    with pytest.raises(weights.WeightsError, match="not written by megen train refiner"):
        embedded.load(str(tmp_path))
    tensors, _ = weights.read(refiner.save(small(), tmp_path, {}))
    for name, value, says in (("evaluations", 4.0, "evaluations must be a whole number"), ("single", 1, "single must be true or false")):
        weights.write_safely(tensors, tmp_path / refiner.FILE, {"format": refiner.FORMAT, "config": {**asdict(SMALL), name: value}})
        with pytest.raises(weights.WeightsError, match=says):
            embedded.load(str(tmp_path))
    weights.write_safely({"a": torch.zeros(1)}, tmp_path / refiner.FILE, {"format": refiner.FORMAT, "config": {"depth": 3}})
    with pytest.raises(weights.WeightsError, match="another version"):
        embedded.load(str(tmp_path))
    refiner.save(Refiner(RefinerConfig(channels=4, pooled_width=64, width=16, blocks=1)), tmp_path, {})
    with pytest.raises(weights.WeightsError, match=r"width \(4, 64\), the backbone has \(8, 64\)"):
        embedded.load(str(tmp_path))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_its_noise_is_the_seeds_whatever_the_number_of_steps_and_the_batch(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, seen = refined(), []
    assert backbone.refiner is not None
    monkeypatch.setattr(backbone.refiner, "draw", lambda end, noise, *others: seen.append(noise) or end)
    first = denoise.start(backbone, backbone.condition(["fog"]), [5], [tuple(flow_map.times(steps, 2.0))])
    late = denoise.start(backbone, backbone.condition(["snow"]), [6], [tuple(flow_map.times(4, 2.0))])
    rows = denoise.join(first, late)
    while not rows.finished[0]:
        rows = denoise.advance(backbone, rows)
    assert torch.equal(seen[-1][:1], denoise.noise_of(backbone.latent_shape, 5, 1))
    assert len(seen[-1]) == 1 + (steps == 4)


def test_a_refiner_of_another_flow_map_is_refused_and_one_of_the_same_keeps_what_its_file_says(tmp_path: Path) -> None:
    embedded.save(make_tiny(), tmp_path, {})
    refiner.save(small(), tmp_path, {"flow_map": embedded.load(str(tmp_path)).flow_digest, "recipe": {"steps": 3}})
    backbone = embedded.load(str(tmp_path))
    embedded.save(backbone, tmp_path / "copy", {"decoder_step": 1})
    assert weights.about(tmp_path / "copy" / refiner.FILE)["recipe"] == {"steps": 3}
    (tmp_path / "copy" / refiner.FILE).replace(tmp_path / "kept")
    embedded.save(make_tiny(1), tmp_path / "copy", {})
    (tmp_path / "kept").replace(tmp_path / "copy" / refiner.FILE)
    with pytest.raises(weights.WeightsError, match="of another flow map: remove it, or train one"):
        embedded.load(str(tmp_path / "copy"))
    embedded.save(make_tiny(1), tmp_path / "copy", {})  # takes the other's away
    assert embedded.load(str(tmp_path / "copy")).refiner is None


@pytest.mark.parametrize("wrong", [{"width": 0}, {"blocks": -1}, {"evaluations": 0}, {"evaluations": 65}, {"width": 1.5}])
def test_shapes_that_cannot_be(wrong: dict[str, float], unchecked: None) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        RefinerConfig(**wrong)  # type: ignore[arg-type]
