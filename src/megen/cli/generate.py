"""`megen generate`: a prompt to an image, over a link."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.cli import output
from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from megen.control.controller import Controller
    from megen.link import Link
    from megen.pipeline import Pipeline, Result
    from megen.report import Quality
    from megen.types import Budget

CARRIER_HZ = 3.5e9
SNR_DB, FADING, SPEED_M_S, PATH_LOSS, POLICY = 10.0, "awgn", 1.0, "umi-los", "plan"  # where none is given


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    g = commands.add_parser(
        "generate",
        help="make an image from a prompt, sent over a link",
        description="Make one image: denoised and merged at the edge server, sent over a link, decoded at the user equipment.",
    )
    g.set_defaults(run=run)
    g.add_argument("prompt", help='what to draw, e.g. "a lighthouse at sunset, snowy mountains, pine trees"')
    g.add_argument("--out", type=Path, default=Path("megen.png"), metavar="F.png", help="where the image goes (default: %(default)s)")
    g.add_argument("--report", type=Path, metavar="F.json", help="write latencies, energies, bits and quality here")
    g.add_argument("--payload", type=Path, metavar="F", help="write what crossed the link here, for megen receive")
    g.add_argument("--seed", type=int, default=0, help="start of all randomness (default: %(default)s)")
    g.add_argument("--as-typed", action="store_true", help="leave open what the prompt leaves open, instead of drawing it from the seed")
    g.add_argument(
        "--drafts", type=int, default=1, metavar="N", help="one-step drafts, of which a judge picks the one to go on with (1 to 16)"
    )
    g.add_argument("--steps", metavar="N", help="denoising steps that the backbone offers, or auto (default: 4, or the most it offers)")
    g.add_argument("--merge-ratio", default="0", metavar="R", help="share of tokens merged away, 0 to 0.75, or auto (default: %(default)s)")
    _add_link(g)
    g.add_argument("--quantiser-bits", type=float, metavar="Q", help="0.25 to 8 bits a value (default: 5, or what auto chooses)")
    g.add_argument("--bits-budget", type=int, metavar="N", help="the finest quantiser whose payload takes at most N bits")
    g.add_argument("--policy", metavar="NAME|PATH", help=f"who decides auto: plan, a bundled policy or a path (default: {POLICY})")
    g.add_argument("--server", metavar="NAME|PATH", help="edge server's device profile for auto (default: this machine's)")
    g.add_argument("--phone", metavar="NAME|PATH", help="phone's device profile for auto (default: this machine's)")
    g.add_argument("--quality", type=Path, metavar="F.npz", help="quality grid of the backbone for auto (default: the bundled one's)")
    g.add_argument("--deadline-s", type=float, help="latency limit; where it is exceeded stderr says so; auto decides by it")
    g.add_argument("--energy-budget-j", type=float, help="energy limit; where it is exceeded stderr says so; auto decides by it")
    g.add_argument(
        "--backbone",
        default="scenes",
        metavar="NAME|PATH",
        help="a bundled backbone, a folder of weights, a hub name, or a JSON file that says how a checkpoint is run (default: %(default)s)",
    )
    g.add_argument("--device", default="auto", help="where the edge server's half runs: auto, cpu or cuda (default: %(default)s)")
    g.add_argument(
        "--reference",
        action="store_true",
        help="also make the image of the same seed with the most steps, no merging and no link, and report PSNR and SSIM to it",
    )
    g.add_argument("--grid", type=Path, metavar="F.png", help="also write a contact sheet over steps x merge ratio")
    g.add_argument("--words", action="store_true", help="print the words that the backbone knows before anything else")


def _add_link(g: argparse.ArgumentParser) -> None:
    g.add_argument(
        "--link", choices=("none", "analog", "digital"), default="digital", help="what the features cross (default: %(default)s)"
    )
    g.add_argument(
        "--reduction",
        choices=("merging", "transform"),
        help="what --merge-ratio leaves out of analog features (default: by SNR)",
    )
    g.add_argument(
        "--order",
        choices=("band", "stage", "layer"),
        help="of a digital payload's parts: bands of the picture, stages from coarse to fine, or layers: all of it coarsely, then a "
        "refinement of each band, so that a lost one costs little, for a fifth more bits (default: band)",
    )
    g.add_argument("--copies", type=int, metavar="N", help="send each analog symbol N times: N times the airtime, less noise (default: 1)")
    g.add_argument("--csi-error", type=float, metavar="E", help="mean square error of the analog link's gain estimates (default: 0)")
    g.add_argument("--snr-db", type=float, help=f"mean signal-to-noise ratio per complex channel use (default: {SNR_DB:g})")
    g.add_argument("--distance-m", type=float, help="take the SNR from a link budget at this distance instead")
    g.add_argument("--path-loss", choices=("umi-los", "umi-nlos", "reference"), help=f"of that budget (default: {PATH_LOSS})")
    g.add_argument("--trace", type=Path, metavar="F.csv", help="take the SNR from a recording instead: columns time_s, snr_db")
    g.add_argument("--bandwidth-hz", type=float, default=1e6, help="bandwidth of the link (default: %(default)s)")
    fadings = ("awgn", "rayleigh", "rician")
    g.add_argument("--fading", choices=fadings, help=f"how the channel fades (default: {FADING})")
    g.add_argument("--speed-m-s", type=float, help=f"how fast the user moves, for fading (default: {SPEED_M_S:g})")


def run(args: argparse.Namespace) -> None:
    """Make an image, and where asked for a report, a payload and a contact sheet."""
    from dataclasses import asdict, replace

    from megen import console
    from megen.files import write_json
    from megen.types import Budget

    _check_alone(args)
    budget = Budget(args.deadline_s, args.energy_budget_j)
    steps, ratio = _whole("--steps", args.steps or "4"), _number("--merge-ratio", args.merge_ratio)
    _check_pairs(args, auto=None in (steps, ratio))
    pipe, decided_by = _pipeline(args, steps, ratio)
    if args.steps is None:
        steps = pipe.transmitter.backbone.spec.default.steps
    decision = pipe.decide(_completed(pipe, args), steps=steps, merge_ratio=ratio, quantiser_bits=args.quantiser_bits, budget=budget)
    if decided_by != "given":
        bits = "" if args.bits_budget else f", {decision.quantiser_bits:g} bits a value"
        output.say(f"the policy {args.policy or POLICY!r} chose {decision.steps} steps, merge ratio {decision.merge_ratio:g}{bits}")
    with console.bar("denoise", decision.steps) as on_step:
        result = pipe(
            args.prompt,
            seed=args.seed,
            drafts=args.drafts,
            steps=decision.steps,
            merge_ratio=decision.merge_ratio,
            quantiser_bits=decision.quantiser_bits,
            bits_budget=args.bits_budget,
            on_step=on_step,
        )
    if result.delivery.parts_lost:
        output.say(
            f"warning: {result.delivery.parts_lost} of {result.delivery.parts} parts were lost in transit and are filled from neighbours"
        )
    report = replace(result.report, decided_by=decided_by)
    if args.reference:
        report = replace(report, quality=_quality(pipe, result))
    if args.grid:
        _contact_sheet(pipe, args, result)
    output.save_image(result.image, args.out)
    if args.payload:
        _write_payload(result, args.payload)
    if args.report:
        write_json(args.report, asdict(report))
    _say_exceeded(budget, report.latency_s.total, report.energy_j.total)
    print(args.out)


def _check_alone(args: argparse.Namespace) -> None:
    """Refuse what no option can be, before any work. Errors: InputError."""
    from megen.files import check_writable
    from megen.types import check_quantiser_bits
    from megen.words import check_words

    targets = {name: path for name in ("out", "report", "grid", "payload") if (path := getattr(args, name))}
    for path in targets.values():
        check_writable(path)
    for picture in (args.out, args.grid):
        if picture:
            output.picture_format(picture)
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise InputError(f"{', '.join(f'--{name}' for name in targets)} must be different files")
    check_words(args.prompt)
    output.bounded("--seed", args.seed, 0, 2**63 - 1)
    output.bounded("--drafts", args.drafts, 1, 16)
    if args.quantiser_bits is not None:
        check_quantiser_bits(args.quantiser_bits)


def _completed(pipe: Pipeline, args: argparse.Namespace) -> str:
    """What is drawn: the prompt with what it leaves open, which is said."""
    full = pipe.completed(args.prompt, args.seed)
    understood = full.understanding
    if understood.taken:
        output.say("understood: " + "; ".join(f"{typed} as {plain}" for typed, plain in understood.taken.items()))
    if understood.foreign:
        output.say(f"not in this world: {', '.join(understood.foreign)}")
    if understood.unknown:
        output.say(f"warning: unknown words: {', '.join(understood.unknown)} (--words lists the known ones)")
    for note in understood.notes:
        output.say(note)
    if full.conflict:
        output.say(f"{full.conflict}: nothing is added")
    elif full.added:
        output.say(f"added: {', '.join(full.added)} (--as-typed leaves them open)")
    return full.text


def _check_pairs(args: argparse.Namespace, auto: bool) -> None:
    """Refuse options that cannot act beside the others. Errors: InputError."""
    if args.distance_m is not None and args.trace is not None:
        raise InputError("--distance-m and --trace both set the SNR: give one of them")
    if args.distance_m is None:
        output.refuse(args, ["path_loss"], "needs --distance-m: it turns a distance into an SNR")
    else:
        output.refuse(args, ["snr_db"], "and --distance-m both set the SNR: give one of them")
    if args.trace is not None:
        output.refuse(args, ["snr_db", "fading", "speed_m_s"], "and --trace both set the channel: give one of them")
    if auto and args.drafts > 1:
        raise InputError("--drafts is nothing that a policy plans for: give --steps and --merge-ratio, or leave it out")
    if auto and args.order == "layer":
        raise InputError("--order layer is nothing that a policy plans for: give --steps and --merge-ratio, or another order")
    if not auto:
        output.refuse(
            args, ["policy", "server", "phone", "quality"], "is for --steps auto or --merge-ratio auto: nothing else asks a policy"
        )
    if args.link == "analog":
        output.refuse(args, ["bits_budget", "quantiser_bits"], "sets a quantiser, and --link analog has none: leave one of them out")
        output.refuse(args, ["order"], "is of bits, and --link analog has none: leave one of them out")
    else:
        output.refuse(args, ["reduction", "copies", "csi_error"], "is for features that travel as symbols: give --link analog")
    if args.bits_budget is not None:
        output.refuse(args, ["quantiser_bits"], "and --bits-budget both set the quantiser: give one of them")


def _pipeline(args: argparse.Namespace, steps: int | None, ratio: float | None) -> tuple[Pipeline, str]:
    """Both halves, the link and the policy of the options; and who decides."""
    from megen.models.fingerprint import identity
    from megen.pipeline import Pipeline

    link, policy, decided_by = _link(args), None, "given"
    if steps is None or ratio is None:
        policy, decided_by = _policy(args, steps, ratio), f"policy {args.policy or POLICY}"
    pipe = Pipeline.load(
        args.backbone,
        link=link,
        policy=policy,
        analog=args.link == "analog",
        copies=1 if args.copies is None else args.copies,
        reduction=args.reduction,
        order=args.order or "band",
        device=args.device,
        as_typed=args.as_typed,
    )
    backbone = pipe.transmitter.backbone
    if policy is not None:
        policy.check(identity(backbone))
    _show_words(backbone, args.prompt, args.words, warn=pipe.complete is None)
    return pipe, decided_by


def _policy(args: argparse.Namespace, steps: int | None, ratio: float | None) -> Controller:
    from megen.control.controller import Controller

    if args.link != "digital":
        raise InputError("auto decides for the digital link: give --steps and --merge-ratio, or --link digital")
    _measure_once(args)
    loaded = Controller.load(args.policy or POLICY, server=args.server, phone=args.phone, quality=args.quality)
    controller = loaded.restricted(steps, ratio, args.quantiser_bits)
    for assumption in controller.assumptions:
        output.say(assumption)
    return controller


def _measure_once(args: argparse.Namespace) -> None:
    """This machine's profile into the user's cache folder, where auto would decide by seconds that are not today's."""
    from megen.cost import device_profile

    if args.backbone != "scenes" or (args.server and args.phone) or not device_profile.to_measure():
        return
    from megen.evaluation.device_profile import measure_once
    from megen.halves import halves

    measure_once(*halves(args.backbone, args.device), output.say)


def _link(args: argparse.Namespace) -> Link:
    """The link of the options: a given SNR, a distance's, or a recording's."""
    from megen.link import PerfectLink, RadioLink, read_trace
    from megen.link.propagation import LinkBudget, path_loss_db

    snr_db = SNR_DB if args.snr_db is None else args.snr_db
    if args.distance_m is not None:
        lost_db = path_loss_db(args.path_loss or PATH_LOSS, args.distance_m, CARRIER_HZ)
        snr_db = float(LinkBudget(bandwidth_hz=args.bandwidth_hz).snr_db(lost_db))
    trace = None if args.trace is None else read_trace(args.trace)
    speed_m_s = SPEED_M_S if args.speed_m_s is None else args.speed_m_s
    csi_error = args.csi_error or 0.0
    link = RadioLink(snr_db, args.bandwidth_hz, args.fading or FADING, speed_m_s, CARRIER_HZ, trace=trace, csi_error=csi_error)
    return PerfectLink() if args.link == "none" else link


def _whole(option: str, text: str) -> int | None:
    """The whole number, or None for auto. Errors: InputError."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} must be a whole number or auto, got {text!r}") from None


def _number(option: str, text: str) -> float | None:
    """The number, or None for auto. Errors: InputError."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} must be a number or auto, got {text!r}") from None


def _show_words(backbone: object, prompt: str, show: bool, warn: bool) -> None:
    """The words that a backbone knows, where asked for, and those of the prompt that it does not."""
    from megen.models.embedded import EmbeddedBackbone

    if not isinstance(backbone, EmbeddedBackbone):
        return
    if show:
        output.say("known words: " + " ".join(backbone.config.text.vocabulary))
    unknown = backbone.left_out(prompt)
    if unknown and warn:
        output.say(f"warning: unknown words: {', '.join(unknown)} (--words lists the known ones)")


def _quality(pipe: Pipeline, result: Result) -> Quality:
    from megen import console, metrics
    from megen.pipeline import reference
    from megen.report import Quality

    most, seed = max(pipe.transmitter.backbone.spec.steps), result.report.noise_seed
    with console.bar("reference", most) as on_step:
        target = reference(pipe.transmitter, pipe.receiver, result.report.completed_prompt, seed, on_step=on_step)
    name = f"seed {seed}, {most} steps, no merging, no link"
    return Quality(metrics.psnr_db(result.image, target), metrics.ssim(result.image, target), name)


def _contact_sheet(pipe: Pipeline, args: argparse.Namespace, result: Result) -> None:
    from dataclasses import replace

    import numpy as np
    from PIL import Image, ImageDraw

    from megen import console

    drawn, report = replace(pipe, complete=None), result.report
    side, left, top = 256, 70, 24
    spec = pipe.transmitter.backbone.spec
    sheet = Image.new("RGB", (left + side * len(spec.merge_ratios), top + side * len(spec.steps)), "white")
    draw = ImageDraw.Draw(sheet)
    with console.bar("grid", len(spec.steps)) as on_step:
        for i, n in enumerate(spec.steps):
            draw.text((8, top + side * i + side // 2), f"{n} steps", "black")
            for j, ratio in enumerate(spec.merge_ratios):
                draw.text((left + side * j + 80, 6), f"merge ratio {ratio:g}", "black")
                choice = {"steps": n, "merge_ratio": ratio, "quantiser_bits": args.quantiser_bits}
                image = drawn(report.completed_prompt, seed=report.noise_seed, **choice).image
                small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(small, (left + side * j, top + side * i))
            on_step(i + 1)
    output.save_image(np.asarray(sheet), args.grid)


def _write_payload(result: Result, path: Path) -> None:
    from megen import codec
    from megen.files import replacing

    with replacing(path) as temporary:
        temporary.write_bytes(codec.pack(result.delivery.received))


def _say_exceeded(budget: Budget, latency_s: float, energy_j: float) -> None:
    if budget.deadline_s is not None and latency_s > budget.deadline_s:
        output.say(f"the deadline of {budget.deadline_s:g} s was exceeded: {latency_s:.3g} s")
    if budget.energy_j is not None and energy_j > budget.energy_j:
        output.say(f"the energy budget of {budget.energy_j:g} J was exceeded: {energy_j:.3g} J")
