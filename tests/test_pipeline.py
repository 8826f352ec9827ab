from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from megen import codec, export, merging, pipeline
from megen.models.backbone import Backbone
from megen.pipeline import Clock, Link, TorchReceiver
from megen.types import Payload
from megen.ue import OnnxReceiver, ReceiverError, arrive
from tests.conftest import make_tiny


@pytest.fixture(scope="module")
def graph(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "receiver.onnx"
    export.export_receiver(tiny, path)
    return path


def latent_of(tiny: Backbone, seed: int = 3) -> torch.Tensor:
    return pipeline.denoise(tiny, ["a cabin at night"], [seed], 2, Clock())


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75])
def test_the_graph_equals_the_torch_receiver_within_one_level(tiny: Backbone, graph: Path, ratio: float) -> None:
    tokens = pipeline.as_tokens(latent_of(tiny))
    mapping = merging.merge_map(merging.match(tokens, 8, 8, ratio), 8, 8)
    rows, _ = merging.merge(tokens, mapping)
    ours, theirs = OnnxReceiver(graph)(rows, mapping), pipeline.TorchReceiver(tiny)(rows, mapping)
    assert ours.shape == (256, 256, 3)
    assert ours.std() > 1
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_a_seed_gives_the_same_image_and_another_another(tiny: Backbone) -> None:
    receiver, link = pipeline.TorchReceiver(tiny), Link("analog", 10.0, fading="rayleigh", block_symbols=16)

    def image(seed: int) -> np.ndarray:
        return pipeline.send(latent_of(tiny, seed), 0.5, link, np.random.default_rng(seed), receiver, Clock()).image

    np.testing.assert_array_equal(image(1), image(1))
    assert (image(1) != image(2)).any()


def test_payload_bits_are_what_the_receiver_was_given(tiny: Backbone, graph: Path) -> None:
    receiver = OnnxReceiver(graph)
    result = pipeline.send(latent_of(tiny), 0.5, Link(), np.random.default_rng(0), receiver, Clock())
    payload = result.payload
    assert payload.bits()["total"] == 8 * (len(payload.header) + len(payload.merge_map) + len(payload.features or b""))
    np.testing.assert_array_equal(receiver(*arrive(payload, receiver.identity)), result.image)
    with pytest.raises(codec.CodecError):
        arrive(Payload(payload.header, payload.merge_map[:-1], payload.features), receiver.identity)


def test_what_is_not_for_this_receiver_is_refused(tiny: Backbone, graph: Path) -> None:
    other = TorchReceiver(make_tiny(1))
    payload = pipeline.send(latent_of(tiny), 0.5, Link(), np.random.default_rng(0), other, Clock()).payload
    with pytest.raises(codec.CodecError, match="this receiver decodes"):
        arrive(payload, OnnxReceiver(graph).identity)
    analog = pipeline.send(latent_of(tiny), 0.5, Link("analog"), np.random.default_rng(0), other, Clock()).payload
    with pytest.raises(codec.CodecError, match="an analog payload needs 128 symbols, got 3"):
        arrive(analog, other.identity, np.zeros(3, np.complex128))


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
    export.export_receiver(tiny, tmp_path / "r.onnx")
    assert all(torch.equal(v, tiny.state_dict()[k]) for k, v in before.items())
    assert [p.name for p in tmp_path.iterdir()] == ["r.onnx"]


def test_a_better_channel_is_a_nearer_image(tiny: Backbone) -> None:
    latent, receiver = latent_of(tiny), pipeline.TorchReceiver(tiny)
    clean = pipeline.send(latent, 0.0, Link(), np.random.default_rng(0), receiver, Clock()).image.astype(float)
    errors = []
    for snr_db in (-5.0, 5.0, 15.0, 25.0):
        got = pipeline.send(latent, 0.0, Link("analog", snr_db), np.random.default_rng(0), receiver, Clock())
        errors.append(np.square(got.image - clean).mean())
        assert got.symbols == 8 * 8 * 8 // 2
        assert got.payload.features is None
        assert got.transmit_s > got.symbols / 1e6
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_decisions_are_checked(tiny: Backbone) -> None:
    with pytest.raises(ValueError, match="steps must be one of 1, 2, 4, got 3"):
        pipeline.decide(tiny, 3, 0.0)
    with pytest.raises(ValueError, match="merge_ratio must lie in"):
        pipeline.decide(tiny, 2, 0.8)
    with pytest.raises(ValueError, match="none or analog"):
        Link("smoke").check()


def test_broken_graphs_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(ReceiverError, match="no receiver graph"):
        OnnxReceiver(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ReceiverError, match="not a receiver graph"):
        OnnxReceiver(tmp_path / "cut.onnx")


def test_the_user_equipment_runs_without_torch(tiny: Backbone, graph: Path, tmp_path: Path) -> None:
    result = pipeline.send(latent_of(tiny), 0.5, Link(), np.random.default_rng(0), OnnxReceiver(graph), Clock())
    names = ("header", "merge_map", "features")
    for name in names:
        (tmp_path / name).write_bytes(getattr(result.payload, name))
    np.save(tmp_path / "image.npy", result.image)
    code = f"""
import sys
sys.modules["torch"] = None  # any import of it fails
from pathlib import Path
import numpy as np
from megen.types import Payload
from megen.ue import OnnxReceiver, arrive
folder = Path({str(tmp_path)!r})
payload = Payload(*((folder / name).read_bytes() for name in {names!r}))
receiver = OnnxReceiver(Path({str(graph)!r}))
image = receiver(*arrive(payload, receiver.identity))
assert (image == np.load(folder / "image.npy")).all()
assert not [name for name in sys.modules if name.startswith("torch.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
