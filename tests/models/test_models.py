from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megen.models import embedded, placement, weights
from megen.models.autoencoder import Autoencoder, AutoencoderConfig
from megen.models.embedded import EmbeddedBackbone
from megen.models.fingerprint import fingerprint
from megen.scenes import judge
from tests.conftest import make_tiny


def test_a_rows_velocity_does_not_depend_on_its_batch(tiny: EmbeddedBackbone) -> None:
    prompts = ["a cabin at night", "rain", "a lighthouse on the left, stars, a calm lake, pine trees"]
    z, s = torch.randn(3, *tiny.latent_shape), torch.tensor([0.1, 0.5, 0.9])
    with torch.inference_mode():
        together = tiny.velocity(z, s, s, tiny.condition(prompts, 2.0))
        for i, prompt in enumerate(prompts):
            alone = tiny.velocity(z[i : i + 1], s[i : i + 1], s[i : i + 1], tiny.condition([prompt], 2.0))
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_guidance_one_is_the_conditioned_velocity(tiny: EmbeddedBackbone) -> None:
    z, s = torch.randn(1, *tiny.latent_shape), torch.tensor([0.3])
    with torch.inference_mode():
        once = tiny.velocity(z, s, s, tiny.condition(["rain"], 1.0))
        conditioned, null = (tiny.velocity(z, s, s, tiny.condition([p], 1.0)) for p in ("rain", ""))
        torch.testing.assert_close(once, conditioned)
        torch.testing.assert_close(tiny.velocity(z, s, s, tiny.condition(["rain"], 3.0)), null + 3 * (conditioned - null))
    assert not torch.allclose(conditioned, null)


def test_words_change_the_latent_and_padding_does_not(tiny: EmbeddedBackbone) -> None:
    with torch.inference_mode():
        long = tiny.condition(["rain", "a cabin on the left at night"])
        alone = tiny.condition(["rain"])
    torch.testing.assert_close(long.pooled[:1], alone.pooled)
    with torch.inference_mode():
        torch.testing.assert_close(tiny.condition(["rain zeppelin"]).pooled, alone.pooled)  # unknown words are left out
    assert tiny.left_out("A zeppelin, over a LAKE; zeppelin") == ["zeppelin", "over"]
    with pytest.raises(ValueError, match="at most 64 words, got 65"):
        tiny.condition(["rain " * 65])


def test_principal_components_reconstruct_what_lies_in_their_span() -> None:
    config = AutoencoderConfig(4, (8, 8, 8), (8, 8, 8), (1, 1, 1), (1, 1, 1))
    model = Autoencoder(config)
    basis = torch.randn(4, 3072)
    patches = torch.randn(500, 4) @ basis * 0.01 + 0.1
    assert model.start_from_principal_components(patches) > 80
    pictures = (torch.nn.functional.pixel_shuffle(patches[:4].T.reshape(3072, 1, 4, 1).permute(2, 0, 1, 3), 32) + 1) / 2
    with torch.inference_mode():
        linear = torch.nn.functional.pixel_shuffle(model.decoder.linear(model.encoder.linear(2 * pictures - 1)), 32)
    torch.testing.assert_close(linear * 0.5 + 0.5, pictures, atol=1e-3, rtol=1e-3)


def test_saving_and_loading_keeps_everything(tiny: EmbeddedBackbone, tmp_path: Path) -> None:
    embedded.save(tiny, tmp_path, {"note": "x"})
    again = embedded.load(str(tmp_path))
    assert again.config == tiny.config
    assert fingerprint(again, 0) == fingerprint(tiny, 0)
    for key, value in tiny.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value.half().float())
    assert fingerprint(make_tiny(1), 0) != fingerprint(tiny, 0) != fingerprint(tiny, 1)


def test_unusable_weights_are_refused(tiny: EmbeddedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(weights.WeightsError, match="no backbone named 'nosuch'"):
        embedded.load("nosuch")
    with pytest.raises(weights.WeightsError, match="no weights named backbone"):
        embedded.load(str(tmp_path))
    monkeypatch.setattr(weights, "SHARD_BYTES", 20_000)
    paths = embedded.save(tiny, tmp_path, {})
    assert len(paths) > 1
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(weights.WeightsError, match="not a whole safetensors file"):
        embedded.load(str(tmp_path))
    paths[0].unlink()
    with pytest.raises(weights.WeightsError, match="shards of backbone"):
        embedded.load(str(tmp_path))
    foreign = tmp_path / "foreign"
    weights.save_sharded({"x": torch.zeros(1)}, foreign, "backbone", {"format": "other"})
    with pytest.raises(weights.WeightsError, match="not written by megen train"):
        embedded.load(str(foreign))
    odd = {k: v[:-1] if k == "latent_mean" else v for k, v in tiny.state_dict().items()}
    with pytest.raises(weights.WeightsError, match="latent_mean is"):
        weights.load_into(make_tiny(), odd, "the file")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_hold_no_number_are_refused_with_file_and_tensor(tiny: EmbeddedBackbone, tmp_path: Path, value: float) -> None:
    broken = make_tiny()
    with torch.no_grad():
        next(iter(broken.autoencoder.decoder.parameters())).view(-1)[0] = value
    name = next(k for k, v in broken.state_dict().items() if not torch.isfinite(v).all())
    (path,) = embedded.save(broken, tmp_path, {})
    with pytest.raises(weights.WeightsError, match=rf"{path.name}: {name} holds NaN or infinity"):
        embedded.load(str(tmp_path))
    with pytest.raises(weights.WeightsError, match=rf"the file: {name} holds NaN"):
        weights.load_into(make_tiny(), broken.state_dict(), "the file")


def test_weights_of_another_kind_of_number_are_refused(tiny: EmbeddedBackbone) -> None:
    for kind in (torch.int8, torch.bool, torch.complex64):
        odd = {k: v.to(kind) if k == "latent_mean" else v for k, v in tiny.state_dict().items()}
        with pytest.raises(weights.WeightsError, match=rf"latent_mean is of type {str(kind)[6:]}, expected float32"):
            weights.load_into(make_tiny(), odd, "the file")
    huge = {k: v.double() + 1e300 if k == "latent_mean" else v for k, v in tiny.state_dict().items()}
    with pytest.raises(weights.WeightsError, match="latent_mean holds NaN or infinity"):  # once in the module's precision
        weights.load_into(make_tiny(), huge, "the file")


def test_a_broken_classifier_is_refused(tmp_path: Path) -> None:
    tensors = judge.load().state_dict()
    tensors["heads.time.bias"][1] = torch.nan
    weights.write_safely(tensors, tmp_path / "c.safetensors", {})
    with pytest.raises(weights.WeightsError, match=r"c.safetensors: heads.time.bias holds NaN"):
        judge.load(tmp_path / "c.safetensors")
    tensors.pop("heads.time.bias")
    weights.write_safely(tensors, tmp_path / "c.safetensors", {})
    with pytest.raises(weights.WeightsError, match=r"heads.time.bias stand on one side only"):
        judge.load(tmp_path / "c.safetensors")


def test_only_folders_with_weights_are_offered_as_backbones() -> None:
    with pytest.raises(weights.WeightsError, match="give one of scenes, a folder of weights, or a hub name"):
        embedded.folder_of("nosuch")
    with pytest.raises(weights.WeightsError, match="no backbone named 'profiles'"):
        embedded.folder_of("profiles")


def test_a_net_in_bf16_stays_near_the_exact_one_and_a_row_is_what_it_is_alone() -> None:
    exact, quick = make_tiny(3), make_tiny(3)
    quick.denoiser.bfloat16()
    z = torch.randn(3, *exact.latent_shape, generator=torch.Generator().manual_seed(0))
    s = torch.tensor([0.0, 0.3, 0.6])
    prompts = ["rain", "a castle at night", "hills"]
    with torch.inference_mode():
        a, b = (net.velocity(z, s, s, net.condition(prompts, 1.0)) for net in (exact, quick))
        alone = quick.velocity(z[1:2], s[1:2], s[1:2], quick.condition(prompts[1:2], 1.0))
    assert b.dtype == torch.float32
    assert 0 < float((a - b).square().mean() / a.square().mean()) < 1e-3
    torch.testing.assert_close(b[1:2], alone, atol=0.05, rtol=0.05)


def test_bf16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    for flags, wanted in (("fpu sse avx512_bf16", True), ("amx_bf16 amx_tile", True), ("fpu avx2 avx512f", False)):
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        monkeypatch.setattr(placement, "CPU_INFO", tmp_path / "cpuinfo")
        assert placement.bf16_pays.__wrapped__(cpu) == wanted
    monkeypatch.setattr(placement, "CPU_INFO", tmp_path / "none")
    assert not placement.bf16_pays.__wrapped__(cpu)
