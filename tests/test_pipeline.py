from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megen import codec, export, front, merging
from megen.backbone import BackboneSpec
from megen.codec import CodecError, FeatureCodec, prior
from megen.codec.header import decode_header
from megen.errors import InputError, RunError
from megen.halves import LocalReceiver, Transmitter, tokens_of
from megen.link import NotDeliveredError, PerfectLink, RadioLink, Trace
from megen.models.embedded import EmbeddedBackbone
from megen.models.fingerprint import fingerprint
from megen.pipeline import Pipeline
from megen.scenes.completion import Completion
from megen.types import Budget, ChannelState, Decision, Delivery, Features, Observation, Payload, Received, Transmission
from megen.ue import Receiver, ReceiverError
from tests.conftest import make_tiny

PLAIN = prior.plain(8)
PROMPT = "a cabin at night"


def transmitter_of(backbone: EmbeddedBackbone) -> Transmitter:
    return Transmitter(backbone, FeatureCodec(PLAIN, fingerprint(backbone, PLAIN.digest)))


@pytest.fixture(scope="module")
def graph(tiny: EmbeddedBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "receiver.onnx"
    export.export_receiver(tiny, tiny, PLAIN, path)
    return path


@pytest.fixture(scope="module")
def es(tiny: EmbeddedBackbone) -> Transmitter:
    return transmitter_of(tiny)


@pytest.fixture(scope="module")
def ue(graph: Path) -> Receiver:
    return Receiver.load(graph)


def latent_of(es: Transmitter, seed: int = 3) -> torch.Tensor:
    return es.denoise([PROMPT], [seed], 2)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75])
def test_the_graph_equals_the_torch_receiver_within_one_level(es: Transmitter, ue: Receiver, tiny: EmbeddedBackbone, ratio: float) -> None:
    merged = merging.merged(tokens_of(latent_of(es)), (8, 8), ratio)
    features = Features(merged.rows, merged.merge_map, np.random.default_rng(0).random((64, 4)).astype(np.float32))
    ours = ue.image_of(features)
    with torch.inference_mode():
        inputs = (torch.from_numpy(x) for x in (features.rows, features.merge_map, features.degradation))
        theirs = export.TorchReceiver(tiny, tiny.latent_shape)(*inputs)[0].numpy()
    assert ours.shape == (256, 256, 3)
    assert ours.std() > 1
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_a_graph_beside_its_weights_refers_to_them_and_shows_the_same(es: Transmitter, tiny: EmbeddedBackbone, tiny_folder: Path) -> None:
    from megen.models import embedded

    halves = embedded.load(str(tiny_folder))  # whose weights are exact in half precision
    receiver = export.receiver_of(halves, tiny_folder)
    inside = tiny_folder / "inside"
    export.export_receiver(halves, halves, PLAIN, inside / "receiver.onnx")
    features = Features.clean(tokens_of(latent_of(es)))
    np.testing.assert_array_equal(receiver.image_of(features), Receiver.load(inside / "receiver.onnx").image_of(features))
    assert (tiny_folder / "receiver.onnx").stat().st_size < (inside / "receiver.onnx").stat().st_size - 20_000


def test_where_the_weights_cannot_be_written_beside_the_cache_is_used(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import shutil

    from megen.models import embedded

    folder = tmp_path / "weights"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("receiver.onnx", "inside"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export.receiver_of(embedded.load(str(folder)), folder)
    assert not (folder / "receiver.onnx").exists()
    (written,) = (tmp_path / "cache").rglob("receiver.onnx")
    before = written.stat().st_mtime_ns
    export.receiver_of(embedded.load(str(folder)), folder)
    assert written.stat().st_mtime_ns == before  # the second run finds it


@pytest.mark.parametrize("analog", [False, True])
def test_a_seed_gives_the_same_image_and_another_another(es: Transmitter, ue: Receiver, analog: bool) -> None:
    pipe = Pipeline(es, ue, RadioLink(10.0, fading="rayleigh"), analog=analog)
    first, again, other = (pipe(PROMPT, seed=seed, steps=2, merge_ratio=0.5).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_payload_bits_are_what_the_receiver_was_given(es: Transmitter, ue: Receiver) -> None:
    result = Pipeline(es, ue, PerfectLink())(PROMPT, steps=2, merge_ratio=0.5)
    payload = result.delivery.received.payload
    assert result.report.payload_bits.total == 8 * sum(map(len, (payload.header, payload.merge_map, *payload.features)))
    np.testing.assert_array_equal(ue.decode(Received(payload)), result.image)
    np.testing.assert_array_equal(ue.decode(codec.unpack(codec.pack(result.delivery.received))), result.image)
    with pytest.raises(CodecError):
        ue.decode(Received(Payload(payload.header, payload.merge_map[:-1], payload.features)))


@pytest.mark.parametrize("order", ["band", "stage", "layer"])
def test_parts_cross_in_the_order_that_is_asked_for(es: Transmitter, ue: Receiver, order: str) -> None:
    result = Pipeline(es, ue, PerfectLink(), order=order)(PROMPT, steps=1)
    assert result.report.order == order
    assert decode_header(result.delivery.received.payload.header).order == order
    with pytest.raises(InputError, match="one of band, stage, layer, got 'row'"):
        Pipeline(es, ue, order="row")


def test_a_small_budget_sends_stages_and_the_report_says_so(es: Transmitter, ue: Receiver) -> None:
    least = Pipeline(es, ue, PerfectLink())(PROMPT, steps=1, quantiser_bits=0.25).report.payload_bits.total
    report = Pipeline(es, ue, PerfectLink(), order="layer")(PROMPT, steps=1, bits_budget=least - 8).report
    assert report.order == "stage"
    assert report.payload_bits.total < least
    assert Pipeline(es, ue, PerfectLink(), analog=True)(PROMPT, steps=1).report.order is None


def test_layers_are_refused_before_any_work(es: Transmitter, ue: Receiver) -> None:
    def never(done: int) -> None:
        pytest.fail("a step was taken")

    with pytest.raises(InputError, match=r"at least 2.25 bits, got 2$"):
        Pipeline(es, ue, PerfectLink(), order="layer")(PROMPT, steps=1, quantiser_bits=2.0, on_step=never)
    planned = Pipeline(es, ue, PerfectLink(), lambda observation: Decision(1, 0.0, 5.0), order="layer")
    with pytest.raises(InputError, match="a policy does not plan for layers"):
        planned(PROMPT, on_step=never)


def test_analog_features_have_no_order_of_parts(es: Transmitter, ue: Receiver) -> None:
    with pytest.raises(InputError, match="the order of parts is of bits"):
        Pipeline(es, ue, analog=True, order="layer")
    with pytest.raises(InputError, match="leave order='stage' out"):
        es.encode(latent_of(es), analog=True, order="stage")


def test_what_is_not_for_this_receiver_is_refused(es: Transmitter, ue: Receiver) -> None:
    other = transmitter_of(make_tiny(1))
    with pytest.raises(CodecError, match="this receiver decodes"):
        ue.decode(Received(other.encode(latent_of(es), 0.5).payload))
    analog = es.encode(latent_of(es), 0.5, analog=True).payload
    with pytest.raises(CodecError, match="an analog payload needs 128 symbols, got 3"):
        ue.decode(Received(analog, np.zeros(3, np.complex128), np.ones(3)))


def test_broken_weights_are_a_failed_run() -> None:
    broken = make_tiny()
    with torch.no_grad():
        broken.denoiser.outward.bias.fill_(float("nan"))
    with pytest.raises(RunError, match="weights are broken"):
        latent_of(transmitter_of(broken))


def test_exporting_leaves_the_backbone_as_it_is(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    export.export_receiver(tiny, tiny, PLAIN, tmp_path / "r.onnx")
    assert all(torch.equal(v, tiny.state_dict()[k]) for k, v in before.items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec.safetensors", "r.onnx"]


def test_a_better_channel_is_a_better_image(es: Transmitter, ue: Receiver) -> None:
    latent = latent_of(es)
    clean = ue.image_of(Features.clean(tokens_of(latent))).astype(float)
    errors = []
    for snr_db in (-5.0, 5.0, 15.0, 25.0):
        sent = es.encode(latent, analog=True)
        delivery = RadioLink(snr_db).send(sent, np.random.default_rng(0))
        errors.append(np.square(ue.decode(delivery.received) - clean).mean())
        assert sent.symbols is not None
        assert len(sent.symbols) == 8 * 8 * 8 // 2
        assert sent.payload.features == ()
        assert delivery.latency_s > len(sent.symbols) / 1e6
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_decisions_are_checked(es: Transmitter, ue: Receiver) -> None:
    pipe = Pipeline(es, ue)
    with pytest.raises(InputError, match="steps must be one of 1, 2, 4, got 3"):
        pipe(PROMPT, steps=3)
    with pytest.raises(InputError, match="merge_ratio must lie in"):
        pipe(PROMPT, steps=2, merge_ratio=0.8)
    assert pipe.decide(PROMPT) == Decision(4, 0.0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"snr_db": float("nan")}, "snr_db must lie in"),
        ({"snr_db": "3"}, "snr_db must lie in"),
        ({"snr_db": None}, "snr_db must lie in"),
        ({"bandwidth_hz": "1e6"}, "bandwidth_hz must lie in"),
        ({"speed_m_s": float("inf")}, r"speed_m_s must lie in \[0, 1000\], got inf"),
        ({"carrier_hz": float("inf")}, "carrier_hz must lie in"),
        ({"carrier_hz": 3.5}, "3.5 GHz are 3.5e9"),
        ({"fading": "smoke"}, "fading must be awgn, rayleigh, rician"),
        ({"bandwidth_hz": 20.0}, "20 MHz are 2e7"),
        ({"bandwidth_hz": 1e308}, "bandwidth_hz must lie in"),
        ({"speed_m_s": -1.0}, "speed_m_s must lie in"),
        ({"csi_delay_s": -1.0}, "csi_delay_s must lie in"),
    ],
)
def test_a_link_checks_itself(options: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        RadioLink(**options)  # type: ignore[arg-type]


def test_a_policy_decides_what_the_caller_leaves_open(es: Transmitter, ue: Receiver) -> None:
    seen: list[Observation] = []

    def policy(observation: Observation) -> Decision:
        seen.append(observation)
        return Decision(1, 0.5)

    pipe = Pipeline(es, ue, RadioLink(7.0), policy)
    result = pipe(PROMPT, budget=Budget(deadline_s=0.5))
    assert result.report.decision == Decision(1, 0.5)
    assert result.report.decided_by == "policy"
    assert seen[0].channel.snr_db == 7.0
    assert seen[0].budget.deadline_s == 0.5
    assert seen[0].prompt == PROMPT
    assert pipe.decide(PROMPT, steps=4) == Decision(4, 0.5)
    whole = pipe(PROMPT, steps=4, merge_ratio=0.0)
    assert len(seen) == 2  # a whole decision asks nobody
    assert whole.report.decided_by == "given"


def test_the_policys_quantiser_is_used_unless_another_is_given(es: Transmitter, ue: Receiver) -> None:
    pipe = Pipeline(es, ue, PerfectLink(), lambda observation: Decision(1, 0.0, 2.5))
    coarse, fine = pipe(PROMPT), pipe(PROMPT, quantiser_bits=5.0)
    assert (coarse.report.quantiser_bits, coarse.report.decision.quantiser_bits) == (2.5, 2.5)
    assert coarse.report.payload_bits.total < fine.report.payload_bits.total
    assert pipe(PROMPT, steps=1, merge_ratio=0.0).report.decision == Decision(1)  # a whole decision asks nobody


def test_what_a_prompt_leaves_open_is_drawn_and_reported(es: Transmitter, ue: Receiver) -> None:
    full = "a cabin on the left, clear weather"
    asked: list[Observation] = []

    def policy(observation: Observation) -> Decision:
        asked.append(observation)
        return Decision(1)

    def complete(prompt: str, seed: int) -> Completion:
        return Completion(full, ("on the left", f"seed {seed}"))

    pipe = Pipeline(es, ue, PerfectLink(), policy, complete=complete)
    result, typed = pipe("a cabin", seed=3), Pipeline(es, ue, PerfectLink(), policy)(full, seed=3)
    assert (result.report.prompt, result.report.completed_prompt) == ("a cabin", full)
    assert result.report.added == ("on the left", "seed 3")
    assert typed.report.added == ()
    np.testing.assert_array_equal(result.image, typed.image)
    assert [o.prompt for o in asked] == [full, full]
    np.testing.assert_array_equal(pipe.reference("a cabin", seed=3, steps=1), Pipeline(es, ue).reference(full, seed=3, steps=1))
    with pytest.raises(InputError, match="seed must lie in"):
        pipe.completed("a cabin", -1)


def test_drafts_are_of_a_world_that_the_judge_knows(es: Transmitter, ue: Receiver) -> None:
    pipe = Pipeline(es, ue, PerfectLink())
    report = pipe(PROMPT, seed=4, drafts=1).report
    assert (report.drafts, report.noise_seed) == (1, 4)
    with pytest.raises(InputError, match="drafts are chosen by a judge of the bundled world's latents"):
        pipe(PROMPT, drafts=2)
    with pytest.raises(InputError, match="drafts must"):
        pipe(PROMPT, drafts=0)


def test_a_policy_observes_the_link_as_it_begins(es: Transmitter, ue: Receiver) -> None:
    seen: list[ChannelState] = []

    def policy(observation: Observation) -> Decision:
        seen.append(observation.channel)
        return Decision(1)

    trace = RadioLink(trace=Trace(np.array([0.0, 1.0]), np.array([-5.0, 20.0])), bandwidth_hz=2e6)
    for link in (trace, RadioLink(7.0), PerfectLink(), Erasures()):
        Pipeline(es, ue, link, policy).decide(PROMPT)
    assert seen == [ChannelState(-5.0, 2e6), ChannelState(7.0, 1e6), ChannelState(None), ChannelState(None)]


def test_the_queue_is_part_of_the_reported_latency(es: Transmitter, ue: Receiver) -> None:
    latency = Pipeline(es, ue, PerfectLink())(PROMPT, steps=1, backlog_s=2.5).report.latency_s
    assert latency.queue == 2.5
    assert latency.total > 2.5
    assert latency.es < latency.total - 2.5


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("prompt", "options", "why"),
    [
        (PROMPT, {"seed": -1}, r"seed must lie in \[0, 9.22337e\+18\], got -1"),
        (PROMPT, {"seed": 2**64}, "seed must lie in"),
        (PROMPT, {"seed": 1.5}, "seed must lie in"),
        (PROMPT, {"seed": "1"}, "seed must lie in"),
        (PROMPT, {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (PROMPT, {"steps": "4"}, "steps must be a whole number"),
        (PROMPT, {"merge_ratio": "0.5"}, "merge_ratio must lie in"),
        (PROMPT, {"quantiser_bits": float("nan")}, "quantiser_bits must lie in"),
        (PROMPT, {"bits_budget": float("nan")}, "bits_budget must be a whole number"),
        (PROMPT, {"backlog_s": float("nan")}, "backlog_s must be a number of at least 0"),
        (PROMPT, {"budget": 0.7}, "budget must be a Budget, got 0.7"),
        ("", {}, "the prompt is empty or holds no words"),
        ("123 !!", {}, "the prompt is empty or holds no words"),
        (None, {}, "a prompt must be a text, got None"),
        (["fog"], {}, "a prompt must be a text"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_any_work(
    es: Transmitter, ue: Receiver, prompt: str, options: dict[str, object], why: str
) -> None:
    def no_step(done: int) -> None:
        raise AssertionError("it has begun")

    pipe = Pipeline(es, ue, PerfectLink())
    with pytest.raises(InputError, match=why):
        pipe(prompt, on_step=no_step, **options)  # type: ignore[arg-type]
    if set(options) <= {"seed", "steps"}:
        with pytest.raises(InputError, match=why):
            pipe.reference(prompt, on_step=no_step, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_steps_as_a_float_and_a_seed_of_numpy_count_as_the_numbers_that_they_are(es: Transmitter, ue: Receiver) -> None:
    pipe = Pipeline(es, ue, RadioLink())
    result = pipe(PROMPT, seed=np.int64(3), steps=4.0)  # type: ignore[arg-type]
    assert (type(result.report.seed), type(result.report.decision.steps)) == (int, int)
    np.testing.assert_array_equal(result.image, pipe(PROMPT, seed=3, steps=4).image)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("answer", [None, (1, 0), "auto"])
def test_a_policy_that_returns_no_decision_is_named(es: Transmitter, ue: Receiver, answer: object) -> None:
    with pytest.raises(InputError, match="what the policy returns must be a Decision, got"):
        Pipeline(es, ue, policy=lambda observation: answer)(PROMPT)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("prompts", "seeds", "why"),
    [
        (["fog", "rain"], [1], "two lists of one length"),
        (["fog"], [1, 2, 3], "two lists of one length"),
        ("fog", [1, 2, 3], "two lists of one length, got 'fog'"),
        ([], [], "two lists of one length"),
        (None, [1], "two lists of one length, got None"),
        (["fog"], 1, "two lists of one length"),
        (["fog", None], [1, 2], "a prompt must be a text, got None"),
        (["fog"], [-1], "seed must lie in"),
    ],
)
def test_rows_that_do_not_match_are_refused(es: Transmitter, prompts: object, seeds: object, why: str) -> None:
    with pytest.raises(InputError, match=why):
        es.denoise(prompts, seeds, 1)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "latent", [torch.zeros(2, 8, 8, 8), torch.zeros(8, 8, 8), torch.zeros(1, 8, 8, 10), torch.zeros(1, 4, 8, 8), np.zeros((1, 8, 8, 8))]
)
def test_a_latent_of_another_shape_is_refused(es: Transmitter, latent: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"the latent must be one of \[1, 8, 8, 8\], got"):
        es.encode(latent)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rows": np.zeros((64, 8))}, r"rows must be an array of float32 \[n, n\], got float64 \[64, 8\]"),
        ({"rows": np.zeros((64, 5), np.float32)}, r"rows must be an array of float32 \[n, 8\], got float32 \[64, 5\]"),
        ({"rows": None}, "got NoneType"),
        ({"merge_map": np.arange(64, dtype=np.int32)}, r"merge_map must be an array of int64 \[n\], got int32 \[64\]"),
        ({"merge_map": np.arange(64) + 1}, "merge_map must name rows from 0 to 63, got 1 to 64"),
        ({"merge_map": np.arange(64) - 1}, "merge_map must name rows from 0 to 63, got -1 to 62"),
        ({"merge_map": np.arange(32), "degradation": np.zeros((32, 4), np.float32)}, r"merge_map must be an array of int64 \[64\]"),
        ({"degradation": np.zeros((64, 3), np.float32)}, r"degradation must be an array of float32 \[64, 4\]"),
    ],
)
def test_features_of_another_shape_or_type_are_refused(es: Transmitter, ue: Receiver, change: dict[str, np.ndarray], why: str) -> None:
    fields = {"rows": np.zeros((64, 8), np.float32), "merge_map": np.arange(64), "degradation": np.zeros((64, 4), np.float32)} | change
    for receiver in (ue, LocalReceiver(es)):
        with pytest.raises(InputError, match=why):
            receiver.image_of(Features(**fields))


def test_what_an_own_backbone_decodes_is_checked_and_kept_in_range(es: Transmitter, monkeypatch: pytest.MonkeyPatch) -> None:
    features, decode = Features.clean(tokens_of(latent_of(es))), type(es.backbone).decode
    image = torch.tensor([-0.5, 1.5, 0.5])[None, :, None, None].expand(1, 3, 256, 256)
    monkeypatch.setattr(type(es.backbone), "decode", lambda self, z: image)
    np.testing.assert_array_equal(LocalReceiver(es).image_of(features)[0, 0], [0, 255, 128])
    monkeypatch.setattr(type(es.backbone), "decode", lambda self, z: image * torch.nan)
    with pytest.raises(RunError, match="the decoder gave NaN or infinity"):
        LocalReceiver(es).image_of(features)
    monkeypatch.setattr(type(es.backbone), "decode", lambda self, z: image[:, :1])
    with pytest.raises(InputError, match=r"decode must return a tensor \[b, 3, 256, 256\], got \[1, 1, 256, 256\]"):
        LocalReceiver(es).image_of(features)
    monkeypatch.setattr(type(es.backbone), "decode", decode)
    assert LocalReceiver(es).image_of(features).shape == (256, 256, 3)


@dataclass
class Sends:
    """A link that hands back what it is told to."""

    answer: object

    def send(self, transmission, rng):  # type: ignore[no-untyped-def]
        return self.answer

    def __len__(self) -> int:
        return 0  # false, as an empty trace is


@pytest.mark.usefixtures("unchecked")
def test_what_an_own_link_returns_is_checked(es: Transmitter, ue: Receiver) -> None:
    with pytest.raises(InputError, match=r"link must have a method send\(transmission, rng\), got 'fast'"):
        Pipeline(es, ue, "fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="what the link's send returns must be a Delivery, got None"):
        Pipeline(es, ue, Sends(None))(PROMPT, steps=1)
    symbols = es.encode(latent_of(es), analog=True).symbols
    assert symbols is not None
    payload = es.encode(latent_of(es), analog=True).payload
    for variance, why in ((None, "without their noise variances"), (0.1, "variance of an analog payload must be an array, got a float")):
        with pytest.raises(CodecError, match=why):
            es.codec.decode(Received(payload, symbols, variance))  # type: ignore[arg-type]


def test_a_link_that_is_false_is_taken_all_the_same(monkeypatch: pytest.MonkeyPatch, es: Transmitter, ue: Receiver) -> None:
    monkeypatch.setattr("megen.pipeline.halves", lambda backbone, device: (es, ue))
    link = Sends(None)
    assert Pipeline.load("tiny", link=link).link is link


@dataclass(frozen=True)
class Gamma(RadioLink):
    m: float = 1.5

    def gain(self, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        h = np.sqrt(rng.gamma(self.m, 1 / self.m))
        return lambda times_s: np.full(times_s.shape, h, complex)


def test_the_report_tells_a_derived_link_and_a_connection_as_they_are(es: Transmitter, ue: Receiver) -> None:
    own = Pipeline(es, ue, Gamma(snr_db=20.0))(PROMPT, steps=1).report.channel
    assert (own.link, own.fading, own.snr_db, own.parameters["m"]) == ("Gamma", None, 20.0, 1.5)
    kept = Pipeline(es, ue, RadioLink(snr_db=20.0).connect())(PROMPT, steps=1).report.channel
    assert (kept.link, kept.fading, kept.snr_db) == ("digital", "awgn", 20.0)


def test_the_front_door_knows_a_backbone_by_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megen.models import embedded

    for seed, name in ((0, "one"), (1, "one"), (2, "two")):  # the same relative path throughout
        here = tmp_path / name
        here.mkdir(exist_ok=True)
        monkeypatch.chdir(here)
        embedded.save(make_tiny(seed), here / "weights", {})
        result = front.generate(PROMPT, backbone="weights", steps=1)
        assert result.report.made_by.weights == embedded.load(str(here / "weights")).digest
    assert front._loaded.cache_info().currsize == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Decision(float("nan")), "steps must be a whole number of at least 1, got nan"),
        (lambda: Decision(float("inf")), "steps must be"),
        (lambda: Decision(None), "steps must be"),
        (lambda: Decision(True), "steps must be"),
        (lambda: Decision(2.5), "steps must be"),
        (lambda: Decision(4, "0.5"), r"merge_ratio must lie in \[0, 0.75\], got '0.5'"),
        (lambda: Budget("1"), "deadline_s must be a positive number, got '1'"),
        (lambda: Budget(energy_j=0), "energy_j must be a positive number, got 0"),
        (lambda: ChannelState(float("nan"), 1e6), "snr_db must be a number, got nan"),
        (lambda: ChannelState(3.0, -1e6), "bandwidth_hz must be a number of at least 0"),
        (lambda: ChannelState(3.0, 1e6, float("nan")), "rate_bps must be"),
        (lambda: Observation(ChannelState(3.0), backlog_s=float("nan")), "backlog_s must be"),
        (lambda: Observation(ChannelState(3.0), backlog_s=-5), "backlog_s must be"),
        (lambda: Observation(ChannelState(3.0), prompt_class=-3), "prompt_class must be a whole number of at least 0"),
        (lambda: Observation(3.0), "channel must be a ChannelState"),
        (lambda: Delivery(Received(Payload(b"", b"")), latency_s=float("nan")), "latency_s must be"),
        (lambda: Delivery(Received(Payload(b"", b"")), attempts=-1), "attempts must be"),
        (lambda: Delivery(Received(Payload(b"", b"")), parts=2, parts_lost=3), r"parts_lost must lie in \[0, 2\]"),
        (lambda: Delivery(b""), "received must be a Received"),
    ],
)
def test_the_types_check_themselves(make: Callable[[], object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        make()


@pytest.mark.usefixtures("unchecked")
def test_a_decision_holds_a_whole_number_of_steps() -> None:
    assert type(Decision(np.float64(4)).steps) is int  # type: ignore[arg-type]
    assert Decision(np.int64(4), np.float32(0.5)) == Decision(4, 0.5)  # type: ignore[arg-type]


SPEC = BackboneSpec("flat", (4, 8, 8), (64, 64), {1: (0.0, 1.0), 2: (0.0, 0.5, 1.0)}, (0.0, 0.5), max_words=8)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": None}, "name must be a str"),
        ({"latent_shape": (4, 7, 8)}, "the token grid must have even sides, got 7 x 8"),
        ({"latent_shape": (4, 8)}, "latent_shape must be 3 whole numbers"),
        ({"latent_shape": (0, 8, 8)}, "each of latent_shape must be"),
        ({"image_px": (64, 0.5)}, "each of image_px must be"),
        ({"times": {}}, "at least one number of steps"),
        ({"times": {0: (0.0,)}}, "steps must be a whole number of at least 1"),
        ({"times": {1: (1.0, 0.0)}}, r"times\[1\] must be 2 times that rise from 0 or later to 1"),
        ({"times": {2: (0.0,)}}, r"times\[2\] must be 3 times that rise from 0 or later to 1"),
        ({"times": {1: (-0.1, 1.0)}}, "rise from 0 or later to 1"),
        ({"times": {2: (0.0, float("nan"), 1.0)}}, "rise from 0 or later to 1"),
        ({"merge_ratios": (0.9,)}, "each of merge_ratios must lie in"),
        ({"merge_ratios": ()}, "one merge ratio"),
        ({"max_words": -1}, "max_words must be"),
    ],
)
def test_a_backbones_spec_checks_itself(change: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        replace(SPEC, **change)


class Erasures:
    """A link of a researcher's own: every second feature part is lost."""

    def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
        parts = transmission.payload.features
        kept = tuple(part if i % 2 == 0 else b"" for i, part in enumerate(parts))
        return Delivery(Received(replace(transmission.payload, features=kept)), parts=len(parts), parts_lost=sum(not p for p in kept))


@dataclass(frozen=True)
class Thinned(Erasures):
    """A link with fields of its own."""

    share: float = 0.5
    where: tuple[int, ...] = (1,)


def test_the_fields_of_an_own_link_stand_in_the_report(es: Transmitter, ue: Receiver) -> None:
    channel = Pipeline(es, ue, Thinned())(PROMPT, steps=1).report.channel
    assert (channel.link, channel.parameters) == ("Thinned", {"share": 0.5, "where": "(1,)"})
    assert Pipeline(es, ue, RadioLink())(PROMPT, steps=1).report.channel.parameters == {}


def test_an_own_link_is_any_object_with_send(es: Transmitter, ue: Receiver) -> None:
    result = Pipeline(es, ue, Erasures())(PROMPT, steps=2)
    assert result.report.channel.link == "Erasures"
    assert result.image.shape == (256, 256, 3)


def test_a_hopeless_link_says_what_was_lost(es: Transmitter) -> None:
    with pytest.raises(NotDeliveredError, match="raise the SNR or reduce the distance") as caught:
        RadioLink(-40.0).send(es.encode(latent_of(es)), np.random.default_rng(0))
    assert caught.value.latency_s > 0


def test_broken_graphs_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ReceiverError, match="no receiver graph"):
        Receiver.load(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ReceiverError, match="not a receiver graph"):
        Receiver.load(tmp_path / "cut.onnx")


def test_the_user_equipment_runs_without_torch(
    es: Transmitter, ue: Receiver, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # else threads are readied, which looks for torch
    result = Pipeline(es, ue, PerfectLink())(PROMPT, steps=2, merge_ratio=0.5)
    (tmp_path / "payload").write_bytes(codec.pack(result.delivery.received))
    np.save(tmp_path / "image.npy", result.image)
    code = f"""
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy", "gymnasium", "jaxtyping"):
            raise ModuleNotFoundError(f"{{name}} is not there", name=name)


sys.meta_path.insert(0, Missing())
from pathlib import Path
import numpy as np
from megen import codec
from megen.cli.main import main
from megen.ue import Receiver
folder = Path({str(tmp_path)!r})
image = Receiver.load({str(graph)!r}).decode(codec.unpack((folder / "payload").read_bytes()))
assert (image == np.load(folder / "image.npy")).all()
assert main(["receive", str(folder / "payload"), "--receiver", {str(graph)!r}, "--out", str(folder / "x.png")]) == 0
assert not [name for name in sys.modules if name.startswith("torch.")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "x.png").is_file()


def test_the_front_door_is_lazy() -> None:
    code = """
import sys, time
import megen
assert not {"torch", "numpy", "onnxruntime"} & set(sys.modules)
assert megen.Budget(deadline_s=1.0).deadline_s == 1.0
assert "torch" not in sys.modules
assert {"generate", "Pipeline", "Controller"} <= set(dir(megen))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_digital_link_changes_no_bit_and_a_better_one_is_faster(es: Transmitter, ue: Receiver) -> None:
    sent = es.encode(latent_of(es), 0.25)
    whole, seconds = ue.decode(Received(sent.payload)), []
    for snr_db in (25.0, 10.0, 0.0, -8.0):
        delivery = RadioLink(snr_db).send(sent, np.random.default_rng(1))
        if not delivery.parts_lost:
            np.testing.assert_array_equal(ue.decode(delivery.received), whole)
        seconds.append(delivery.latency_s)
    assert seconds == sorted(seconds)
    with pytest.raises(NotDeliveredError, match="the link lost the header 4 times"):
        RadioLink(-40.0).send(sent, np.random.default_rng(1))


def test_a_recorded_channel_decides_rate_and_noise(es: Transmitter, ue: Receiver) -> None:
    latent = latent_of(es)
    clean = ue.decode(Received(es.encode(latent).payload)).astype(float)
    took, errors = [], []
    for level_db in (20.0, 5.0):
        link = RadioLink(trace=Trace(np.array([0.0, 1.0]), np.array([level_db, level_db])))
        took.append(link.send(es.encode(latent), np.random.default_rng(0)).latency_s)
        analog = link.send(es.encode(latent, analog=True), np.random.default_rng(0))
        errors.append(np.square(ue.decode(analog.received) - clean).mean())
    assert took[0] < took[1]
    assert errors[0] < errors[1]


def test_a_lost_part_shows_in_the_degradation(tiny: EmbeddedBackbone) -> None:
    latent = torch.randn(1, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    es = transmitter_of(EmbeddedBackbone(replace(tiny.config, grid=(16, 8))))
    payload = es.encode(latent, 0.5).payload
    degraded = es.codec.decode(Received(replace(payload, features=(*payload.features[:-1], b"")))).degradation
    assert set(np.unique(degraded[:, 3])) == {0.0, np.float32(0.5)}
    assert degraded[:8, 3].max() == 0  # the first rows are in another band
    assert (degraded[:, 2] == 1).sum() == 64
    assert (es.codec.decode(Received(payload)).degradation[:, 3] == 0).all()


def test_a_clean_latent_passes_the_restorer_as_it_is(es: Transmitter, tiny: EmbeddedBackbone) -> None:
    latent = latent_of(es)
    torch.testing.assert_close(tiny.restorer(latent, torch.zeros(1, 4, 8, 8)), latent, rtol=0, atol=0)
    assert (tiny.restorer(latent, torch.ones(1, 4, 8, 8)) != latent).any()
