"""Published checkpoints, against diffusers' own pipelines on the same noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="megen[published] is not installed")

from megen.backbone import Condition
from megen.diffusion import denoise
from megen.models import families, published
from megen.models.published import Checkpoint, PublishedBackbone
from megen.models.samplers import TCD_ETA, ancestral
from tests.models.reference_perflow import PeRFlowReference

PROMPT, OTHER = "a castle at dawn", "a windmill at dusk green hills"
CLOSE = 1e-5  # relative, of fp32
PX = {"sdxl": None, "sdxl-lcm": None, "sana": 64, "sprint": 64, "klein": 32, "z-image": 32}
CASES = [  # checkpoint, sampler, offered steps, guidance as diffusers counts it
    ("sdxl", None, (1, 2, 3, 4, 8, 12), 5.0),
    ("sdxl", "euler-trailing", (1, 2, 3, 4, 8, 12), 0.0),
    ("sdxl", "ancestral", (1, 2, 3, 4), 0.0),
    ("sdxl", "ddim", (1, 2, 4, 8, 10, 12), 5.0),
    ("sdxl", "ddim-trailing", (1, 2, 4, 8), 0.0),
    ("sdxl", "tcd", (1, 2, 3, 4, 8, 12), 0.0),
    ("sdxl", "lcm", (1, 2, 3, 4, 8, 12), 0.0),
    ("sdxl", "dpm++", (1, 2, 3, 4, 8, 12), 5.0),
    ("sdxl", "perflow", (4, 5, 6, 8, 12), 2.0),
    ("sdxl-lcm", None, (1, 2, 3, 4, 8, 12), 8.0),
    ("sana", None, (1, 2, 3, 4, 8, 12), 4.5),
    ("sprint", None, (1, 2, 3, 4, 8), 4.5),
    ("klein", None, (1, 2, 3, 4, 8, 12), 1.0),
    ("z-image", None, (1, 2, 3, 4, 8, 12), 0.0),
    ("z-image", None, (2, 5), 3.0),
]


@pytest.fixture
def noises(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What diffusers' schedulers draw, in order."""
    from diffusers import schedulers

    left: list[torch.Tensor] = []
    for name in ("euler_ancestral_discrete", "lcm", "tcd", "scm"):
        module = getattr(schedulers, f"scheduling_{name}")
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: left.pop(0))
    return left


def checkpoint(folders: Path, kind: str, sampler: str | None, steps: tuple[int, ...], guidance: float) -> Checkpoint:
    own = guidance + 1 if kind == "z-image" else max(guidance, 1.0)
    return Checkpoint(str(folders / kind), sampler, steps, own, PX[kind])


def reference(folders: Path, kind: str, sampler: str | None) -> Any:
    """Diffusers' pipeline with that scheduler."""
    import diffusers

    pipe = diffusers.DiffusionPipeline.from_pretrained(folders / kind)
    pipe.set_progress_bar_config(disable=True)
    if sampler == "perflow":
        pipe.scheduler = PeRFlowReference(diffusers.DDIMScheduler.from_config(pipe.scheduler.config).alphas_cumprod)
    elif sampler is not None:
        name, options = published.SAMPLERS[sampler]
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    return pipe


def theirs(
    pipe: Any, backbone: PublishedBackbone, prompt: str, seed: int, steps: int, guidance: float, noises: list[torch.Tensor]
) -> torch.Tensor:
    """The latent of diffusers' own loop, folded as ours."""
    spec = backbone.spec
    drawn = [backbone.unfold(denoise.noise_of(spec.latent_shape, seed, k)) for k in range(steps + 1)]
    noises[:] = drawn[1:]
    side = spec.image_px[0]
    options: dict[str, Any] = {
        "height": side,
        "width": side,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_type": "latent",
    }
    kind = type(pipe).__name__
    if kind.startswith("Sana"):
        options["use_resolution_binning"] = False
    if kind == "SanaSprintPipeline" and steps != 2:
        options["intermediate_timesteps"] = None
    if type(pipe.scheduler).__name__ == "TCDScheduler":
        options["eta"] = TCD_ETA
    out = pipe(prompt=prompt, latents=drawn[0].clone(), **options).images
    if kind == "Flux2KleinPipeline":  # it gives latents that are no longer normalised
        out = torch.nn.functional.pixel_unshuffle(out, 2)
        norm = pipe.vae.bn
        scale = (norm.running_var.view(1, -1, 1, 1) + pipe.vae.config.batch_norm_eps).sqrt()
        return (out - norm.running_mean.view(1, -1, 1, 1)) / scale
    return backbone.fold(out)


def ours(backbone: PublishedBackbone, prompt: str, seed: int, steps: int) -> torch.Tensor:
    return denoise.sample(backbone, backbone.condition([prompt]), [seed], backbone.spec.times[steps])


def relative(own: torch.Tensor, other: torch.Tensor) -> float:
    return float((own - other).norm() / other.norm())


@pytest.mark.parametrize(("kind", "sampler", "steps", "guidance"), CASES, ids=[f"{c[0]}-{c[1] or 'own'}-{c[3]}" for c in CASES])
def test_every_sampler_gives_what_diffusers_gives(
    kind: str, sampler: str | None, steps: tuple[int, ...], guidance: float, folders: Path, noises: list[torch.Tensor]
) -> None:
    backbone = published.load(checkpoint(folders, kind, sampler, steps, guidance))
    pipe = reference(folders, kind, sampler)
    for count in steps:
        own = ours(backbone, PROMPT, 3, count)
        other = theirs(pipe, backbone, PROMPT, 3, count, guidance, noises)
        assert relative(own, other) <= CLOSE, (count, relative(own, other))


@pytest.mark.parametrize(
    ("kind", "sampler"), [("sdxl", None), ("sdxl", "ancestral"), ("sana", None), ("sprint", None), ("klein", None), ("z-image", None)]
)
def test_rows_of_mixed_steps_prompts_and_guidance_are_what_they_are_alone(kind: str, sampler: str | None, folders: Path) -> None:
    backbone = published.load(checkpoint(folders, kind, sampler, (1, 2, 4), 1.0 if kind == "klein" else 3.0))
    jobs = [(PROMPT, 3, 4, 1.0), (OTHER, 4, 2, 3.0), ("night", 5, 1, 2.0)]
    if kind == "klein":
        jobs = [(prompt, seed, steps, 1.0) for prompt, seed, steps, _ in jobs]
    alone = {}
    rows = None
    for prompt, seed, steps, guidance in jobs:
        condition = backbone.condition([prompt], guidance)
        alone[seed] = denoise.sample(backbone, condition, [seed], backbone.spec.times[steps])
        new = denoise.start(backbone, condition, [seed], [backbone.spec.times[steps]])
        rows = new if rows is None else denoise.advance(backbone, denoise.join(rows, new))  # each joins a step later
        leaving = [i for i, done in enumerate(rows.finished) if done]
        for i in leaving:
            assert relative(rows.z[i : i + 1], alone[rows.seeds[i]]) <= CLOSE, (kind, i)
        rows = denoise.keep(rows, [i for i in range(len(rows)) if i not in leaving])
    assert rows is not None
    while len(rows):
        rows = denoise.advance(backbone, rows)
        leaving = [i for i, done in enumerate(rows.finished) if done]
        for i in leaving:
            assert relative(rows.z[i : i + 1], alone[rows.seeds[i]]) <= CLOSE, (kind, i)
        rows = denoise.keep(rows, [i for i in range(len(rows)) if i not in leaving])


def changed(backbone: PublishedBackbone, **changes: Any) -> None:
    """The same backbone with another family."""
    backbone.family = dataclasses.replace(backbone.family, **changes)


def resampled(backbone: PublishedBackbone, **changes: Any) -> None:
    backbone.sampler = dataclasses.replace(backbone.sampler, **changes)


def of_condition(backbone: PublishedBackbone, change: Callable[[Condition], Condition]) -> None:
    own = backbone.family.predict
    changed(backbone, predict=lambda states, times, condition: own(states, times, change(condition)))


def of_times(backbone: PublishedBackbone, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    own = backbone.family.predict
    changed(backbone, predict=lambda states, times, condition: own(states, change(times), condition))


def swapped(backbone: PublishedBackbone) -> None:
    own = backbone.family.encode
    changed(backbone, encode=lambda text: own(text + " rain"))


def other_null(backbone: PublishedBackbone) -> None:
    changed(backbone, null=lambda: backbone.family.encode(""))


def without_instruction(backbone: PublishedBackbone) -> None:
    pipe = backbone.text.pipe

    def encode(text: str) -> families.Prompt:
        own, mask = pipe.encode_prompt(text, do_classifier_free_guidance=False, complex_human_instruction=None)[:2]
        return families.Prompt(own, own.new_zeros(1, 0), mask.bool())

    changed(backbone, encode=encode)


def start_scale(backbone: PublishedBackbone) -> None:
    backbone._spec = dataclasses.replace(backbone.spec, start_scale=lambda start: 1.0)


def sizes(backbone: PublishedBackbone) -> None:
    net = backbone.text.pipe.unet
    own = net.forward

    def forward(*args: Any, added_cond_kwargs: dict[str, torch.Tensor], **options: Any) -> Any:
        return own(*args, added_cond_kwargs=added_cond_kwargs | {"time_ids": added_cond_kwargs["time_ids"] * 0}, **options)

    net.forward = forward


def forgetful(backbone: PublishedBackbone) -> None:
    own = backbone.sampler

    class Forgetful(type(own)):  # type: ignore[misc]
        def step(self, net: Any, z: torch.Tensor, s: torch.Tensor, t: torch.Tensor, noise: Any) -> torch.Tensor:
            z = torch.cat([z[:, : (z.shape[1] - 1) // 2], z[:, (z.shape[1] - 1) // 2 :] * 0], 1)
            return own.step(net, z, s, t, noise)

    backbone.sampler = Forgetful(**{f.name: getattr(own, f.name) for f in dataclasses.fields(own)})


WRONG = {
    "another prompt": ("sdxl", None, 5.0, swapped),
    "null is the empty prompt": ("sdxl", None, 5.0, other_null),
    "no size": ("sdxl", None, 5.0, sizes),
    "no pooled vector": ("sdxl", None, 5.0, lambda b: of_condition(b, lambda c: dataclasses.replace(c, pooled=c.pooled * 0))),
    "timestep off by one": ("sdxl", None, 5.0, lambda b: of_times(b, lambda times: times - 1)),
    "state not scaled": ("sdxl", None, 5.0, lambda b: resampled(b, preserving=False)),
    "noise not scaled at the start": ("sdxl", "euler-trailing", 0.0, start_scale),
    "no fresh noise": ("sdxl", "ancestral", 0.0, lambda b: resampled(b, kappa=None)),
    "ends clean": ("sdxl", "ddim", 5.0, lambda b: resampled(b, end=1.0)),
    "guidance embedded as it is": (
        "sdxl-lcm", None, 8.0, lambda b: of_condition(b, lambda c: dataclasses.replace(c, guidance=c.guidance + 1)),
    ),
    "only some of the noise fresh": ("sdxl-lcm", None, 8.0, lambda b: resampled(b, kappa=ancestral)),
    "no mask": ("sana", None, 4.5, lambda b: of_condition(b, lambda c: dataclasses.replace(c, mask=torch.ones_like(c.mask)))),
    "no instruction": ("sana", None, 4.5, without_instruction),
    "null with the instruction": ("sana", None, 4.5, other_null),
    "first order": ("sana", None, 4.5, forgetful),
    "guidance not scaled": ("sprint", None, 4.5, lambda b: of_condition(b, lambda c: dataclasses.replace(c, guidance=c.guidance * 10))),
    "text from another layer": ("klein", None, 1.0, lambda b: of_condition(b, lambda c: dataclasses.replace(c, text=c.text.roll(16, 2)))),
    "its own scale of guidance": ("z-image", None, 3.0, lambda b: setattr(b, "guidance", 3.0)),
    "time of noise": ("z-image", None, 0.0, lambda b: of_times(b, lambda times: 1000 - times)),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_adapter_is_seen(wrong: str, folders: Path, noises: list[torch.Tensor]) -> None:
    kind, sampler, guidance, spoil = WRONG[wrong]
    backbone = published.load(checkpoint(folders, kind, sampler, (4,), guidance))
    other = theirs(reference(folders, kind, sampler), backbone, PROMPT, 3, 4, guidance, noises)
    spoil(backbone)
    assert relative(ours(backbone, PROMPT, 3, 4), other) > 100 * CLOSE
