from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megen import codec, export, merging, pipeline
from megen.codec import prior
from megen.models.backbone import Backbone
from megen.pipeline import Clock, Link, TorchReceiver
from megen.types import Payload
from megen.ue import LOST, Arrival, OnnxReceiver, ReceiverError, Symbols, arrive
from tests.conftest import make_tiny

PLAIN = prior.plain(8)


@pytest.fixture(scope="module")
def graph(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "receiver.onnx"
    export.export_receiver(tiny, PLAIN, path)
    return path


def latent_of(tiny: Backbone, seed: int = 3) -> torch.Tensor:
    return pipeline.denoise(tiny, ["a cabin at night"], [seed], 2, Clock())


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75])
def test_the_graph_equals_the_torch_receiver_within_one_level(tiny: Backbone, graph: Path, ratio: float) -> None:
    tokens = pipeline.as_tokens(latent_of(tiny))
    mapping = merging.merge_map(merging.match(tokens, 8, 8, ratio), 8, 8)
    rows, _ = merging.merge(tokens, mapping)
    arrival = Arrival(rows, mapping, np.random.default_rng(0).random((64, 4)).astype(np.float32))
    ours, theirs = OnnxReceiver(graph)(arrival), TorchReceiver(tiny, PLAIN)(arrival)
    assert ours.shape == (256, 256, 3)
    assert ours.std() > 1
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["analog", "digital"])
def test_a_seed_gives_the_same_image_and_another_another(tiny: Backbone, kind: str) -> None:
    receiver, link = TorchReceiver(tiny, PLAIN), Link(kind, 10.0, fading="rayleigh")

    def image(seed: int) -> np.ndarray:
        return pipeline.send(latent_of(tiny, seed), 0.5, link, np.random.default_rng(seed), receiver, Clock()).image

    np.testing.assert_array_equal(image(1), image(1))
    assert (image(1) != image(2)).any()


def test_payload_bits_are_what_the_receiver_was_given(tiny: Backbone, graph: Path) -> None:
    receiver = OnnxReceiver(graph)
    result = pipeline.send(latent_of(tiny), 0.5, Link(), np.random.default_rng(0), receiver, Clock())
    payload = result.payload
    assert payload.bits()["total"] == 8 * sum(map(len, (payload.header, payload.merge_map, *payload.features)))
    np.testing.assert_array_equal(receiver(arrive(payload, receiver)), result.image)
    with pytest.raises(codec.CodecError):
        arrive(Payload(payload.header, payload.merge_map[:-1], payload.features), receiver)


def test_what_is_not_for_this_receiver_is_refused(tiny: Backbone, graph: Path) -> None:
    other = TorchReceiver(make_tiny(1), PLAIN)
    payload = pipeline.send(latent_of(tiny), 0.5, Link(), np.random.default_rng(0), other, Clock()).payload
    with pytest.raises(codec.CodecError, match="this receiver decodes"):
        arrive(payload, OnnxReceiver(graph))
    analog = pipeline.send(latent_of(tiny), 0.5, Link("analog"), np.random.default_rng(0), other, Clock()).payload
    with pytest.raises(codec.CodecError, match="an analog payload needs 128 symbols, got 3"):
        arrive(analog, other, Symbols(np.zeros(3, np.complex128), np.ones(3)))


def test_a_row_of_a_batch_is_what_it_is_alone(tiny: Backbone) -> None:
    prompts, seeds = ["a cabin at night", "rain, a lake and pine trees"], [3, 4]
    together = pipeline.denoise(tiny, prompts, seeds, 4, Clock())
    for i in range(2):
        alone = pipeline.denoise(tiny, prompts[i : i + 1], seeds[i : i + 1], 4, Clock())
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_broken_weights_are_a_failed_run(tiny: Backbone) -> None:
    broken = make_tiny()
    with torch.no_grad():
        broken.denoiser.outward.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="weights are broken"):
        latent_of(broken)


def test_exporting_leaves_the_backbone_as_it_is(tiny: Backbone, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    export.export_receiver(tiny, PLAIN, tmp_path / "r.onnx")
    assert all(torch.equal(v, tiny.state_dict()[k]) for k, v in before.items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codec.safetensors", "r.onnx"]


def test_a_better_channel_is_a_nearer_image(tiny: Backbone) -> None:
    latent, receiver = latent_of(tiny), TorchReceiver(tiny, PLAIN)
    clean = pipeline.send(latent, 0.0, Link(), np.random.default_rng(0), receiver, Clock()).image.astype(float)
    errors = []
    for snr_db in (-5.0, 5.0, 15.0, 25.0):
        got = pipeline.send(latent, 0.0, Link("analog", snr_db), np.random.default_rng(0), receiver, Clock())
        errors.append(np.square(got.image - clean).mean())
        assert got.symbols == 8 * 8 * 8 // 2
        assert got.payload.features == ()
        assert got.transmit_s > got.symbols / 1e6
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_decisions_are_checked(tiny: Backbone) -> None:
    with pytest.raises(ValueError, match="steps must be one of 1, 2, 4, got 3"):
        pipeline.decide(tiny, 3, 0.0)
    with pytest.raises(ValueError, match="merge_ratio must lie in"):
        pipeline.decide(tiny, 2, 0.8)
    with pytest.raises(ValueError, match="none, analog or digital"):
        Link("smoke").check()


def test_broken_graphs_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ReceiverError, match="no receiver graph"):
        OnnxReceiver(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ReceiverError, match="not a receiver graph"):
        OnnxReceiver(tmp_path / "cut.onnx")


def test_the_user_equipment_runs_without_torch(tiny: Backbone, graph: Path, tmp_path: Path) -> None:
    result = pipeline.send(latent_of(tiny), 0.5, Link(), np.random.default_rng(0), OnnxReceiver(graph), Clock())
    parts = (result.payload.header, result.payload.merge_map, *result.payload.features)
    for i, part in enumerate(parts):
        (tmp_path / str(i)).write_bytes(part)
    np.save(tmp_path / "image.npy", result.image)
    code = f"""
import sys
sys.modules["torch"] = None  # any import of it fails
from pathlib import Path
import numpy as np
from megen.types import Payload
from megen.ue import OnnxReceiver, arrive
folder = Path({str(tmp_path)!r})
parts = [(folder / str(i)).read_bytes() for i in range({len(parts)})]
receiver = OnnxReceiver(Path({str(graph)!r}))
image = receiver(arrive(Payload(parts[0], parts[1], tuple(parts[2:])), receiver))
assert (image == np.load(folder / "image.npy")).all()
assert not [name for name in sys.modules if name.startswith("torch.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_digital_link_sends_what_was_coded_and_takes_longer_far_away(tiny: Backbone) -> None:
    latent, receiver = latent_of(tiny), TorchReceiver(tiny, PLAIN)
    whole = pipeline.send(latent, 0.25, Link(), np.random.default_rng(0), receiver, Clock())
    seconds = []
    for snr_db in (24.0, 8.0, -4.0):
        got = pipeline.send(latent, 0.25, Link("digital", snr_db), np.random.default_rng(1), receiver, Clock())
        assert got.payload == whole.payload
        if not got.parts_lost:
            np.testing.assert_array_equal(got.image, whole.image)
        seconds.append(got.transmit_s)
    assert seconds == sorted(seconds)
    with pytest.raises(pipeline.NotDeliveredError, match="the link lost the header 4 times"):
        pipeline.send(latent, 0.25, Link("digital", -40.0), np.random.default_rng(1), receiver, Clock())


def test_a_recorded_channel_decides_rate_and_noise(tiny: Backbone) -> None:
    latent, receiver = latent_of(tiny), TorchReceiver(tiny, PLAIN)
    took, errors = [], []
    clean = pipeline.send(latent, 0.0, Link(), np.random.default_rng(0), receiver, Clock()).image.astype(float)
    for level_db in (20.0, 5.0):
        trace = (np.array([0.0, 1.0]), np.array([level_db, level_db]))
        took.append(pipeline.send(latent, 0.0, Link("digital", trace=trace), np.random.default_rng(0), receiver, Clock()).transmit_s)
        got = pipeline.send(latent, 0.0, Link("analog", trace=trace), np.random.default_rng(0), receiver, Clock()).image
        errors.append(np.square(got - clean).mean())
    assert took[0] < took[1]
    assert errors[0] < errors[1]


def test_a_lost_part_is_told_to_the_receiver(tiny: Backbone) -> None:
    big = replace(tiny.config, grid=(16, 8))
    latent = torch.randn(1, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    backbone = Backbone(big)
    receiver = TorchReceiver(backbone, PLAIN)
    payload = pipeline.send(latent, 0.5, Link(), np.random.default_rng(0), receiver, Clock()).payload
    harmed = arrive(replace(payload, features=(*payload.features[:-1], b"")), receiver)
    assert set(np.unique(harmed.state[:, 3])) == {0.0, np.float32(LOST)}
    assert harmed.state[:8, 3].max() == 0  # the first rows are in another band
    assert (harmed.state[:, 2] == 1).sum() == 64
    assert (arrive(payload, receiver).state[:, 3] == 0).all()


def test_an_unharmed_latent_passes_the_restorer_as_it_is(tiny: Backbone) -> None:
    latent = latent_of(tiny)
    torch.testing.assert_close(tiny.restorer(latent, torch.zeros(1, 4, 8, 8)), latent, rtol=0, atol=0)
    assert (tiny.restorer(latent, torch.ones(1, 4, 8, 8)) != latent).any()
