"""Receivers to which the analog link's noise is diffusion noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megen import export
from megen.codec import FeatureCodec, prior
from megen.errors import InputError
from megen.halves import FlowReceiver, LocalReceiver, Transmitter, tokens_of
from megen.link import RadioLink
from megen.models import embedded
from megen.models.embedded import EmbeddedBackbone
from megen.models.fingerprint import fingerprint
from megen.pipeline import Pipeline
from megen.types import Equalised, Features, Received
from megen.ue import Receiver, ReceiverError
from megen.ue.receiver import NOISE
from tests.conftest import make_tiny

PLAIN = prior.plain(8)
PROMPT = "a cabin at night"


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transmitter, Path]:
    """A transmitter and the folder of its receiver's graphs."""
    folder = tmp_path_factory.mktemp("halves")
    embedded.save(make_tiny(), folder, {})
    backbone = embedded.load(str(folder))
    path, _ = export.placed_receiver(backbone, folder)
    return Transmitter(backbone, FeatureCodec(PLAIN, fingerprint(backbone, PLAIN.digest))), path.parent


def with_noise(es: Transmitter, deviation: float) -> tuple[torch.Tensor, Features]:
    """A latent with noise, and its linear MMSE estimate as features."""
    tokens = tokens_of(es.denoise([PROMPT], [3], 2))
    noisy = tokens + deviation * np.random.default_rng(0).standard_normal(tokens.shape).astype(np.float32)
    degradation = np.zeros((64, 4), np.float32)
    degradation[:, 0] = deviation
    grid = torch.from_numpy(noisy.T.reshape(1, 8, 8, 8).copy())
    equalised = Equalised(noisy, degradation[:, 0].copy(), deviation)
    return grid, Features((noisy / (1 + deviation**2)).astype(np.float32), np.arange(64), degradation, equalised)


def test_much_noise_is_one_step_of_the_flow_map_from_where_it_lies_on_the_path(halves: tuple[Transmitter, Path]) -> None:
    es, backbone, deviation = halves[0], halves[0].backbone, 2.0
    assert isinstance(backbone, EmbeddedBackbone)
    noisy, features = with_noise(es, deviation)
    time = torch.tensor([1 / (1 + deviation)])
    condition = backbone.condition([PROMPT], 1.0)
    with torch.inference_mode():
        clean = time * noisy + (1 - time) * backbone.velocity(time * noisy, time, torch.ones(1), condition)
        expected = (backbone.decode(clean)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    got = FlowReceiver(es, PROMPT).image_of(features)
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (FlowReceiver(es).image_of(features) != got).any()  # the prompt counts


def test_little_noise_is_the_restorers(halves: tuple[Transmitter, Path]) -> None:
    es, folder = halves
    for deviation in (0.0, 0.5 * NOISE[0]):
        features = with_noise(es, deviation)[1]
        assert np.abs(FlowReceiver(es).image_of(features).astype(int) - Receiver.load(folder).image_of(features)).max() <= 1
    clean = Features.clean(tokens_of(es.denoise([PROMPT], [3], 2)))
    np.testing.assert_array_equal(FlowReceiver(es).image_of(clean), LocalReceiver(es).image_of(clean))


@pytest.mark.parametrize("fading", ["awgn", "rayleigh"])
def test_the_graph_for_noise_shows_the_same_without_a_prompt(halves: tuple[Transmitter, Path], fading: str) -> None:
    es, folder = halves
    receiver, latent = Receiver.load(folder), es.denoise([PROMPT], [3], 2)
    for snr_db in (15.0, 9.0, 0.0):  # near the restorer alone, its mean with the flow map, and that alone
        received = RadioLink(snr_db, fading=fading).send(es.encode(latent, 0.25, analog=True), np.random.default_rng(1)).received
        ours, theirs = receiver.decode(received), FlowReceiver(es).decode(received)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (replace(receiver, noisy=None).decode(received) != ours).any()


def test_transform_coefficients_are_shown_alike_by_both(halves: tuple[Transmitter, Path]) -> None:
    es, folder = halves
    learned = replace(PLAIN, variance=np.zeros((8, 8, 8), np.int64))
    own = Transmitter(es.backbone, FeatureCodec(learned, es.codec.fingerprint))
    receiver, latent = replace(Receiver.load(folder), codec=own.codec), es.denoise([PROMPT], [3], 2)
    for ratio, snr_db in ((0.0, 30.0), (0.0, 9.0), (0.5, 0.0)):  # the restorer alone, both, the flow map alone
        sent = own.encode(latent, ratio, analog=True)
        received = RadioLink(snr_db).send(sent, np.random.default_rng(1)).received
        ours, theirs = receiver.decode(received), FlowReceiver(own).decode(received)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert (np.abs(LocalReceiver(own).decode(received).astype(int) - ours).max() > 1) == (snr_db < 20)


def test_what_crosses_is_asked_for_or_what_the_codec_knows(halves: tuple[Transmitter, Path]) -> None:
    es = halves[0]
    latent, learned = es.denoise([PROMPT], [3], 2), replace(PLAIN, variance=np.zeros((8, 8, 8), np.int64))
    own = Transmitter(es.backbone, FeatureCodec(learned, es.codec.fingerprint))
    assert [t.transforms(None, True) for t in (es, own)] == [False, True]
    assert not own.transforms(None, False)
    assert not own.transforms(None, True, 0.5)  # without an SNR tokens
    merged, copied = own.encode(latent, 0.5, analog=True), own.encode(latent, 0.5, analog=True, copies=3, reduction="transform")
    assert merged.symbols is not None
    assert copied.symbols is not None
    assert merged.payload.merge_map
    assert not copied.payload.merge_map
    assert len(copied.symbols) == 3 * len(merged.symbols)
    with pytest.raises(InputError, match="the reduction must be one of merging, transform, got 'zip'"):
        own.encode(latent, analog=True, reduction="zip")
    with pytest.raises(InputError, match="coefficients travel as I/Q symbols: send them analog, or merge tokens"):
        own.encode(latent, reduction="transform")
    with pytest.raises(InputError, match="copies are of analog symbols"):
        own.encode(latent, copies=2)
    with pytest.raises(InputError, match="has no variances of transform coefficients: merge tokens, or train"):
        es.encode(latent, analog=True, reduction="transform")
    with pytest.raises(InputError, match="the order of parts must be one of"):
        own.encode(latent, analog=True, order="random")
    other = FeatureCodec(replace(PLAIN, variance=np.zeros((8, 6, 6), np.int64)), es.codec.fingerprint)
    assert not Transmitter(es.backbone, other).transforms(None, True)


@pytest.mark.parametrize(
    ("snr_db", "ratio", "wanted"), [(0.0, 0.5, "transform"), (6.0, 0.5, "merging"), (6.0, 0.0, "transform"), (6.0, 0.75, "transform")]
)
def test_a_pipeline_chooses_by_the_links_snr(halves: tuple[Transmitter, Path], snr_db: float, ratio: float, wanted: str) -> None:
    es = halves[0]
    own = Transmitter(es.backbone, FeatureCodec(replace(PLAIN, variance=np.zeros((8, 8, 8), np.int64)), es.codec.fingerprint))
    result = Pipeline(own, LocalReceiver(own), RadioLink(snr_db), analog=True)(PROMPT, steps=1, merge_ratio=ratio)
    assert result.report.reduction == wanted
    assert bool(result.transmission.payload.merge_map) == (wanted == "merging")
    asked = Pipeline(own, LocalReceiver(own), RadioLink(snr_db), analog=True, reduction="merging", copies=2)
    report = asked(PROMPT, steps=1, merge_ratio=ratio).report
    assert (report.reduction, report.copies) == ("merging", 2)
    with pytest.raises(InputError, match="copies are of analog symbols"):
        Pipeline(own, LocalReceiver(own), copies=2)


def test_bits_need_no_second_graph_and_a_wrong_one_is_named(halves: tuple[Transmitter, Path], tmp_path: Path) -> None:
    es, folder = halves
    latent = es.denoise([PROMPT], [3], 2)
    broken = tmp_path / "broken"
    broken.write_bytes(b"no graph")
    receiver = replace(Receiver.load(folder), noisy=broken)
    receiver.decode(Received(es.encode(latent).payload))
    noisy = RadioLink(0.0).send(es.encode(latent, analog=True), np.random.default_rng(1)).received
    with pytest.raises(ReceiverError, match="is not a receiver graph of this version: write it again"):
        receiver.decode(noisy)
    other = FeatureCodec(PLAIN, es.codec.fingerprint ^ 1)
    with pytest.raises(ReceiverError, match=r"is of another backbone than receiver\.onnx beside it"):
        replace(Receiver.load(folder), codec=other).image_of(with_noise(es, 1.0)[1])


def test_a_denoiser_that_was_trained_on_has_its_graph_written_again(halves: tuple[Transmitter, Path], tmp_path: Path) -> None:
    backbone = make_tiny()
    embedded.save(backbone, tmp_path, {})
    export.placed_receiver(embedded.load(str(tmp_path)), tmp_path)
    before = (tmp_path / "receiver-noisy.onnx").read_bytes()
    with torch.no_grad():
        backbone.denoiser.outward.bias += 1
    embedded.save(backbone, tmp_path, {})
    export.placed_receiver(embedded.load(str(tmp_path)), tmp_path)
    assert (tmp_path / "receiver-noisy.onnx").read_bytes() != before


@pytest.mark.usefixtures("unchecked")
def test_a_published_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="a FlowReceiver needs an embedded backbone"):
        FlowReceiver(Transmitter(object(), FeatureCodec(PLAIN, 0)))  # type: ignore[arg-type]
