from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megen.diffusion.flow_map import sample
from megen.diffusion.flow_map import times as flow_map_times
from megen.models import embedded
from megen.models.embedded import EmbeddedBackbone
from megen.scenes.captions import Scene
from megen.scenes.latent_judge import LatentJudge, LatentJudgeConfig, targets
from megen.scenes.splits import STARRY_EVERY, scene
from megen.training import adversarial, adversarial_batches, discriminator
from megen.training import judges as training_judges
from megen.training import latents as latent_sets
from megen.training.adversarial import AdversarialRecipe
from megen.training.adversarial_batches import Batch, Memory, batches
from megen.training.autoencoder import AutoencoderRecipe
from megen.training.backbone import Plan, train
from megen.training.judges import JudgeRecipe
from megen.training.latents import LatentSet
from megen.types import InputError
from tests.conftest import make_tiny

CPU = torch.device("cpu")
RECIPE = AdversarialRecipe(steps=2, batch=4, lr=1e-4, alone=1, kept=2, save_every=1, watch_every=2, discriminator_rounds=1)


def flow_map() -> EmbeddedBackbone:
    torch.manual_seed(0)
    tiny = make_tiny()
    backbone = EmbeddedBackbone(replace(tiny.config, grid=(32, 32), flow_map=True, guidance=1.0))
    backbone.load_state_dict(tiny.state_dict())
    return backbone.eval()


def latents() -> LatentSet:
    values = torch.randn(12, 8, 32, 32, generator=torch.Generator().manual_seed(1)).half()
    return LatentSet(values, tuple(scene(1, i) for i in range(12)))


def judges() -> tuple[LatentJudge, LatentJudge]:
    config = LatentJudgeConfig(channels=8, widths=(4, 4, 4), features=8)
    return LatentJudge(config), LatentJudge(config)


@pytest.mark.parametrize(("change", "has"), [({}, {"win_rate", "reward_loss"}), ({"gan_weight": 0.0}, {"reward_loss"})])
def test_it_logs_its_health_changes_the_weights_and_goes_on(change: dict[str, float], has: set[str], tmp_path: Path) -> None:
    start, data, recipe = flow_map(), latents(), replace(RECIPE, **change)  # type: ignore[arg-type]
    before = start.denoiser.outward.weight.clone()
    average = adversarial.train(recipe, start, judges(), lambda step: data, data, tmp_path, CPU)
    assert (average.denoiser.outward.weight != before).any()
    torch.testing.assert_close(start.denoiser.outward.weight, before)  # the start stays as it was
    lines = [json.loads(line) for line in (tmp_path / "health.jsonl").read_text().splitlines()]
    assert has <= lines[1].keys()
    assert ("win_rate" in lines[1]) == ("win_rate" in has)
    look = next(line for line in lines if "look" in line)
    assert {"all_right_short_1", "octaves_4", "diversity_1"} <= look.keys()
    assert (tmp_path / "adversarial-00002.png").is_file()
    again = adversarial.train(recipe, flow_map(), judges(), lambda step: data, data, tmp_path, CPU)
    torch.testing.assert_close(again.denoiser.outward.weight, average.denoiser.outward.weight)
    with pytest.raises(InputError, match="lr is"):
        adversarial.train(replace(recipe, lr=1e-5), flow_map(), judges(), lambda step: data, data, tmp_path, CPU)


def test_a_flow_map_is_sharpened_by_one_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_sets, "SHARD", 4)
    monkeypatch.setattr(latent_sets, "PART", 2)
    monkeypatch.setattr(training_judges, "MORE_SCENES", 1)
    few = JudgeRecipe(LatentJudgeConfig(channels=8, widths=(4, 4, 4), features=8), steps=1, batch=4)
    monkeypatch.setattr(training_judges, "REWARD", few)
    monkeypatch.setattr(training_judges, "CHOOSING", few)
    embedded.save(flow_map(), tmp_path / "start", {})
    plan = Plan(
        "sharp",
        tmp_path / "out",
        scenes=4,
        fresh_scenes_per_step=0,
        autoencoder=AutoencoderRecipe(steps=0),
        receiver_steps=0,
        start=str(tmp_path / "start"),
        adversarial=replace(RECIPE, steps=3),
        workers=2,
    )
    made = embedded.load(str(train(plan, CPU)))
    start = embedded.load(plan.start or "")
    assert (made.denoiser.outward.weight != start.denoiser.outward.weight).any()
    torch.testing.assert_close(made.autoencoder.state_dict(), start.autoencoder.state_dict())
    shown = latent_sets.load(tmp_path / "out" / "latents" / "train", 4).sources
    assert [s.stars for s in shown if isinstance(s, Scene)][::STARRY_EVERY] == ["stars", "stars"]


def test_the_times_are_those_at_which_offered_steps_begin() -> None:
    ways = adversarial.ways(4000, 2.0, torch.Generator().manual_seed(0))
    times = ways[:, -1]
    assert (ways[:, 0] == 0).all()
    assert (ways.diff(dim=1) >= 0).all()
    four = torch.tensor(flow_map_times(4, 2.0)[:4])  # the last of four steps begins where three have led
    assert (ways - four).abs().amax(1).min() == 0
    grids = [{round(t, 5) for t in flow_map_times(count, 2.0)} for count in adversarial.START_TIMES]
    assert all(any({round(t, 5) for t in way} <= grid for grid in grids) for way in ways[:200].tolist())
    assert 0.3 < float((times == 0).float().mean()) < 0.7
    assert 0.8 < float(times.max()) < 0.87
    assert len(times.unique()) > 15


def test_the_discriminator_learns_to_tell_made_from_true_and_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discriminator, "DETAIL", 6)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    critic = discriminator.Discriminator(judges()[0])
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    wanted = discriminator.named(["a castle at night", "a cabin at noon"] * 8)
    true, made = torch.randn(16, 8, 32, 32), torch.randn(16, 8, 32, 32) * 0.5
    first, wins = discriminator.discriminator_loss(critic, true, made, wanted, 1.0, generator)
    for _ in range(40):
        value, wins = discriminator.discriminator_loss(critic, true, made, wanted, 1.0, generator)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert float(value.detach()) < float(first.detach())
    assert wins > 0.7


def test_what_a_prompt_leaves_open_is_not_judged_but_weather_is_clear() -> None:
    wanted = targets(["a castle", "rain, a lake"])
    assert wanted["weather"].tolist() == [0, 1]
    assert wanted["time"].tolist() == [-1, -1]
    assert wanted["count"].tolist() == [0, 0]


def test_a_batch_is_decided_by_its_step_alone() -> None:
    start, data = flow_map(), latents()
    drawn = list(batches(start, lambda step: data, 4, range(-1, 3), CPU, alone=1, seed=5))
    resumed = list(batches(start, lambda step: data, 4, range(1, 3), CPU, alone=1, seed=5))
    for a, b in zip(drawn[2:], resumed, strict=True):
        torch.testing.assert_close((a.true, a.tokens, a.named, a.noise, a.targets), (b.true, b.tokens, b.named, b.noise, b.targets))
    assert not torch.equal(drawn[0].noise, drawn[1].noise)


def test_what_draws_toward_the_start_leaves_out_starry_nights() -> None:
    start, data = flow_map(), latents()
    student = adversarial.Student(flow_map())
    torch.nn.init.ones_(student.denoiser.outward.bias)
    (batch,) = batches(start, lambda step: data, 4, range(1), CPU, alone=0, seed=5)
    condition = adversarial.encoded(student.text, batch.tokens)
    column, distances = discriminator.SLOTS["stars", "stars"], []
    for named in (0.0, 1.0):
        batch.named[:, column] = named
        distances.append(float(adversarial._distance(RECIPE, student, start, condition, batch).detach()))
    assert distances[0] > 0
    assert distances[1] == 0


def test_a_state_is_where_the_sampler_s_own_steps_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    start, data = flow_map(), latents()
    student = adversarial.Student(start).eval()
    (batch,) = batches(start, lambda step: data, 4, range(1), CPU, alone=0, seed=5)
    times = flow_map_times(4, start.config.time_shift)
    monkeypatch.setattr(adversarial, "ways", lambda n, shift, generator: torch.tensor([times[:4]] * n))
    monkeypatch.setattr(adversarial, "RENOISED", 0.0)
    condition = adversarial.encoded(student.text, batch.tokens)
    made, _ = adversarial._made(student, start, condition, batch, grad=False)
    with torch.no_grad():
        *_, last = sample(adversarial.velocity_of(student.denoiser, condition), batch.noise, times)
    torch.testing.assert_close(made.detach(), last)


def test_each_step_draws_from_its_own_set() -> None:
    start, data = flow_map(), latents()
    few = LatentSet(data.latents[:1], data.sources[:1])
    first, second = batches(start, lambda step: few if step == 0 else data, 4, range(2), CPU, alone=0, seed=0)
    assert len(first.true.flatten(1).unique(dim=0)) == 1
    assert len(second.true.flatten(1).unique(dim=0)) > 1


@pytest.mark.slow
def test_processes_write_what_a_thread_writes() -> None:
    start, data = flow_map(), latents()
    written = []
    for processes in (False, True):
        with adversarial_batches._writers(start.text, processes=processes) as (pool, _):
            written.append(pool.submit(adversarial_batches._write, list(data.sources), np.random.default_rng(3)).result())
    (tokens, named, wanted), (tokens2, named2, wanted2) = written
    np.testing.assert_array_equal(tokens, tokens2)
    np.testing.assert_array_equal(named, named2)
    for key, value in wanted.items():
        np.testing.assert_array_equal(value, wanted2[key])


def test_the_memory_holds_the_last_batches() -> None:
    memory, generator = Memory(2), torch.Generator().manual_seed(0)
    for k in range(3):
        value = torch.full((4, 8, 2, 2), float(k))
        memory.add(Batch(value, torch.zeros(4, 1, dtype=torch.long), value[:, 0, 0], {}, value, generator, value + 10))
        true, made, named = memory.draw(64, generator)
        assert set(true.unique().tolist()) == set(range(max(0, k - 1), k + 1))
        torch.testing.assert_close(made, true + 10)
        torch.testing.assert_close(named, true[:, 0, 0])
