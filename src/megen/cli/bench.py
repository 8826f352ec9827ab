"""`megen bench`: one half of the system, measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from megen.cli import output
from megen.cli.measure import counts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DEFAULTS: dict[str, dict[str, Any]] = {  # of the options that only one of the two uses
    "link": {"sweep": 8, "avif_speed": 0},
    "backbone": {
        "device": "auto",
        "teacher": None,
        "consistency": None,
        "beside": None,
        "skipped": 0,
        "batch": 4,
        "sheet": None,
        "as_typed": False,
        "drafts": 1,
    },
}


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    b = commands.add_parser(
        "bench",
        help="measure one half of the system and print a table",
        description="Measure payloads and distortion of every way to bring an image over a link, or a backbone at each number of steps.",
    )
    b.set_defaults(run=run)
    b.add_argument("what", choices=("link", "backbone"))
    b.add_argument(
        "--prompts",
        type=int,
        default=50,
        metavar="N",
        help="held-out prompts; backbone: of each kind, seen and kept-out combinations (default: %(default)s)",
    )
    b.add_argument("--steps", metavar="N", help="denoising steps of each image; for backbone several: 1,2,4 (default: the backbone's own)")
    b.add_argument("--seed", type=int, default=0)
    b.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    b.add_argument("--device", help="backbone: where it runs: auto, cpu or cuda (default: auto)")
    b.add_argument("--json", metavar="F.json", help="write the whole object there; - is stdout (default: a table on stdout)")
    b.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keeps what is finished, to go on from after an interruption (default: none)"
    )
    b.add_argument("--teacher", metavar="PATH", help="backbone: measure this teacher too, and distances to its images")
    b.add_argument("--consistency", metavar="PATH", help="backbone: measure this consistency model beside it")
    b.add_argument("--beside", metavar="PATH", help="backbone: measure this one too, and test which is better, prompt by prompt")
    b.add_argument("--skipped", type=int, metavar="N", help="backbone: measure it also with N blocks left out")
    b.add_argument("--batch", type=int, metavar="N", help="backbone: images denoised together (default: 4)")
    b.add_argument("--sheet", type=Path, metavar="F.jpg", help="backbone: write a contact sheet of steps x prompts")
    b.add_argument("--as-typed", action="store_true", default=None, help="backbone: short prompts are not completed")
    b.add_argument("--drafts", type=int, metavar="N", help="backbone: short prompts are the best of N one-step drafts (default: 1)")
    b.add_argument("--sweep", type=int, metavar="N", help="link: how many prompts cross at every SNR (default: 8)")
    b.add_argument("--avif-speed", type=int, metavar="S", help="link: effort of AVIF files: 0 strongest, 10 fastest (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Measure, and show a table or give the whole object."""
    from megen import console
    from megen.files import check_writable, emit

    other = "backbone" if args.what == "link" else "link"
    output.refuse(args, list(DEFAULTS[other]), f"is for megen bench {other}: bench {args.what} does not use it")
    for name, value in DEFAULTS[args.what].items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    if args.json not in (None, "-"):
        check_writable(Path(args.json))
    for option, low, high in (
        ("prompts", 1, 10_000),
        ("sweep", 1, 10_000),
        ("seed", 0, 2**14),
        ("avif_speed", 0, 10),
        ("skipped", 0, 3),
        ("batch", 1, 4096),
        ("drafts", 1, 16),
    ):
        output.bounded(f"--{option.replace('_', '-')}", getattr(args, option), low, high)
    if args.sheet is not None:
        check_writable(args.sheet)
        output.picture_format(args.sheet)
    with console.status(args.what) as say:
        figures = (_link if args.what == "link" else _backbone)(args, say)
    from megen.provenance import provenance

    if args.json is None:
        print((_link_table if args.what == "link" else _backbone_table)(figures))
    else:
        emit({**figures, "made_by": provenance()}, args.json)


def _link(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, Any]:
    from megen.evaluation import link
    from megen.halves import halves
    from megen.types import Decision

    transmitter, receiver = halves(args.backbone)
    spec = transmitter.backbone.spec
    (steps,) = counts(args.steps or str(spec.steps[-1]), 1)
    spec.check(Decision(steps))
    return link.compare(
        transmitter, receiver, args.prompts, args.sweep, args.seed, steps, avif_speed=args.avif_speed, on_progress=say, work=args.work
    )


def _link_table(figures: dict[str, Any]) -> str:
    rows = []
    for name, by_snr in figures["schemes"].items():
        for snr_db in ("0", "12", "24"):
            if snr_db in by_snr:
                rows.append({"scheme": name, "SNR, dB": snr_db, **by_snr[snr_db]})
    head = (
        f"bits against the int8 latent at its PSNR - 0.5 dB: {figures['bits_ratio_int8_latent']:.3f}; "
        f"against AVIF at equal PSNR: {figures['bits_ratio_avif_equal_psnr']:.3f}\n"
    )
    return head + output.table(rows, ("scheme", "SNR, dB", "bits", "airtime_s", "psnr_db", "delivered"))


def _backbone(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, Any]:
    from megen.evaluation import backbone as evaluation
    from megen.files import replacing
    from megen.models import embedded
    from megen.models.placement import device_of

    device = str(device_of(args.device))
    paths = (args.backbone, args.teacher, args.consistency, args.beside)
    backbone, teacher, consistency, other = (embedded.load(path, device, quick=True) if path else None for path in paths)
    assert backbone is not None
    steps = counts(args.steps or ",".join(map(str, backbone.config.steps)), 100)
    prompts = evaluation.Prompts.of(args.prompts, args.seed, as_typed=args.as_typed)
    options = {"skipped": args.skipped, "batch": args.batch, "drafts": args.drafts, "say": say, "work": args.work}
    figures, sheet = evaluation.compare(backbone, steps, prompts, teacher, consistency, other, **options)
    if args.sheet is not None:
        with replacing(args.sheet) as temporary:
            sheet.save(temporary, format=output.picture_format(args.sheet), quality=90)
    return figures


def _backbone_table(figures: dict[str, Any]) -> str:
    rows = [{"steps": n, **row} for n, row in figures["steps"].items()]
    columns = (
        "scene_fd",
        "scene_fd_excess",
        "right_full",
        "all_right_full",
        "right_short",
        "all_right_short",
        "one_object_short",
        "unasked_weather",
        "coverage",
    )
    table = output.table(rows, ("steps", *columns, "seconds"))
    for n, tests in figures.get("paired", {}).items():
        table += f"\nbeside the other at {n} steps, prompts all right:"
        for kind in ("full", "short"):
            table += " {0} {only_ours} only here, {only_theirs} only there, p {p:.3g};".format(kind, **tests[f"all_right_{kind}"])
        table += " scene FD lower by {lower_by:.0f} ± {standard_error:.0f}".format(**tests["scene_fd"])
    return table
