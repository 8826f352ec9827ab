"""What differs between families of published checkpoints: how each encodes prompts, runs its net, and holds its latents.

A new family is one function from a loaded diffusers pipeline to a `Family`; see docs/extending.md.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from megen.backbone import Condition
from megen.errors import InputError

CLIP_WORDS = 77
LONG_PROMPT = 512  # tokens of Qwen3, as klein and Z-Image read
SANA_WORDS = 300
FREE, EMBEDDED, UNGUIDED = "free", "embedded", "none"  # classifier-free; an input of the net; none at all


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt: a vector a token, one vector in all (or none of its numbers), and which tokens there are."""

    text: Float[Tensor, "1 n d"]
    pooled: Float[Tensor, "1 e"]
    mask: Bool[Tensor, "1 n"]


@dataclass(frozen=True)
class Family:
    """How one family is run. `predict(states, times, condition)` is the net's output, in the shape of `latent`.

    `fold`: how many latent places a token's side spans. `shift`: as `samplers.sampler_of`'s.
    `framed`: the prompt as the tokenizer reads it, where a template is put around it.
    """

    encode: Callable[[str], Prompt]
    null: Callable[[], Prompt]
    predict: Callable[[Tensor, Tensor, Condition], Tensor]
    decode: Callable[[Tensor], Tensor]
    encode_images: Callable[[Tensor], Tensor]
    latent: tuple[int, int, int]
    fold: int
    image_px: tuple[int, int]
    max_words: int
    guidance: float
    guided: str = FREE
    shift: Callable[[int], float] | None = None
    framed: Callable[[str], str] = str


def family_of(pipe: Any, image_px: int | None) -> Family:
    """The family of a loaded pipeline. Errors: InputError on one that no function here knows."""
    known = {
        "StableDiffusionXLPipeline": sdxl,
        "SanaPipeline": sana,
        "SanaSprintPipeline": sana,
        "Flux2KleinPipeline": flux2_klein,
        "ZImagePipeline": z_image,
    }
    kind = type(pipe).__name__
    if kind not in known:
        raise InputError(f"no family is built for {kind}: one of {', '.join(known)} is, and docs/extending.md shows how to add one")
    return known[kind](pipe, image_px)


def sdxl(pipe: Any, image_px: int | None) -> Family:
    """SDXL and what is distilled from it: two CLIP encoders, size and crop as further conditions, null rows of zeros where it says so."""
    net, vae = pipe.unet, pipe.vae
    grid, side = grid_of(image_px, net.config.sample_size, pipe.vae_scale_factor, fold=2)
    width = net.config.time_cond_proj_dim
    guided = FREE if width is None else EMBEDDED

    def encode(text: str) -> Prompt:
        own, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False, device=net.device)
        return prompt_of(own, pooled)

    def null() -> Prompt:
        _, own, _, pooled = pipe.encode_prompt("", do_classifier_free_guidance=True, device=net.device)
        return prompt_of(own, pooled)

    def predict(states: Tensor, times: Tensor, condition: Condition) -> Tensor:
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=condition.text.dtype, device=states.device).expand(len(states), -1)
        strength = None if width is None else _sines(condition.guidance - 1, width).to(states.dtype)
        added = {"text_embeds": condition.pooled, "time_ids": sizes}
        out: Tensor = net(
            states, times, encoder_hidden_states=condition.text, timestep_cond=strength, added_cond_kwargs=added, return_dict=False
        )[0]
        return out

    return Family(
        encode=encode,
        null=null,
        predict=predict,
        **scaled(vae),
        latent=(net.config.in_channels, grid, grid),
        fold=2,
        image_px=(side, side),
        max_words=CLIP_WORDS,
        guidance=5.0 if guided == FREE else 8.0,
        guided=guided,
    )


def sana(pipe: Any, image_px: int | None) -> Family:
    """SANA and SANA-Sprint: Gemma-2 behind an instruction that belongs to the model, a token a latent place."""
    net, vae = pipe.transformer, pipe.vae
    grid, side = grid_of(image_px, net.config.sample_size, pipe.vae_scale_factor, fold=1)
    sprint = "guidance" in inspect.signature(net.forward).parameters and bool(net.config.guidance_embeds)
    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default

    def encode(text: str) -> Prompt:
        options: dict[str, Any] = {} if sprint else {"do_classifier_free_guidance": False}
        own, mask = pipe.encode_prompt(text, device=net.device, complex_human_instruction=instruction, **options)[:2]
        return Prompt(own, own.new_zeros(1, 0), mask.bool())

    def null() -> Prompt:
        _, _, own, mask = pipe.encode_prompt("", do_classifier_free_guidance=True, device=net.device)
        return Prompt(own, own.new_zeros(1, 0), mask.bool())

    def predict(states: Tensor, times: Tensor, condition: Condition) -> Tensor:
        strength = {"guidance": (condition.guidance * net.config.guidance_embeds_scale).to(states.dtype)} if sprint else {}
        out: Tensor = net(
            states,
            encoder_hidden_states=condition.text,
            encoder_attention_mask=condition.mask.long(),
            timestep=times if sprint else times * net.config.timestep_scale,
            return_dict=False,
            **strength,
        )[0]
        channels = net.config.in_channels
        return out[:, :channels] if out.shape[1] == 2 * channels else out  # a learned variance is not read

    return Family(
        encode=encode,
        null=null,
        predict=predict,
        **scaled(vae),
        latent=(net.config.in_channels, grid, grid),
        fold=1,
        image_px=(side, side),
        max_words=SANA_WORDS,
        guidance=4.5,
        guided=EMBEDDED if sprint else FREE,
    )


def flux2_klein(pipe: Any, image_px: int | None) -> Family:
    """FLUX.2 klein: three hidden layers of Qwen3, latents in patches of 2 x 2, normalised by the statistics of a batch norm."""
    net, vae = pipe.transformer, pipe.vae
    grid, side = grid_of(image_px, pipe.default_sample_size, pipe.vae_scale_factor, fold=2)
    grid, channels = grid // 2, net.config.in_channels
    mean = vae.bn.running_mean.view(1, -1, 1, 1).float()
    scale = (vae.bn.running_var.view(1, -1, 1, 1).float() + vae.config.batch_norm_eps).sqrt()
    unguided = bool(pipe.config.is_distilled)

    def encode(text: str) -> Prompt:
        own, _ = pipe.encode_prompt(text, device=net.device)
        return prompt_of(own)

    def predict(states: Tensor, times: Tensor, condition: Condition) -> Tensor:
        rows = len(states)
        out: Tensor = net(
            hidden_states=states.flatten(2).transpose(1, 2),
            timestep=times / 1000,
            guidance=None,
            encoder_hidden_states=condition.text,
            txt_ids=pipe._prepare_text_ids(condition.text).to(states.device),
            img_ids=pipe._prepare_latent_ids(states).to(states.device),
            return_dict=False,
        )[0]
        return out.transpose(1, 2).reshape(rows, channels, grid, grid)

    def decode(latents: Tensor) -> Tensor:
        own = latents * scale.to(latents.device) + mean.to(latents.device)
        return _pixels(vae.decode(torch.nn.functional.pixel_shuffle(own, 2).to(vae.dtype), return_dict=False)[0])

    def encode_images(images: Tensor) -> Tensor:
        own = torch.nn.functional.pixel_unshuffle(vae.encode((2 * images - 1).to(vae.dtype)).latent_dist.mode().float(), 2)
        out: Tensor = (own - mean.to(own.device)) / scale.to(own.device)
        return out

    return Family(
        encode=encode,
        null=lambda: encode(""),
        predict=predict,
        decode=decode,
        encode_images=encode_images,
        latent=(channels, grid, grid),
        fold=1,
        image_px=(side, side),
        max_words=LONG_PROMPT,
        guidance=1.0 if unguided else 4.0,
        guided=UNGUIDED if unguided else FREE,
        shift=lambda steps: klein_shift(grid * grid, steps),
        framed=lambda text: chat(pipe.tokenizer, text, thinking=False),
    )


def z_image(pipe: Any, image_px: int | None) -> Family:
    """Z-Image: Qwen3's last layer but one, as many tokens as the prompt has; the net is asked at the share of data, and gives its negative.

    Its own scale of guidance g is 1 + g here.
    """
    net, vae = pipe.transformer, pipe.vae
    default = 1024 // pipe.vae_scale_factor
    grid, side = grid_of(image_px, default, pipe.vae_scale_factor, fold=2)

    def encode(text: str) -> Prompt:
        own = pipe.encode_prompt(text, device=net.device, do_classifier_free_guidance=False)[0][0][None]
        return prompt_of(own)

    def predict(states: Tensor, times: Tensor, condition: Condition) -> Tensor:
        texts = [row[mask] for row, mask in zip(condition.text, condition.mask, strict=True)]
        out = net(list(states.unsqueeze(2).unbind(0)), 1 - times / 1000, texts, return_dict=False)[0]
        return -torch.stack(list(out)).squeeze(2)

    return Family(
        encode=encode,
        null=lambda: encode(""),
        predict=predict,
        **scaled(vae),
        latent=(net.in_channels, grid, grid),
        fold=2,
        image_px=(side, side),
        max_words=LONG_PROMPT,
        guidance=1.0,
        shift=lambda steps: image_shift(pipe.scheduler.config, grid * grid // 4),
        framed=lambda text: chat(pipe.tokenizer, text, thinking=True),
    )


def chat(tokenizer: Any, text: str, *, thinking: bool) -> str:
    """A prompt as a user's message to Qwen3."""
    messages = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking))


def tiny_decoder(module: Any) -> Callable[[Tensor], Tensor]:
    """Decoding by a small autoencoder of the TAESD kind, which reads latents as the net leaves them."""
    return lambda latents: _pixels(module.decode(latents.to(module.dtype), return_dict=False)[0])


def klein_shift(tokens: int, steps: int) -> float:
    """FLUX.2's exponent of the time shift: linear in tokens at 10 and at 200 steps, in steps between; at 200 beyond 4,300 tokens."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return slope * steps + at_200 - 200 * slope


def image_shift(config: Any, tokens: int) -> float:
    """The exponent of the time shift, linear in tokens between the scheduler's smallest and largest image."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(least + (most - least) * (tokens - low) / (high - low))


def prompt_of(text: Tensor, pooled: Tensor | None = None) -> Prompt:
    """A prompt all of whose tokens count."""
    pooled = text.new_zeros(1, 0) if pooled is None else pooled
    return Prompt(text, pooled, text.new_ones(text.shape[:2], dtype=torch.bool))


def grid_of(image_px: int | None, default: int, factor: int, fold: int) -> tuple[int, int]:
    """Side of the latent and of the image. Errors: InputError on an image that is not made of merge cells."""
    if not isinstance(default, int):
        raise InputError(f"the checkpoint says no size of its latents, but {default!r}: give image_px")
    side = default * factor if image_px is None else image_px
    cell = factor * fold * 2  # 2 x 2 tokens, which merge
    if side < cell or side % cell:
        raise InputError(f"image_px must be a multiple of {cell} for this checkpoint, got {side}")
    return side // factor, side


def scaled(vae: Any) -> dict[str, Any]:
    """Decode and encode by one factor, and where the autoencoder has them by a shift, or by a mean and a deviation a channel."""
    config = vae.config
    mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    factor, shift = config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
    high = torch.float32 if getattr(config, "force_upcast", False) else vae.dtype  # SDXL's overflows in fp16
    if vae.dtype != high:
        vae.to(high)
    if mean is not None and std is not None:
        factor, shift = (factor / torch.tensor(std)).view(1, -1, 1, 1), torch.tensor(mean).view(1, -1, 1, 1)

    def to(value: Any, like: Tensor) -> Any:
        return value.to(like.device) if isinstance(value, Tensor) else value

    def decode(latents: Tensor) -> Tensor:
        own = latents / to(factor, latents) + to(shift, latents)
        return _pixels(vae.decode(own.to(high), return_dict=False)[0])

    def encode_images(images: Tensor) -> Tensor:
        coded = vae.encode((2 * images - 1).to(high))
        own = (coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded[0]).float()
        out: Tensor = (own - to(shift, own)) * to(factor, own)
        return out

    return {"decode": decode, "encode_images": encode_images}


def _pixels(image: Tensor) -> Tensor:
    return (image.float() / 2 + 0.5).clamp(0, 1)


def _sines(values: Float[Tensor, "b"], width: int) -> Float[Tensor, "b w"]:
    """The embedding of a guidance that the net reads: sines and cosines of 1000 times the value."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=values.device) * -(math.log(10000.0) / (half - 1)))
    angles = 1000 * values[:, None] * rates
    out = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.nn.functional.pad(out, (0, width % 2))
