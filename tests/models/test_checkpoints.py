"""Loading of published checkpoints: what is broken, foreign, too large or out of reach is one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="megen[published] is not installed")

from safetensors.torch import load_file, save_file

import megen
from experiments.tiny_checkpoints import rewrite
from megen.diffusion import denoise
from megen.errors import InputError
from megen.models import checkpoints, published
from megen.models.published import Checkpoint, PublishedBackbone

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(folders: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders / "sdxl", tmp_path / "sdxl"))


def change(path: Path, how: Any) -> None:
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path, {"format": "pt"})


def latent(backbone: PublishedBackbone, prompt: str = "a castle") -> torch.Tensor:
    return denoise.sample(backbone, backbone.condition([prompt]), [1], backbone.spec.times[min(backbone.spec.steps)])


def drop(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop("conv_in.weight")


def foreign(tensors: dict[str, torch.Tensor]) -> None:
    tensors["another.weight"] = torch.zeros(3)


def nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.weight"][0] = float("nan")


def misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.bias"] = torch.zeros(3)


@pytest.mark.parametrize(
    ("how", "why"),
    [(drop, "missing tensors"), (foreign, "unexpected tensors"), (nan, "NaN or infinity"), (misshapen, "cannot be loaded|mismatched")],
)
@pytest.mark.parametrize("component", ["unet", "text_encoder_2"])
def test_a_tensor_that_is_not_as_it_should_be_is_refused(how: Any, why: str, component: str, copy: Path) -> None:
    path = copy / component / ("diffusion_pytorch_model.safetensors" if component == "unet" else "model.safetensors")
    names = {"unet": ("conv_in.weight", "conv_in.bias"), "text_encoder_2": ("text_projection.weight", "text_model.final_layer_norm.bias")}
    weight, bias = names[component]

    def renamed(tensors: dict[str, torch.Tensor]) -> None:
        tensors["conv_in.weight"], tensors["conv_in.bias"] = tensors.pop(weight), tensors.pop(bias)
        how(tensors)
        for own, name in (("conv_in.weight", weight), ("conv_in.bias", bias)):
            if own in tensors:
                tensors[name] = tensors.pop(own)

    change(path, renamed)
    with pytest.raises(InputError, match=why) as caught:
        latent(published.load(str(copy)))
    assert "\n" not in str(caught.value)
    assert component in str(caught.value)


def test_a_file_that_is_cut_short_or_can_run_code_is_refused(copy: Path) -> None:
    path = copy / UNET
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is cut short: download it again"):
        published.load(str(copy))
    path.write_bytes(b"{}")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        published.load(str(copy))
    path.unlink()
    torch.save({}, copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"only diffusion_pytorch_model\.bin, which can run code: megen reads safetensors alone"):
        published.load(str(copy))


def test_code_from_elsewhere_is_not_run(copy: Path) -> None:
    rewrite(copy / "model_index.json", unet=["my_module", "MyNet"])
    with pytest.raises(InputError, match="only classes of diffusers and transformers are loaded"):
        published.load(str(copy))
    rewrite(copy / "model_index.json", unet=["diffusers", "NetOfTomorrow"])
    with pytest.raises(InputError, match="does not have: upgrade diffusers"):
        published.load(str(copy))


def test_a_pipeline_that_no_family_knows_is_named(copy: Path) -> None:
    rewrite(copy / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline")
    with pytest.raises(InputError, match=r"no family is built for StableDiffusionXLImg2ImgPipeline: one of StableDiffusionXLPipeline"):
        published.load(str(copy))
    (copy / "model_index.json").write_text("[1]")
    with pytest.raises(InputError, match="cannot be read"):
        published.load(str(copy))


def test_the_fp16_variant_is_found_by_itself(folders: Path, copy: Path) -> None:
    before = latent(published.load(str(folders / "sdxl")))
    for component, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = copy / component / f"{stem}.safetensors"
        save_file({k: v.half() for k, v in load_file(path).items()}, copy / component / f"{stem}.fp16.safetensors", {"format": "pt"})
        path.unlink()
    backbone = published.load(str(copy))
    assert backbone.precision == torch.float32
    after = latent(backbone)
    assert 0 < (after - before).abs().max() < 0.05 * before.abs().max()


def test_out_of_memory_is_foretold(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 200 kB\n")
    monkeypatch.setattr(checkpoints, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(checkpoints, "load_module", lambda *args: pytest.fail("something was loaded"))
    with pytest.raises(InputError, match=r"needs about 0\.0 GB on cpu, and 0\.0 GB are free"):
        published.load(str(folders / "klein"))


def test_text_encoders_leave_where_asked_and_embeddings_stay(folders: Path) -> None:
    kept = published.load(Checkpoint(str(folders / "sdxl")))
    leaving = published.load(Checkpoint(str(folders / "sdxl"), unload_text=True))
    assert torch.equal(latent(kept), latent(leaving))
    assert leaving.text.pipe.text_encoder is None
    assert kept.text.pipe.text_encoder is not None
    leaving.text.load.clear()  # nothing is loaded again for a prompt that is known
    assert torch.equal(latent(kept), latent(leaving))


def test_a_prompt_of_too_many_tokens_is_refused_and_not_cut(folders: Path) -> None:
    backbone = published.load(str(folders / "sdxl"))
    with pytest.raises(InputError, match="the prompt has 82 tokens, and this backbone reads 77: shorten it"):
        backbone.condition(["castle " * 80])
    framed = published.load(Checkpoint(str(folders / "z-image"), image_px=32))
    with pytest.raises(InputError, match="the prompt has 514 tokens, and this backbone reads 512"):  # with the template around it
        framed.condition(["castle " * 510])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"source": "x", "sampler": "magic"}, "sampler must be one of euler"),
        ({"source": "x", "sampler": []}, "sampler must be one of euler"),
        ({"source": "x", "steps": []}, "steps must be whole numbers"),
        ({"source": "x", "steps": [0]}, "each of steps must lie in"),
        ({"source": "x", "guidance": -1}, "guidance must be"),
        ({"source": "x", "unload_text": 1}, "unload_text must be"),
        ({"source": ""}, "source must name a checkpoint"),
        ({"sampler": "tcd"}, "must be an object with a source"),
        ({"source": "x", "stepps": [1]}, "no more than source, sampler, steps"),
    ],
)
def test_a_backbone_file_is_checked(said: dict[str, object], why: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=why):
        published.load(str(tmp_path / "b.json"))


def test_a_backbone_file_names_folders_beside_itself(copy: Path) -> None:
    path = copy.parent / "fast.json"
    path.write_text(json.dumps({"source": "sdxl", "sampler": "euler-trailing", "steps": [2, 1]}))
    backbone = published.load(str(path))
    assert (backbone.spec.steps, backbone.guidance) == ((1, 2), 1.0)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"use_karras_sigmas": True}, "with use_karras_sigmas is not built: set it to false"),
        ({"prediction_type": "sample"}, "predicts 'sample' is not built"),
        ({"final_sigmas_type": "sigma_min"}, "last level is sigma_min is not built"),
    ],
)
def test_a_scheduler_that_is_not_built_is_refused(options: dict[str, object], why: str, copy: Path) -> None:
    rewrite(copy / "scheduler" / "scheduler_config.json", **options)
    with pytest.raises(InputError, match=why):
        published.load(str(copy))


def test_an_image_that_is_not_made_of_merge_cells_is_refused(folders: Path) -> None:
    with pytest.raises(InputError, match="image_px must be a multiple of 8 for this checkpoint, got 33"):
        published.load(Checkpoint(str(folders / "sdxl"), image_px=33))


def test_low_rank_weights_are_added_to_the_net(folders: Path, tmp_path: Path) -> None:
    plain = published.load(str(folders / "sdxl"))
    net = plain.text.pipe.unet
    name = next(n for n, module in net.named_modules() if n.endswith("attn1.to_q"))
    weight = net.get_submodule(name).weight
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    with_lora = published.load(Checkpoint(str(folders / "sdxl"), lora=str(tmp_path / "lora.safetensors"), lora_scale=0.5))
    assert not torch.equal(latent(plain), latent(with_lora))
    with torch.no_grad():
        weight += 0.5 * up @ down
    torch.testing.assert_close(latent(plain), latent(with_lora), rtol=1e-4, atol=1e-4)
    lora = Checkpoint(str(folders / "sdxl"), lora=str(tmp_path))
    for tensors, why in (
        ({"text_encoder.q.lora_A.weight": down, "text_encoder.q.lora_B.weight": up}, "holds weights of more than the net"),
        ({f"unet.{name}.lora_A.weight": down * float("nan"), f"unet.{name}.lora_B.weight": up}, "NaN or infinity"),
        ({"unet.another.lora_A.weight": down, "unet.another.lora_B.weight": up}, "changes 0 of the 1 weights|is no LoRA"),
        ({"what.weight": down}, "is no LoRA of this net|holds weights of more than the net"),
    ):
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(InputError, match=why):
            published.load(lora)
    (tmp_path / "lora.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        published.load(lora)
    (tmp_path / "second.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds 2 safetensors files: name the one"):
        published.load(lora)


def test_a_sampler_of_another_kind_of_net_is_refused(folders: Path) -> None:
    for kind in ("klein", "z-image", "sana", "sprint"):
        for sampler in ("ddim", "perflow"):
            with pytest.raises(InputError, match="is a flow, and the samplers to choose from are of noise-predicting nets"):
                published.load(Checkpoint(str(folders / kind), sampler=sampler, image_px=64))
    with pytest.raises(InputError, match="makes no times for"):
        published.load(Checkpoint(str(folders / "sdxl"), sampler="lcm", steps=(60,)))
    with pytest.raises(InputError, match="was distilled and takes no guidance"):
        published.load(Checkpoint(str(folders / "klein"), guidance=3.0, image_px=32))


def test_a_decoder_for_other_latents_is_refused(folders: Path, tmp_path: Path) -> None:
    import diffusers

    for name, options in (("wide", {"latent_channels": 16}), ("large", {})):  # the second grows eightfold
        diffusers.AutoencoderTiny(**options).save_pretrained(tmp_path / name)
        with pytest.raises(InputError, match="decodes other latents than this checkpoint's"):
            published.load(Checkpoint(str(folders / "sdxl"), decoder=str(tmp_path / name)))


def test_prompts_that_are_encoded_at_once_are_what_they_are_alone(folders: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    prompts = [" ".join(["castle", "at", "dawn", "fog", "lake"][: 1 + i % 5] * (1 + i // 5)) for i in range(20)]
    own = published.load(str(folders / "sdxl"))
    alone = [own.condition([prompt]).text for prompt in prompts]
    shared = published.load(str(folders / "sdxl"))
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda prompt: shared.condition([prompt]).text, prompts))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_what_latents_mean_does_not_depend_on_the_machine(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megen.models import published as module

    here = published.load(str(folders / "sdxl"))
    monkeypatch.setattr(module, "bf16_pays", lambda device: True)
    there = published.load(str(folders / "sdxl"))
    assert (there.precision, there.digest) == (torch.bfloat16, here.digest)
    assert next(there.decoder.parameters()).dtype == torch.float32


def hub(monkeypatch: pytest.MonkeyPatch, error: Exception | None, files: tuple[str, ...] = ()) -> None:
    """A hub that answers as it is told to."""
    import huggingface_hub

    def model_info(self: object, name: str, timeout: float) -> Any:
        if error is not None:
            raise error
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=f) for f in files])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


def hub_error(kind: str) -> Exception:
    from huggingface_hub import errors

    try:
        import httpx2 as web
    except ImportError:  # of an older hub
        import httpx as web
    response = web.Response(403, request=web.Request("GET", "https://hub"))
    return getattr(errors, kind)("no", response=response)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("GatedRepoError", "is gated: accept its licence on the hub, then run hf auth login"),
        ("RepositoryNotFoundError", "the hub has no owner/model, or not for you: check the name"),
        (None, "the hub cannot be reached and owner/model is not on this machine"),
    ],
)
def test_a_hub_that_refuses_or_is_away_is_one_line(error: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("no network") if error is None else hub_error(error))
    with pytest.raises(InputError, match=why):
        published.load("owner/model")


def test_of_a_hubs_files_those_that_are_read_are_downloaded(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    import huggingface_hub

    files = ("model_index.json", "unet/config.json", "unet/m.safetensors", "unet/m.fp16.safetensors", "vae/m.safetensors", "vae/m.bin")
    files += ("sd_xl_base.safetensors", "README.md", "code.py", "tokenizer/merges.txt")
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options)
        return str(folders / "sdxl")

    hub(monkeypatch, None, files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert published.load("owner/model").spec.name == "owner/model"
    wanted = {"model_index.json", "unet/config.json", "unet/m.fp16.safetensors", "vae/m.safetensors", "tokenizer/merges.txt"}
    assert set(asked["allow_patterns"]) == wanted
    hub(monkeypatch, None, ("weights.bin",))
    with pytest.raises(InputError, match="it is no checkpoint of a diffusers pipeline"):
        published.load("owner/model")


@pytest.mark.parametrize("kind", ["sdxl", "sana", "klein", "z-image"])
@pytest.mark.parametrize("analog", [False, True])
def test_a_published_checkpoint_goes_the_whole_way(kind: str, analog: bool, folders: Path, tmp_path: Path) -> None:
    px = {"sdxl": 32, "sana": 64}.get(kind, 32)
    (tmp_path / "b.json").write_text(json.dumps({"source": str(folders / kind), "image_px": px, "steps": [2, 4]}))
    pipe = megen.Pipeline.load(str(tmp_path / "b.json"), analog=analog)
    result = pipe("a castle at dawn", steps=4, merge_ratio=0.5)
    assert result.image.shape == (px, px, 3)
    assert result.report.payload_bits.total == 8 * len(megen_bytes(result)) or analog
    again = pipe("a castle at dawn", steps=4, merge_ratio=0.5)
    assert (again.image == result.image).all()
    clean = pipe.reference("a castle at dawn", steps=4).astype(int)
    assert abs(clean - pipe("a castle at dawn", steps=4, quantiser_bits=8).image).mean() < 25 or analog


def megen_bytes(result: Any) -> bytes:
    payload = result.transmission.payload
    return b"".join((payload.header, payload.merge_map, *payload.features))
