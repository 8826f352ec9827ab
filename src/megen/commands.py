"""What each command does: the rooms wired together for one run."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from megen import pipeline
from megen.cost.energy import energy_j
from megen.export import export_receiver, receiver_of
from megen.files import replacing
from megen.models import backbone as backbones
from megen.models.backbone import Backbone
from megen.models.text import unknown_words, words
from megen.pipeline import Clock, Link
from megen.types import GenerationReport
from megen.ue import OnnxReceiver

MODELLED_ENERGY = ("energy_j.es", "energy_j.radio", "energy_j.ue", "energy_j.total")
MODELLED_LINK = ("latency_s.transmit", "latency_s.total", "channel.rate_bps", "channel.attempts", "channel.residual_bler")


def generate(args: argparse.Namespace) -> None:
    """Make an image, and where asked for a report and a contact sheet."""
    targets = [args.out, *(p for p in (args.report, args.grid) if p)]
    for target in targets:
        _check_writable(target)
    for picture in (args.out, args.grid):
        if picture:
            _format(picture)
    if len({t.resolve() for t in targets}) < len(targets):
        raise ValueError("--out, --report and --grid must be different files")
    if not words(args.prompt):
        raise ValueError("the prompt is empty or holds no words: say what to draw")
    _check_limits(args)
    link = Link(args.link, args.snr_db, args.bandwidth_hz, args.fading)
    link.check()
    steps, ratio = int(_number("--steps", args.steps, int)), _number("--merge-ratio", args.merge_ratio, float)
    backbone = backbones.load(args.backbone, _device(args.device))
    decision = pipeline.decide(backbone, steps, ratio)
    backbone.text.tokenise([args.prompt])  # refuses a prompt that is too long before any work
    _warn_unknown(backbone, args.prompt, args.words)
    receiver = receiver_of(backbone, backbones.folder_of(args.backbone))

    clock = Clock()
    with _bar("denoise", decision.steps) as on_step:
        latent = pipeline.denoise(backbone, [args.prompt], [args.seed], decision.steps, clock, on_step)
    air = np.random.default_rng([args.seed, 1])
    result = pipeline.send(latent, decision.merge_ratio, link, air, receiver, clock)
    quality: dict[str, object] = {"psnr_db": None, "ssim": None, "reference": None}
    if args.reference:
        most = max(backbone.config.steps)
        with _bar("reference", most) as on_step:
            target = pipeline.reference(backbone, args.prompt, args.seed, receiver, on_step)
        quality = {**_quality(result.image, target), "reference": f"seed {args.seed}, {most} steps, no merging, no link"}
    if args.grid:
        _contact_sheet(backbone, args.prompt, args.seed, link, receiver, args.grid)
    report = _report(args, backbone, decision, result, clock, link, quality)
    _save_image(result.image, args.out)
    if args.report:
        _write_text(args.report, json.dumps(asdict(report), indent=2) + "\n")
    for name, limit, value in (
        ("deadline", args.deadline_s, report.latency_s["total"]),
        ("energy budget", args.energy_budget_j, report.energy_j["total"]),
    ):
        if limit is not None and value > limit:
            print(f"megen: the {name} of {limit:g} was missed: {value:.3g}", file=sys.stderr)
    print(args.out)


def scenes(args: argparse.Namespace) -> None:
    """Render the true picture of a caption."""
    _check_writable(args.out)
    _format(args.out)
    if not words(args.caption):
        raise ValueError("the caption is empty or holds no words: say what to draw")
    if not 64 <= args.size_px <= 8192:
        raise ValueError(f"--size-px must lie in [64, 8192], got {args.size_px}")
    from megen.training.render import render
    from megen.training.scenes import parse, sample_scene, vocabulary

    unknown, named = unknown_words(args.caption, vocabulary()), parse(args.caption)
    if unknown:
        print(f"megen: warning: unknown words, left out: {', '.join(unknown)}", file=sys.stderr)
    scene = sample_scene(np.random.default_rng(args.seed), given=named)
    print("megen: drawn as told: " + (", ".join(named.values()) or "nothing; all is random"), file=sys.stderr)
    picture = (render([scene], args.size_px)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    _save_image(picture, args.out)
    print(args.out)


def train(args: argparse.Namespace) -> None:
    """Train a backbone, or go on where its folder left off."""
    import torch

    from megen.training.autoencoder import AutoencoderRecipe
    from megen.training.backbone import Plan
    from megen.training.backbone import train as train_backbone
    from megen.training.teacher import TeacherRecipe

    pictures = None if args.data == "scenes" else Path(args.data)
    if pictures is not None and not pictures.is_dir():
        raise ValueError(f"the data must be scenes or a folder of pictures, got {args.data!r}")
    if args.image_px % 256 or not 256 <= args.image_px <= 4096:
        raise ValueError(f"--image-px must be a multiple of 256 up to 4096, got {args.image_px}")
    least = {"scenes": 1, "batch": 1, "save_every": 1, "steps": 0 if args.start else 1, "autoencoder_steps": 0 if args.start else 1}
    for option, bound in least.items():
        if getattr(args, option) < bound:
            raise ValueError(f"--{option.replace('_', '-')} must be at least {bound}, got {getattr(args, option)}")
    if not 0 <= args.seed < 2**31:
        raise ValueError(f"--seed must lie in [0, 2^31), got {args.seed}")
    if args.decoder_only and not args.start:
        raise ValueError("--decoder-only needs --from: there must be an encoder to keep")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{args.out} is a file: name a folder")
    if not 0 < args.lr < 1:
        raise ValueError(f"--lr must lie in (0, 1), got {args.lr}")
    plan = Plan(
        name=args.name or (pictures.resolve().name if pictures else "scenes"),
        folder=args.out,
        pictures=pictures,
        image_px=args.image_px,
        scenes=args.scenes,
        start=args.start,
        autoencoder=AutoencoderRecipe(steps=args.autoencoder_steps, seed=args.seed, decoder_only=args.decoder_only),
        teacher=TeacherRecipe(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed, save_every=args.save_every),
    )
    print(train_backbone(plan, torch.device(_device(args.device))))


def export(args: argparse.Namespace) -> None:
    """Write the receiver as one ONNX graph."""
    _check_writable(args.out)
    export_receiver(backbones.load(args.backbone), args.out)
    print(args.out)


def _check_writable(path: Path) -> None:
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe: name an ordinary file")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} to write {path.name} into: make it first")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable: choose another place for {path.name}")


def _check_limits(args: argparse.Namespace) -> None:
    for option, value in (("--deadline-s", args.deadline_s), ("--energy-budget-j", args.energy_budget_j)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{option} must be a positive number, got {value}")
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed must lie in [0, 2^63), got {args.seed}")


def _number(option: str, text: str, kind: Callable[[str], float]) -> float:
    if text == "auto":
        raise ValueError(f"{option} auto needs a trained policy, and none ships yet: give a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option} must be a {'whole ' if kind is int else ''}number, got {text!r}") from None


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device must be auto, cpu, or cuda where there is one, got {name!r}")
    return name


def _warn_unknown(backbone: Backbone, prompt: str, show: bool) -> None:
    if show:
        print("megen: known words: " + " ".join(backbone.config.text.vocabulary), file=sys.stderr)
    unknown = backbone.unknown_words(prompt)
    if unknown:
        print(f"megen: warning: unknown words: {', '.join(unknown)} (--words lists the known ones)", file=sys.stderr)


class _bar:
    """A progress bar on stderr, silent where that is no terminal."""

    def __init__(self, what: str, total: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), console=console, disable=not console.is_terminal)
        self._total = total

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        task = self._progress.add_task("", total=self._total)
        return lambda done: self._progress.update(task, completed=done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _quality(image: np.ndarray, target: np.ndarray) -> dict[str, object]:
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() / 255 for x in (image, target))
    psnr = float(peak_signal_noise_ratio(a, b, data_range=1.0))
    ssim = structural_similarity_index_measure(a, b, data_range=1.0)
    return {"psnr_db": psnr if math.isfinite(psnr) else None, "ssim": float(torch.as_tensor(ssim))}


def _report(
    args: argparse.Namespace,
    backbone: Backbone,
    decision: pipeline.Decision,
    result: pipeline.Result,
    clock: Clock,
    link: Link,
    quality: dict[str, object],
) -> GenerationReport:
    spent = clock.seconds
    latency = {"queue": 0.0, **{k: spent[k] for k in ("text", "denoise", "merge", "code")}}
    latency |= {"transmit": result.transmit_s, "decode": spent["decode"]}
    latency["total"] = sum(latency.values())
    es_s = sum(spent[k] for k in ("text", "denoise", "merge", "code"))
    height, width = result.image.shape[:2]
    used = link.kind != "none"
    return GenerationReport(
        prompt=args.prompt,
        seed=args.seed,
        backbone=backbone.config.name,
        decision=decision,
        image={"width_px": width, "height_px": height},
        latency_s=latency,
        energy_j=energy_j(es_s, result.transmit_s, result.rate_bps, spent["decode"]),
        payload_bits=result.payload.bits(),
        channel={
            "link": link.kind,
            "fading": link.fading if used else None,
            "snr_db": link.snr_db if used else None,
            "bandwidth_hz": link.bandwidth_hz if used else None,
            "rate_bps": result.rate_bps,
            "analog_symbols": result.symbols,
            "attempts": 1,
            "residual_bler": 0.0,
        },
        quality=quality,
        modelled=(*MODELLED_ENERGY, *(MODELLED_LINK if used else ())),
    )


def _contact_sheet(backbone: Backbone, prompt: str, seed: int, link: Link, receiver: OnnxReceiver, out: Path) -> None:
    side, left, top = 256, 70, 24
    steps, ratios = backbone.config.steps, backbone.config.merge_ratios
    sheet = Image.new("RGB", (left + side * len(ratios), top + side * len(steps)), "white")
    draw = ImageDraw.Draw(sheet)
    with _bar("grid", len(steps)) as on_step:
        for i, n in enumerate(steps):
            latent = pipeline.denoise(backbone, [prompt], [seed], n, Clock())
            draw.text((8, top + side * i + side // 2), f"{n} steps", "black")
            for j, ratio in enumerate(ratios):
                draw.text((left + side * j + 80, 6), f"merge ratio {ratio:g}", "black")
                air = np.random.default_rng([seed, 1])
                image = pipeline.send(latent, ratio, link, air, receiver, Clock()).image
                small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left + side * j, top + side * i))
            on_step(i + 1)
    _save_image(np.asarray(sheet), out)


def _save_image(image: np.ndarray, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format=_format(path))


def _format(path: Path) -> str:
    """The picture format of a file's ending, PNG where there is none. Errors: ValueError."""
    kind = Image.registered_extensions().get(path.suffix.lower(), "") if path.suffix else "PNG"
    if kind not in ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF"):
        raise ValueError(f"no picture can be written as {path.suffix}: use .png, .jpg, .webp, .avif, .bmp or .tiff")
    return kind


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
