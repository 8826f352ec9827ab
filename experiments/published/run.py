"""FLOPs and parameters of published models at 1024 px, counted on the meta device: `python -m experiments.published.run`.

The configurations are those that the checkpoints publish; no weight is loaded and nothing is run. A multiply-add counts twice.
Attention counts by its matrix products. Text encoders are not counted.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments import common
from megen.control.scenarios.reference import S_PER_TFLOP
from megen.cost import device_profile
from megen.cost.device_profile import DeviceProfile
from megen.models.light_decoder import LightReceiver, config_for

SDXL_UNET = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
KL = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
SANA = {
    "in_channels": 32, "out_channels": 32, "num_layers": 20, "num_attention_heads": 70, "attention_head_dim": 32,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240, "caption_channels": 2304,
    "sample_size": 32, "patch_size": 1, "mlp_ratio": 2.5,
}  # fmt: skip
SANA_SMALL = SANA | {
    "num_layers": 28, "num_attention_heads": 36, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72,
    "cross_attention_dim": 1152,
}  # fmt: skip
KLEIN = {
    "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 7680, "guidance_embeds": False,
}  # fmt: skip

SHIPPED = (  # profile, net, decoder, whether guidance doubles a step
    ("sana-1600m", "SANA 1.6 B transformer", "DC-AE f32c32 decoder", True),
    ("sana-sprint-1600m", "SANA 1.6 B transformer", "DC-AE f32c32 decoder", False),
    ("flux2-klein-4b", "FLUX.2 klein 4 B transformer", "KL f8 decoder (SDXL)", False),
    ("z-image-turbo", "Z-Image 6 B transformer", "KL f8 decoder (SDXL)", False),
)


def counted(net: torch.nn.Module, work: Callable[[], object]) -> dict[str, float]:
    """TFLOP of a call, and billions of parameters."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return {"tflop": counter.get_total_flops() / 1e12, "parameters_b": sum(p.numel() for p in net.parameters()) / 1e9}


def nets() -> dict[str, dict[str, float]]:
    """Every net by name."""
    from diffusers import (
        AutoencoderDC,
        AutoencoderKL,
        AutoencoderTiny,
        Flux2Transformer2DModel,
        SanaTransformer2DModel,
        UNet2DConditionModel,
        ZImageTransformer2DModel,
    )

    z, one = torch.zeros, torch.ones(1)
    out: dict[str, dict[str, float]] = {}
    unet = UNet2DConditionModel(**SDXL_UNET)
    added = {"text_embeds": z(1, 1280), "time_ids": z(1, 6)}
    text = z(1, 77, 2048)
    out["SDXL U-Net"] = counted(unet, lambda: unet(z(1, 4, 128, 128), one, encoder_hidden_states=text, added_cond_kwargs=added))
    for name, config in (("SANA 1.6 B", SANA), ("SANA 0.6 B", SANA_SMALL)):
        sana = SanaTransformer2DModel(**config)
        out[f"{name} transformer"] = counted(
            sana, lambda sana=sana: sana(z(1, 32, 32, 32), encoder_hidden_states=z(1, 300, 2304), timestep=one)
        )
    klein = Flux2Transformer2DModel(**KLEIN)
    out["FLUX.2 klein 4 B transformer"] = counted(
        klein,
        lambda: klein(
            hidden_states=z(1, 4096, 128), timestep=one, encoder_hidden_states=z(1, 512, 7680), txt_ids=z(1, 512, 4), img_ids=z(1, 4096, 4)
        ),
    )
    image = ZImageTransformer2DModel()
    out["Z-Image 6 B transformer"] = counted(image, lambda: image([z(16, 1, 128, 128)], one, [z(128, 2560)]))
    kl = AutoencoderKL(**KL, latent_channels=4)
    out["KL f8 decoder (SDXL)"] = counted(kl.decoder, lambda: kl.decode(z(1, 4, 128, 128)))
    tiny = AutoencoderTiny()
    out["TAESD decoder"] = counted(tiny.decoder, lambda: tiny.decode(z(1, 4, 128, 128)))
    dc = AutoencoderDC(**dc_config(AutoencoderDC))
    out["DC-AE f32c32 decoder"] = counted(dc.decoder, lambda: dc.decode(z(1, 32, 32, 32)))
    for name, shape in (("scenes, SANA", (32, 32, 32)), ("SDXL", (16, 64, 64)), ("Z-Image", (64, 64, 64)), ("FLUX.2", (128, 64, 64))):
        light = LightReceiver(config_for(shape, (1024, 1024)))
        out[f"light decoder ({name})"] = counted(light, lambda light=light, shape=shape: light.receive(z(1, *shape), z(1, 4, *shape[1:])))
    return out


def dc_config(kind: Any) -> dict[str, Any]:
    """DC-AE f32c32 as SANA's checkpoints publish it: the class's defaults but for its blocks."""
    wide = (128, 256, 512, 512, 1024, 1024)
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((), (), (), (5,), (5,), (5,))
    config = {
        "latent_channels": 32, "encoder_block_types": blocks, "decoder_block_types": blocks, "encoder_block_out_channels": wide,
        "decoder_block_out_channels": wide, "encoder_layers_per_block": (2, 2, 2, 3, 3, 3), "decoder_layers_per_block": (3,) * 6,
        "encoder_qkv_multiscales": scales, "decoder_qkv_multiscales": scales, "upsample_block_type": "interpolate",
        "downsample_block_type": "conv",
    }  # fmt: skip
    return {name: value for name, value in config.items() if name in inspect.signature(kind.__init__).parameters}


def profiles(rows: dict[str, dict[str, float]]) -> dict[str, DeviceProfile]:
    """An A100 for each family: FLOPs counted, power measured on SDXL, and all seconds assumed at SDXL's measured 7.9 ms a TFLOP."""
    known = device_profile.load("a100")
    out = {}
    for name, net, decoder, doubled in SHIPPED:
        step, decode = (1 + doubled) * rows[net]["tflop"], rows[decoder]["tflop"]
        seconds = {"refine_s": 0.0, "step_s": S_PER_TFLOP * step, "decode_s": S_PER_TFLOP * decode, "decode_torch_s": S_PER_TFLOP * decode}
        counts = {"step_gflop": 1e3 * step, "decode_gflop": 1e3 * decode}
        guided = " with guidance" * doubled
        source = f"counted by experiments.published.run: {step:.3g} TFLOP a step{guided}, {decode:.3g} for its decoder ({decoder}); "
        source += "seconds assumed at the 7.9 ms a TFLOP that SDXL takes on an A100, whose power this is; text encoder as SDXL's"
        out[f"a100-{name}"] = replace(
            known, name=f"a100-{name}", source=source, backbone=name, assumed=(*known.assumed, "step_s", "power_w"), **seconds, **counts
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write the device profiles that are bundled")
    args = parser.parse_args()
    with torch.device("meta"):
        rows = nets()
    if args.ship:
        for name, profile in profiles(rows).items():
            device_profile.save(profile, device_profile.ASSETS / f"{name}.json", common.made_by())
    common.write("published", {"nets": rows, "side_px": 1024, "counted": "on the meta device, from the published configurations"})
    for name, row in rows.items():
        print(f"{name:34} {row['tflop']:8.3f} TFLOP  {row['parameters_b']:7.3f} B")


if __name__ == "__main__":
    main()
