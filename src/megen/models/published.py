"""Published checkpoints as a `Backbone`: SDXL, SANA, FLUX.2 klein and Z-Image through diffusers, each by its own family and sampler.

A backbone is named by a hub name, by a folder, or by a JSON file that says how it is run (`Checkpoint`).
"""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from megen.backbone import BackboneSpec, Condition
from megen.errors import InputError, RunError
from megen.models import checkpoints, lora, samplers
from megen.models.families import EMBEDDED, UNGUIDED, Family, Prompt, family_of, tiny_decoder
from megen.models.placement import bf16_pays
from megen.models.samplers import Sampler
from megen.models.text_parts import TextParts
from megen.types import check_number, check_type

MERGE_RATIOS = (0.0, 0.25, 0.5, 0.75)
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {  # by name: a scheduler of diffusers, and what of its configuration is set
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    "euler-trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "leading", "clip_sample": False}),
    "ddim-trailing": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
    "tcd": ("TCDScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}),
    "perflow": ("DDIMScheduler", {"clip_sample": False}),
}


@dataclass(frozen=True)
class Checkpoint:
    """Which published checkpoint, and how it is run; what is None the checkpoint or its family says.

    `source`: a hub name or a folder. `sampler`: one of `SAMPLERS`. `lora`: a safetensors file for the net, a folder with one, or
    owner/model/file on the hub. `receiver`: a folder with the user equipment's half. `decoder`: a hub name or a folder of an
    AutoencoderTiny that decodes instead. `unload_text`: text encoders leave memory after each prompt that is new. Errors: InputError.
    """

    source: str
    sampler: str | None = None
    steps: tuple[int, ...] | None = None
    guidance: float | None = None
    image_px: int | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    receiver: str | None = None
    decoder: str | None = None
    unload_text: bool = False

    def __post_init__(self) -> None:
        check_type("source", self.source, str)
        if not self.source:
            raise InputError("source must name a checkpoint: a hub name such as owner/model, or a folder")
        if self.sampler is not None and (not isinstance(self.sampler, str) or self.sampler not in SAMPLERS):
            raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.steps is not None:
            if not isinstance(self.steps, tuple) or not self.steps:
                raise InputError(f"steps must be whole numbers, at least one of them, got {self.steps!r}")
            for steps in self.steps:
                check_number("each of steps", steps, 1, 1000, whole=True)
            object.__setattr__(self, "steps", tuple(sorted({int(n) for n in self.steps})))
        if self.guidance is not None:
            check_number("guidance", self.guidance, 0)
        if self.image_px is not None:
            check_number("image_px", self.image_px, 1, whole=True)
            object.__setattr__(self, "image_px", int(self.image_px))
        for name in ("lora", "receiver", "decoder"):
            if getattr(self, name) is not None:
                check_type(name, getattr(self, name), str)
        check_number("lora_scale", self.lora_scale)
        check_type("unload_text", self.unload_text, bool)

    @classmethod
    def read(cls, name_or_path: str) -> Checkpoint:
        """A hub name or a folder as it is, or what a JSON file says; folders in a file are relative to it. Errors: InputError."""
        path = Path(name_or_path)
        if path.suffix != ".json":
            return cls(name_or_path)
        try:
            said = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read as a backbone file ({error})") from error
        known = [field.name for field in fields(cls)]
        if not isinstance(said, dict) or "source" not in said or not said.keys() <= set(known):
            raise InputError(f"{path} must be an object with a source, and no more than {', '.join(known)}")
        for name in ("source", "lora", "receiver", "decoder"):
            if isinstance(said.get(name), str) and said[name] and (path.parent / said[name]).exists():
                said[name] = str(path.parent / said[name])
        if isinstance(said.get("steps"), list):
            said["steps"] = tuple(said["steps"])
        return cls(**said)


class PublishedBackbone:
    """A `Backbone` of one loaded pipeline. Rows are folded latents: a token's places are channels of one place.

    `digest`: of the autoencoder and its settings, which say what the latents mean. `decoder`: the net that decodes.
    """

    def __init__(
        self, checkpoint: Checkpoint, family: Family, sampler: Sampler, text: TextParts, digest: str, decoder: torch.nn.Module
    ) -> None:
        self.checkpoint, self.decoder = checkpoint, decoder
        channels, height, width = family.latent
        shape = (channels * family.fold**2, height // family.fold, width // family.fold)
        self.family, self.sampler, self.text, self.digest = family, sampler, text, digest
        own = family.guidance if sampler.guidance is None or family.guided == EMBEDDED else sampler.guidance
        self.guidance = 1.0 if family.guided == UNGUIDED else own if checkpoint.guidance is None else checkpoint.guidance
        self._spec = BackboneSpec(
            Path(checkpoint.source).resolve().name if Path(checkpoint.source).is_dir() else checkpoint.source,
            shape,
            family.image_px,
            sampler.times,
            MERGE_RATIOS,
            family.max_words,
            start_scale=sampler.start_scale,
            stochastic=sampler.kappa is not None,
            memory=sampler.channels(shape[0]),
        )

    @property
    def spec(self) -> BackboneSpec:
        """What is offered."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where the net runs."""
        return self.text.device

    @property
    def precision(self) -> torch.dtype:
        """Of the net's weights."""
        return self.text.dtype

    def condition(self, prompts: Sequence[str], guidance: float | None = None) -> Condition:
        """Encode prompts, each alone; "" is the empty prompt, which is not the null one of every family.

        Errors: InputError on too many tokens.
        """
        strength = self.guidance if guidance is None else guidance
        rows = [self.text.encoded(prompt, self.family) for prompt in prompts]
        free = self.family.guided not in (EMBEDDED, UNGUIDED) and strength != 1.0
        null = self._condition([self.text.null(self.family)], 1.0, None) if free else None
        return self._condition(rows, strength, null)

    def _condition(self, rows: list[Prompt], strength: float, null: Condition | None) -> Condition:
        words = max(row.text.shape[1] for row in rows)
        text = torch.cat([F.pad(row.text, (0, 0, 0, words - row.text.shape[1])) for row in rows])
        mask = torch.cat([F.pad(row.mask, (0, words - row.mask.shape[1])) for row in rows])
        return Condition(text, torch.cat([row.pooled for row in rows]), mask, torch.full((len(rows),), strength, device=text.device), null)

    def step(
        self, z: Float[Tensor, "b c h w"], s: Float[Tensor, "b"], t: Float[Tensor, "b"], condition: Condition, noise: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The sampler's step, guided for each row. Errors: RunError where the net gives NaN or infinity."""
        out = self.sampler.step(lambda states, times: self._output(states, times, condition), z, s, t, noise)
        if not torch.isfinite(out).all():
            raise RunError("the net gave NaN or infinity: its weights are broken, or overflow in this precision")
        return out

    def _output(self, states: Tensor, times: Tensor, condition: Condition) -> Tensor:
        """The net's output, guided where a row has a guidance other than 1: o_null + g (o_text - o_null)."""
        own = self.unfold(states).to(self.precision)
        if condition.null is None:
            return self.fold(self.family.predict(own, times, condition).float())
        twice = Condition.cat([condition, condition.null.expand(len(own))])
        guided, null = self.family.predict(torch.cat([own, own]), torch.cat([times, times]), twice).float().chunk(2)
        strength = condition.guidance[:, None, None, None]
        return self.fold(torch.where(strength == 1, guided, null + strength * (guided - null)))

    def fold(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """The net's layout to one place a token."""
        return F.pixel_unshuffle(latents, self.family.fold)

    def unfold(self, latents: Float[Tensor, "b c2 h2 w2"]) -> Float[Tensor, "b c h w"]:
        """One place a token to the net's layout."""
        return F.pixel_shuffle(latents, self.family.fold)

    @torch.inference_mode()
    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Latents to images in [0, 1]."""
        return self.family.decode(self.unfold(z.float()))

    @torch.inference_mode()
    def encode_images(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] to latents."""
        return self.fold(self.family.encode_images(images).float())


def load(checkpoint: Checkpoint | str, device: str = "cpu", family: Callable[[Any, int | None], Family] = family_of) -> PublishedBackbone:
    """Load a checkpoint strictly; `family`: a function of one's own for a pipeline that megen does not know.

    Errors: InputError where it is missing, gated, foreign, broken or too large for the free memory.
    """
    own = Checkpoint.read(checkpoint) if isinstance(checkpoint, str) else checkpoint
    with checkpoints.quiet():
        return _loaded(own, device, family)


def _loaded(own: Checkpoint, device: str, family: Callable[[Any, int | None], Family]) -> PublishedBackbone:
    folder, on = checkpoints.folder_of(own.source), torch.device(device)
    index = checkpoints.read_index(folder)
    kinds = checkpoints.components_of(folder, index)
    dtype = torch.bfloat16 if bf16_pays(on) else torch.float32
    nets = {name: kind for name, kind in kinds.items() if issubclass(kind, torch.nn.Module)}
    texts = {name for name in nets if name.startswith("text_encoder")}
    sizes = {name: checkpoints.numbers_in(folder / name) for name in nets}
    missing = {"vae", "scheduler"} - kinds.keys()
    if missing or not {"unet", "transformer"} & kinds.keys():
        raise InputError(f"{own.source} lacks {' and '.join(sorted(missing)) or 'a net'}: it is no whole checkpoint")
    types = {name: torch.float32 if name == "vae" else dtype for name in nets}  # what latents mean is the same on every machine
    checkpoints.check_memory(int(checkpoints.WORKING * sum(types[n].itemsize * sizes[n] for n in nets)), on, own.source)

    def component(name: str) -> torch.nn.Module:
        return checkpoints.load_module(kinds[name], folder / name, types[name]).to(on)

    parts: dict[str, Any] = {name: component(name) for name in nets if name not in texts}
    parts |= {name: checkpoints.load_plain(kind, folder / name) for name, kind in kinds.items() if name not in nets}
    pipe = _pipeline(index, parts, texts)
    if own.lora is not None:
        lora.add(pipe, "unet" if "unet" in parts else "transformer", own.lora, own.lora_scale)
    built, small = family(pipe, own.image_px), None
    if own.guidance not in (None, 1.0) and built.guided == UNGUIDED:
        raise InputError(f"{own.source} was distilled and takes no guidance: leave it out")
    if own.decoder is not None:
        small = _small_decoder(own.decoder, pipe, built).to(on)
        built = replace(built, decode=tiny_decoder(small))
    text = TextParts(pipe, {name: partial(component, name) for name in sorted(texts)}, not own.unload_text, on, dtype)
    text.check()
    return PublishedBackbone(own, built, _sampler(pipe, own, built), text, f"{crc_of(pipe.vae):08x}", small or pipe.vae)


def _small_decoder(source: str, pipe: Any, family: Family) -> Any:
    """An AutoencoderTiny for the latents of a family. Errors: InputError on one for others."""
    import diffusers

    small: Any = checkpoints.load_module(diffusers.AutoencoderTiny, checkpoints.part_of(source), torch.float32)
    fits = small.config.latent_channels == pipe.vae.config.latent_channels == family.latent[0]
    grows = 2 ** (len(small.config.decoder_block_out_channels) - 1)
    if not fits or grows * family.latent[1] != family.image_px[1]:
        raise InputError(f"{source} decodes other latents than this checkpoint's: take one that was made for it")
    return small


def _pipeline(index: dict[str, Any], parts: dict[str, Any], texts: set[str]) -> Any:
    import diffusers

    kind = getattr(diffusers, index["_class_name"], None)
    if not inspect.isclass(kind) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise InputError(f"this version of diffusers has no {index['_class_name']}: upgrade diffusers")
    options = {name: value for name, value in index.items() if not name.startswith("_") and not isinstance(value, list)}
    options |= {name: None for name, value in index.items() if value == [None, None]}  # a part that it may have and has not
    if kind.__name__ == "StableDiffusionXLPipeline":
        options["add_watermarker"] = False
    try:
        return kind(**parts, **dict.fromkeys(texts), **options)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the checkpoint's parts do not make a {kind.__name__} ({error}): download it again") from error


def _sampler(pipe: Any, own: Checkpoint, family: Family) -> Sampler:
    import diffusers

    scheduler = pipe.scheduler
    straight = not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas")
    if own.sampler is not None and straight:
        raise InputError(f"{own.source} is a flow, and the samplers to choose from are of noise-predicting nets: leave sampler out")
    if own.sampler is not None:
        kind, options = SAMPLERS[own.sampler]
        scheduler = getattr(diffusers, kind).from_config(scheduler.config, **options)
    if own.sampler == "perflow":
        return samplers.perflow(samplers.signals_of(scheduler), own.steps)
    return samplers.sampler_of(scheduler, own.steps, family.shift)


def crc_of(vae: torch.nn.Module) -> int:
    """CRC-32 of an autoencoder's decoder and settings: features of one mean nothing to another."""
    config = {k: v for k, v in sorted(dict(vae.config).items()) if not k.startswith("_")}  # type: ignore[arg-type]
    crc = zlib.crc32(json.dumps(config, default=str).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        if not name.startswith(("encoder", "quant_conv")):
            crc = zlib.crc32(tensor.detach().half().cpu().contiguous().numpy().tobytes(), crc)
    return crc
