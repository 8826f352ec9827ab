"""The phone's denoiser: trained on links, interrupted, exported, and used where features are degraded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megen import export, merging
from megen.cli.main import main
from megen.codec import FeatureCodec, prior
from megen.errors import InputError
from megen.halves import FlowReceiver, LocalReceiver, Transmitter
from megen.link import RadioLink
from megen.models import embedded, phone_denoiser, weights
from megen.models.autoencoder import Autoencoder, AutoencoderConfig
from megen.models.embedded import EmbeddedBackbone
from megen.models.fingerprint import fingerprint
from megen.models.phone_denoiser import PhoneDenoiser, PhoneDenoiserConfig
from megen.training import autoencoder
from megen.training import phone_denoiser as training
from megen.training.phone_denoiser import PhoneDenoiserRecipe
from megen.training.restorer import degraded
from megen.types import Features, Received
from megen.ue import Receiver, ReceiverError
from megen.ue.receiver import DENOISER, is_degraded
from tests.conftest import interrupted_at, make_tiny

PLAIN = prior.plain(8)
SMALL = PhoneDenoiserConfig(8, (8, 16, 64), (1, 1), 1, (1, 1))
RECIPE = PhoneDenoiserRecipe(steps=5, batch=4, latents=128, crossings=32, fresh_per_step=1, save_every=2)


def small(seed: int = 0) -> PhoneDenoiser:
    """Of random weights, the last ones too."""
    torch.manual_seed(seed)
    net = PhoneDenoiser(SMALL)
    for layer in (net.outward, net.look.out):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone with a phone's denoiser, and its graphs."""
    place = tmp_path_factory.mktemp("phone")
    embedded.save(make_tiny(), place, {})
    phone_denoiser.save(small(), place, {})
    export.placed_receiver(embedded.load(str(place)), place)
    return place


@pytest.fixture(scope="module")
def es(folder: Path) -> Transmitter:
    backbone = embedded.load(str(folder))
    return Transmitter(backbone, FeatureCodec(PLAIN, fingerprint(backbone, PLAIN.digest)))


def features_of(es: Transmitter, ratio: float = 0.5, bits: float = 1.0) -> Features:
    """Coarse, merged features."""
    return es.codec.decode(Received(es.encode(es.denoise(["a cabin"], [3], 2), ratio, quantiser_bits=bits).payload))


def test_it_learns_what_links_do(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=120, batch=8, lr=4e-3, crossings=128, save_every=1000)
    training.train(recipe, tiny, PLAIN, tmp_path, 1, small())
    trained = phone_denoiser.load(tmp_path)
    assert trained is not None
    latents = weights.read(tmp_path / training.LATENTS)[0]["latents"][: training.HELD]
    before, after = (training.held_out_gain_db(net, latents, PLAIN, 0) for net in (small(), trained))
    assert after > max(before, 0) + 0.3
    assert weights.about(tmp_path / phone_denoiser.FILE)["held_out_gain_db"] == pytest.approx(after, abs=0.05)  # kept as halves


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    tiny: EmbeddedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.train(RECIPE, tiny, PLAIN, tmp_path / "whole", 1, small()).read_bytes()
    calls = interrupted_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        training.train(RECIPE, tiny, PLAIN, tmp_path / "cut", 1, small())
    again = training.train(RECIPE, tiny, PLAIN, tmp_path / "cut", 1, small())
    assert next(calls) == 7  # steps 2, 3 and 4 came after the checkpoint
    tensors, other = weights.read(again)[0], weights.read(tmp_path / "whole" / phone_denoiser.FILE)[0]
    assert all(torch.equal(tensors[name], other[name]) for name in other)
    assert whole
    with pytest.raises(InputError, match="lr"):
        training.train(replace(RECIPE, lr=1e-3), tiny, PLAIN, tmp_path / "cut", 1, small())


def test_the_oldest_crossings_are_renewed_and_a_quarter_of_a_batch_came_as_bits(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    recipe = replace(RECIPE, crossings=64, fresh_per_step=24)
    latents = training.own_latents(tiny, recipe.latents, recipe.seed, tmp_path / training.LATENTS, 32)
    with training.crossings(tmp_path / training.LATENTS, latents, PLAIN, recipe, 1) as at:
        for step, newest in ((0, 64), (3, 64 + 64), (4, 64 + 96)):
            of = at(step).of.clone()
            for number in range(newest - 64, newest):
                assert of[number % 64] == training.crossing(latents, PLAIN, recipe.seed, number)[2]
        state = at(4).degradation
    rows = training.drawn(64, 40, torch.Generator().manual_seed(0))
    assert (state[rows[:10], 0] == 0).all()  # no noise
    assert (state[rows[10:], 0] > 0).all()
    assert set(training.drawn(64, 4000, torch.Generator().manual_seed(1)).tolist()) == set(range(64))


def test_a_link_of_a_training_degrades_in_every_way() -> None:
    latent = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    known = replace(PLAIN, variance=np.zeros((8, 8, 8), np.int64))
    rows = [degraded(latent, known, np.random.default_rng(i)) for i in range(120)]
    states = torch.stack([state for _, state in rows])
    assert all((states[:, k].amax((1, 2)) > 0).sum() >= 5 for k in range(4))  # noise, quantiser, copies, losses
    assert all(torch.isfinite(z).all() and z.shape == (8, 8, 8) for z, _ in rows)
    again = degraded(latent, known, np.random.default_rng(7))
    assert torch.equal(again[0], rows[7][0])


def test_the_graph_cleans_as_the_net_does(folder: Path, es: Transmitter) -> None:
    receiver, net, features = Receiver.load(folder), phone_denoiser.load(folder), features_of(es)
    assert net is not None
    assert is_degraded(features)
    z = torch.from_numpy(merging.unmerge(features.rows, features.merge_map).T.reshape(1, 8, 8, 8).copy())
    state = torch.from_numpy(features.degradation.T.reshape(1, 4, 8, 8).copy())
    with torch.inference_mode():
        expected = net(z, state)[0].flatten(1).T.numpy()
    cleaned = receiver.denoised(features)
    np.testing.assert_allclose(cleaned.rows, expected, atol=1e-4)
    assert not cleaned.degradation.any()
    assert (folder / DENOISER).stat().st_size < 60_000  # its weights lie in the backbone's files
    ours, alone = receiver.image_of(features), replace(receiver, denoiser=None).image_of(features)
    assert (ours != alone).any()
    assert np.abs(ours.astype(int) - LocalReceiver(es).image_of(cleaned)).max() <= 1
    fine = features_of(es, 0.0, 8.0)
    assert not is_degraded(fine)
    np.testing.assert_array_equal(receiver.image_of(fine), replace(receiver, denoiser=None).image_of(fine))


@pytest.mark.parametrize("snr_db", [0.0, -4.0])
def test_the_flow_maps_step_counts_beside_it(folder: Path, es: Transmitter, snr_db: float) -> None:
    sent = es.encode(es.denoise(["a cabin"], [3], 2), analog=True)
    received = RadioLink(snr_db).send(sent, np.random.default_rng(1)).received
    receiver, whole = Receiver.load(folder), FlowReceiver(es, "", phone_denoiser.load(folder))
    assert np.abs(receiver.decode(received).astype(int) - whole.decode(received)).max() <= 1
    assert (replace(receiver, denoiser=None).decode(received) != receiver.decode(received)).any()
    assert (replace(receiver, noisy=None).decode(received) != receiver.decode(received)).any()


def test_little_noise_is_the_denoisers_alone(folder: Path, es: Transmitter) -> None:
    sent = es.encode(es.denoise(["a cabin"], [3], 2), analog=True)
    received = RadioLink(9.0).send(sent, np.random.default_rng(1)).received
    receiver = Receiver.load(folder)
    np.testing.assert_array_equal(receiver.decode(received), replace(receiver, noisy=None).decode(received))
    assert (replace(receiver, denoiser=None).decode(received) != receiver.decode(received)).any()


def test_a_wrong_graph_is_named(folder: Path, es: Transmitter, tmp_path: Path) -> None:
    (tmp_path / DENOISER).write_bytes(b"no graph")
    features, receiver = features_of(es), Receiver.load(folder)
    with pytest.raises(ReceiverError, match="is not a receiver graph of this version: write it again"):
        replace(receiver, denoiser=tmp_path / DENOISER).image_of(features)
    with pytest.raises(ReceiverError, match=r"is of another backbone than receiver\.onnx beside it"):
        replace(receiver, codec=FeatureCodec(PLAIN, es.codec.fingerprint ^ 1)).image_of(features)
    (tmp_path / phone_denoiser.FILE).write_bytes(b"no weights")
    with pytest.raises(weights.WeightsError, match="phone-denoiser"):
        phone_denoiser.load(tmp_path)


def test_new_weights_have_their_graph_written_again_and_an_export_holds_its_own(folder: Path, tmp_path: Path) -> None:
    embedded.save(make_tiny(), tmp_path, {})
    phone_denoiser.save(small(), tmp_path, {})
    for seed in (0, 1):
        phone_denoiser.save(small(seed), tmp_path, {})
        export.placed_receiver(embedded.load(str(tmp_path)), tmp_path)
        graphs = [(tmp_path / DENOISER).read_bytes()]
    export.placed_receiver(embedded.load(str(tmp_path)), tmp_path)
    assert (tmp_path / DENOISER).read_bytes() == graphs[-1]
    assert graphs[-1] != (folder / DENOISER).read_bytes()
    out = tmp_path / "elsewhere" / "receiver.onnx"
    out.parent.mkdir()
    assert main(["export", "--backbone", str(tmp_path), "--out", str(out)]) == 0
    assert (out.parent / DENOISER).stat().st_size > 2 * sum(p.numel() for p in small().parameters())
    tokens = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    rough = replace(Features.clean(tokens), degradation=np.full((64, 4), 0.3, np.float32))
    np.testing.assert_allclose(Receiver.load(out).denoised(rough).rows, Receiver.load(tmp_path).denoised(rough).rows, atol=1e-5)


def test_the_command_trains_and_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["--steps", "2", "--batch", "2", "--latents", "128", "--crossings", "32"]
    command = ["train", "denoiser", "--backbone", str(folder), "--from", str(folder), "--out", str(tmp_path / "out"), *numbers]
    assert main(command) == 0
    assert phone_denoiser.load(tmp_path / "out") is not None
    assert main([*command[:-1], "64"]) == 2  # another recipe
    assert main(["train", "denoiser", "--out", str(tmp_path / "x"), "--latents", "12"]) == 2
    assert "latents must be a whole number of at least 128" in capsys.readouterr().err
    assert main(["train", "denoiser", "--out", str(tmp_path / "x"), "--from", str(tmp_path)]) == 2
    assert "holds no phone-denoiser.safetensors for latents of 32 channels" in capsys.readouterr().err


def test_a_decoder_with_a_finest_stage_begins_where_the_smaller_one_ended() -> None:
    torch.manual_seed(0)
    shape = AutoencoderConfig(8, (8, 8, 16), (8, 8, 16), (1, 1, 1), (1, 1, 1))
    start, grown = Autoencoder(shape), Autoencoder(replace(shape, finest_width=4, finest_blocks=1))
    autoencoder._start_from(grown, start)
    latent = torch.randn(1, 8, 2, 2)
    assert grown.decoder(latent).shape == (1, 3, 64, 64)
    given = start.state_dict()
    same = [name for name, value in grown.state_dict().items() if name in given and torch.equal(given[name], value)]
    assert len(same) == len(given) - 2  # all but the tail
    assert torch.equal(grown.encoder(torch.ones(1, 3, 64, 64)), start.encoder(torch.ones(1, 3, 64, 64)))
