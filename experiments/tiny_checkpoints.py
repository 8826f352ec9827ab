"""Small checkpoints with random weights, one of each published family, written as diffusers writes them.

Nothing that they draw means anything: they are for tests of the code that loads and runs them, and for measurements of a part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

PIPELINES = ("sdxl", "sdxl-lcm", "sana", "sprint", "klein", "z-image")
WORDS = [
    "a",
    "an",
    "the",
    "castle",
    "at",
    "dawn",
    "fog",
    "lighthouse",
    "windmill",
    "dusk",
    "green",
    "hills",
    "lake",
    "night",
    "rain",
    "of",
    "in",
    "on",
    "and",
    "with",
]
CHAT = "{% for m in messages %}<s> {{ m['content'] }}{% endfor %}{% if add_generation_prompt %} <a>{% endif %}"


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write one checkpoint; returns its folder."""
    torch.manual_seed(seed)
    make = {"sdxl": sdxl, "sdxl-lcm": lambda: sdxl(lcm=True), "sana": sana, "sprint": lambda: sana(sprint=True)}
    make |= {"klein": klein, "z-image": z_image}
    pipe = make[kind]()
    if kind == "klein":  # statistics that are not those of a new batch norm
        pipe.vae.bn.running_mean.normal_()
        pipe.vae.bn.running_var.uniform_(0.5, 2.0)
    pipe.save_pretrained(folder)
    if kind == "sdxl":
        rewrite(folder / "scheduler" / "scheduler_config.json", set_alpha_to_one=False)  # as SDXL's own says
    return folder


def tokenizer(length: int, pad: str = "<p>") -> Any:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<p>", "<s>", "<e>", "<a>", "<u>"]
    words = {word: i for i, word in enumerate([*special, *WORDS, *"abcdefghijklmnopqrstuvwxyz"])}
    own = Tokenizer(models.WordLevel(words, unk_token="<u>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.post_processor = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 1), ("<e>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="<e>", unk_token="<u>", pad_token=pad, model_max_length=length, chat_template=CHAT
    )


def clip(project: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4, projection_dim=32,
        max_position_embeddings=77, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if project else CLIPTextModel)(config).eval()


def sdxl(lcm: bool = False, vae: Any = None) -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=80, cross_attention_dim=64,
        time_cond_proj_dim=32 if lcm else None,
    )  # fmt: skip
    vae = vae or AutoencoderKL(
        block_out_channels=(16, 32), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32, scaling_factor=0.13025,
    )  # fmt: skip
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = LCMScheduler(**betas) if lcm else EulerDiscreteScheduler(**betas, timestep_spacing="leading")
    return StableDiffusionXLPipeline(
        vae,
        clip(False),
        clip(True),
        tokenizer(77),
        tokenizer(77),
        unet,
        scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def stable_diffusion() -> Any:
    """Of a family that megen does not know."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), cross_attention_dim=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32, scaling_factor=0.18215,
    )  # fmt: skip
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False)
    return StableDiffusionPipeline(vae, clip(False), tokenizer(77), unet, scheduler, None, None, requires_safety_checker=False)


def sana(sprint: bool = False) -> Any:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaSprintPipeline,
        SanaTransformer2DModel,
        SCMScheduler,
    )
    from transformers import Gemma2Config, Gemma2Model

    net = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16, sample_size=32, guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads" if sprint else None,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    text = Gemma2Model(
        Gemma2Config(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=8, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    if sprint:
        return SanaSprintPipeline(
            tokenizer(300), text, vae, net, SCMScheduler(num_train_timesteps=1000, prediction_type="trigflow", sigma_data=0.5)
        )
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    return SanaPipeline(tokenizer(300), text, vae, net, scheduler)


def qwen(layers: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def klein() -> Any:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel

    net = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15)
    return Flux2KleinPipeline(scheduler, vae, qwen(28), tokenizer(512), net, is_distilled=True)


def z_image() -> Any:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    net = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[600, 64, 64],
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=16,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32, scaling_factor=0.3611, shift_factor=0.1159,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), vae, qwen(2), tokenizer(512), net)


def rewrite(path: Path, **changes: object) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
