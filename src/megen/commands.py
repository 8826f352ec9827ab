"""What each command does: the rooms wired together for one run."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from megen import console, pipeline
from megen.channel.fading import read_trace
from megen.channel.propagation import LinkBudget, path_loss_db
from megen.codec import prior
from megen.cost.energy import energy_j
from megen.export import export_receiver, receiver_of
from megen.files import check_writable, emit, replacing, write_text
from megen.models import backbone as backbones
from megen.models.backbone import Backbone
from megen.models.text import unknown_words, words
from megen.models.weights import provenance
from megen.pipeline import Clock, Link
from megen.types import Budget, ChannelState, GenerationReport
from megen.ue import OnnxReceiver

CARRIER_HZ = 3.5e9
MODELLED_ENERGY = ("energy_j.es", "energy_j.radio", "energy_j.ue", "energy_j.total")
MODELLED_LINK = ("latency_s.transmit", "latency_s.total", "channel.rate_bps", "channel.attempts", "channel.residual_bler")


def generate(args: argparse.Namespace) -> None:
    """Make an image, and where asked for a report and a contact sheet."""
    targets = [args.out, *(p for p in (args.report, args.grid) if p)]
    for target in targets:
        check_writable(target)
    for picture in (args.out, args.grid):
        if picture:
            _format(picture)
    if len({t.resolve() for t in targets}) < len(targets):
        raise ValueError("--out, --report and --grid must be different files")
    if not words(args.prompt):
        raise ValueError("the prompt is empty or holds no words: say what to draw")
    _check_limits(args)
    link = _link(args)
    wanted, ratio = _number("--steps", args.steps, int), _number("--merge-ratio", args.merge_ratio, float)
    steps = None if wanted is None else int(wanted)
    backbone = backbones.load(args.backbone, _device(args.device), quick=True)
    if steps is None or ratio is None:
        from megen.control_commands import decide

        if link.kind != "digital":
            raise ValueError("auto chooses for the digital link: give --steps and --merge-ratio, or --link digital")
        channel = ChannelState(link.snr_db, link.bandwidth_hz, 0.0)
        told = Budget(args.deadline_s, args.energy_budget_j)
        chosen = decide(args.prompt, steps, ratio, channel, told, args.seed, backbone.config.name)
        steps, ratio = chosen.steps, chosen.merge_ratio
        print(f"megen: the policy chose {steps} steps and merge ratio {ratio:g}", file=sys.stderr)
    decision = pipeline.decide(backbone, steps, ratio)
    backbone.text.tokenise([args.prompt])  # refuses a prompt that is too long before any work
    _warn_unknown(backbone, args.prompt, args.words)
    receiver = receiver_of(backbone, backbones.folder_of(args.backbone))

    clock = Clock()
    with console.bar("denoise", decision.steps) as on_step:
        latent = pipeline.denoise(backbone, [args.prompt], [args.seed], decision.steps, clock, on_step)
    air = np.random.default_rng([args.seed, 1])
    result = pipeline.send(latent, decision.merge_ratio, link, air, receiver, clock, bits_budget=args.bits_budget)
    if result.parts_lost:
        lost = f"{result.parts_lost} of {result.parts}"
        print(f"megen: warning: {lost} parts were lost on their way and are filled from their neighbours", file=sys.stderr)
    quality: dict[str, object] = {"psnr_db": None, "ssim": None, "reference": None}
    if args.reference:
        most = max(backbone.config.steps)
        with console.bar("reference", most) as on_step:
            target = pipeline.reference(backbone, args.prompt, args.seed, receiver, on_step)
        quality = {**_quality(result.image, target), "reference": f"seed {args.seed}, {most} steps, no merging, no link"}
    if args.grid:
        _contact_sheet(backbone, args.prompt, args.seed, link, receiver, args.grid)
    report = _report(args, backbone, decision, result, clock, link, quality)
    _save_image(result.image, args.out)
    if args.report:
        write_text(args.report, json.dumps(asdict(report), indent=2) + "\n")
    for name, limit, value in (
        ("deadline", args.deadline_s, report.latency_s["total"]),
        ("energy budget", args.energy_budget_j, report.energy_j["total"]),
    ):
        if limit is not None and value > limit:
            print(f"megen: the {name} of {limit:g} was missed: {value:.3g}", file=sys.stderr)
    print(args.out)


def _link(args: argparse.Namespace) -> Link:
    """The link of the options: a given SNR, a distance's, or a recording's."""
    snr_db, trace = args.snr_db, None
    if args.distance_m is not None and args.trace is not None:
        raise ValueError("--distance-m and --trace both set the SNR: give one of them")
    if args.distance_m is not None:
        snr_db = float(LinkBudget(bandwidth_hz=args.bandwidth_hz).snr_db(path_loss_db(args.path_loss, args.distance_m, CARRIER_HZ)))
    if args.trace is not None:
        trace = read_trace(args.trace)
        snr_db = float(trace[1][0])
    link = Link(args.link, snr_db, args.bandwidth_hz, args.fading, args.speed_m_s, CARRIER_HZ, trace=trace)
    link.check()
    return link


def scenes(args: argparse.Namespace) -> None:
    """Render the true picture of a caption."""
    check_writable(args.out)
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
    from megen.training.distill import DistillRecipe
    from megen.training.teacher import TeacherRecipe

    pictures = None if args.data == "scenes" else Path(args.data)
    if pictures is not None and not pictures.is_dir():
        raise ValueError(f"the data must be scenes or a folder of pictures, got {args.data!r}")
    if args.image_px % 256 or not 256 <= args.image_px <= 4096:
        raise ValueError(f"--image-px must be a multiple of 256 up to 4096, got {args.image_px}")
    least = {
        "scenes": 1,
        "fresh": 0,
        "receiver_steps": 0,
        "batch": 1,
        "save_every": 1,
        "steps": 0 if args.start else 1,
        "autoencoder_steps": 0 if args.start else 1,
    }
    for option, bound in least.items():
        if getattr(args, option) < bound:
            raise ValueError(f"--{option.replace('_', '-')} must be at least {bound}, got {getattr(args, option)}")
    if not 0 <= args.seed < 2**31:
        raise ValueError(f"--seed must lie in [0, 2^31), got {args.seed}")
    if not args.start and (args.distill or args.anew):
        raise ValueError(f"--{'distill' if args.distill else 'anew'} needs --from: there must be a backbone to start from")
    if (args.elastic or args.student) and not args.distill:
        raise ValueError(f"--{'elastic' if args.elastic else 'student'} needs --distill")
    if args.distill and (args.autoencoder_steps or args.anew or args.decoder_only or not args.steps):
        raise ValueError(
            "--distill keeps the teacher's autoencoder: give --autoencoder-steps 0, at least one step, and nothing to train anew"
        )
    if args.anew and not args.steps:
        raise ValueError("--anew needs at least one step of the denoiser")
    if not 1 <= args.guidance <= 20:
        raise ValueError(f"--guidance must lie in [1, 20], got {args.guidance}")
    if not 0.1 <= args.time_shift <= 20:
        raise ValueError(f"--time-shift must lie in [0.1, 20], got {args.time_shift}")
    if args.decoder_only and not args.start:
        raise ValueError("--decoder-only needs --from: there must be an encoder to keep")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{args.out} is a file: name a folder")
    if not 0 < args.lr < 1:
        raise ValueError(f"--lr must lie in (0, 1), got {args.lr}")
    schedule = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed, "save_every": args.save_every}
    distilled = DistillRecipe(args.distill, **schedule, guidance=args.guidance, elastic=args.elastic) if args.distill else None
    plan = Plan(
        name=args.name or (pictures.resolve().name if pictures else "scenes"),
        folder=args.out,
        pictures=pictures,
        image_px=args.image_px,
        scenes=args.scenes,
        fresh=args.fresh,
        start=args.start,
        anew=args.anew,
        distill=distilled,
        student=args.student,
        receiver_steps=args.receiver_steps,
        autoencoder=AutoencoderRecipe(steps=args.autoencoder_steps, seed=args.seed, decoder_only=args.decoder_only),
        teacher=TeacherRecipe(**schedule, time_shift=args.time_shift),
    )
    print(train_backbone(plan, torch.device(_device(args.device))))


def bench(args: argparse.Namespace) -> None:
    """Measure, and print one JSON object."""
    if args.json != "-":
        check_writable(Path(args.json))
    bounds = {
        "prompts": (1, 10_000),
        "sweep": (1, 10_000),
        "seed": (0, 2**14),
        "avif_speed": (0, 10),
        "skipped": (0, 3),
        "batch": (1, 4096),
    }
    for option, (low, high) in bounds.items():
        if not low <= getattr(args, option) <= high:
            raise ValueError(f"--{option.replace('_', '-')} must lie in [{low}, {high}], got {getattr(args, option)}")
    with console.status(args.what) as say:
        found = (_bench_link if args.what == "link" else _bench_backbone)(args, say)
    emit({**found, "made_by": provenance()}, args.json)


def _bench_link(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, object]:
    from megen.bench import link

    backbone = backbones.load(args.backbone, quick=True)
    (steps,) = _counts(args.steps or str(backbone.config.steps[-1]), 1)
    pipeline.decide(backbone, steps, 0.0)
    receiver = receiver_of(backbone, backbones.folder_of(args.backbone))
    found: dict[str, object] = link.compare(backbone, receiver, args.prompts, args.sweep, args.seed, steps, args.avif_speed, say)
    return found


def _bench_backbone(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, object]:
    from megen.bench import backbone as bench_backbone

    if args.sheet is not None:
        check_writable(args.sheet)
        _format(args.sheet)
    device = _device(args.device)
    paths = (args.backbone, args.teacher, args.consistency)
    backbone, teacher, consistency = (backbones.load(path, device, quick=True) if path else None for path in paths)
    assert backbone is not None
    steps = _counts(args.steps or ",".join(map(str, backbone.config.steps)), 100)
    prompts = bench_backbone.Prompts.of(args.prompts, args.seed)
    found, sheet = bench_backbone.compare(backbone, steps, prompts, teacher, consistency, args.skipped, args.batch, say)
    if args.sheet is not None:
        with replacing(args.sheet) as temporary:
            sheet.save(temporary, format=_format(args.sheet), quality=90)
    return found


def control(args: argparse.Namespace) -> None:
    """Train or evaluate policies."""
    from megen import control_commands

    control_commands.control(args)


def profile(args: argparse.Namespace) -> None:
    """Measure this machine's device profile."""
    check_writable(args.out)
    if not 1 <= args.repeats <= 1000:
        raise ValueError(f"--repeats must lie in [1, 1000], got {args.repeats}")
    if not (args.power_w > 0 and math.isfinite(args.power_w)):
        raise ValueError(f"--power-w must be a positive number, got {args.power_w}")
    from megen.bench.profile import profile as measured
    from megen.cost.profile import save

    backbone = backbones.load(args.backbone, _device(args.device), quick=True)
    receiver = receiver_of(backbone, backbones.folder_of(args.backbone))
    save(measured(backbone, receiver, args.name, args.repeats, args.power_w), args.out, provenance())
    print(args.out)


def measure(args: argparse.Namespace) -> None:
    """Measure the quality grid of a backbone."""
    from megen.bench import quality as measuring
    from megen.cost.quality import save

    check_writable(args.out)
    least = measuring.LEAST_PROMPTS
    if not least <= args.prompts <= 100_000:
        raise ValueError(f"--prompts must lie in [{least}, 100000], got {args.prompts}")
    work = args.work or args.out.with_name(args.out.name + ".work")
    if (work.exists() and not work.is_dir()) or work.resolve() == args.out.resolve():
        raise ValueError(f"{work} is a file: name a folder with --work")
    backbone = backbones.load(args.backbone, _device(args.device), quick=True)
    steps = tuple(_counts(args.steps, 100)) if args.steps else backbone.config.steps
    if sorted(set(steps)) != list(steps):
        raise ValueError(f"--steps must rise, got {args.steps}")
    for n in steps:
        pipeline.decide(backbone, n, 0.0)
    receiver = receiver_of(backbone, backbones.folder_of(args.backbone))
    with console.bar("prompts", args.prompts) as on_prompt:
        rows = measuring.measure(backbone, receiver, steps, args.prompts, work, on_prompt)
    save(measuring.grid_of(rows, steps, backbone.config, provenance()), args.out)
    print(args.out)


def _counts(text: str, most: int) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not 1 <= len(counts) <= most or any(not 1 <= n <= 1000 for n in counts):
        raise ValueError(f"--steps takes {'one number' if most == 1 else 'numbers such as 1,2,4'} from 1 to 1000, got {text!r}")
    return counts


def export(args: argparse.Namespace) -> None:
    """Write the receiver as one ONNX graph."""
    check_writable(args.out)
    backbone = backbones.load(args.backbone)
    codec = prior.load(backbones.folder_of(args.backbone), backbone.latent_shape[0])
    kept = args.out.parent / prior.FILE
    if kept.is_file() and prior.load(kept.parent, codec.channels).digest != codec.digest:
        raise ValueError(f"{kept} is another backbone's: export into another folder, or remove it")
    export_receiver(backbone, codec, args.out)
    print(args.out)


def _check_limits(args: argparse.Namespace) -> None:
    for option, value in (("--deadline-s", args.deadline_s), ("--energy-budget-j", args.energy_budget_j)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{option} must be a positive number, got {value}")
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed must lie in [0, 2^63), got {args.seed}")


def _number(option: str, text: str, kind: Callable[[str], float]) -> float | None:
    """The number, or None for auto. Errors: ValueError."""
    if text == "auto":
        return None
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option} must be a {'whole ' if kind is int else ''}number or auto, got {text!r}") from None


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
    rate_bps = (result.payload.bits()["total"] / result.transmit_s) if link.kind == "digital" else None
    return GenerationReport(
        prompt=args.prompt,
        seed=args.seed,
        backbone=backbone.config.name,
        decision=decision,
        image={"width_px": width, "height_px": height},
        latency_s=latency,
        energy_j=energy_j(es_s, result.transmit_s, rate_bps, spent["decode"]),
        payload_bits=result.payload.bits(),
        channel={
            "link": link.kind,
            "fading": link.fading if used else None,
            "snr_db": link.snr_db if used else None,
            "bandwidth_hz": link.bandwidth_hz if used else None,
            "rate_bps": rate_bps,
            "analog_symbols": result.symbols,
            "attempts": result.attempts,
            "residual_bler": result.parts_lost / result.parts if result.parts else 0.0,
        },
        quality=quality,
        modelled=(*MODELLED_ENERGY, *(MODELLED_LINK if used else ())),
    )


def _contact_sheet(backbone: Backbone, prompt: str, seed: int, link: Link, receiver: OnnxReceiver, out: Path) -> None:
    side, left, top = 256, 70, 24
    steps, ratios = backbone.config.steps, backbone.config.merge_ratios
    sheet = Image.new("RGB", (left + side * len(ratios), top + side * len(steps)), "white")
    draw = ImageDraw.Draw(sheet)
    with console.bar("grid", len(steps)) as on_step:
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
