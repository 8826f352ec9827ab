"""`megen profile`: this machine's seconds, FLOPs and power by stage."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.cli import output
from megen.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    f = commands.add_parser(
        "profile",
        help="measure this machine's seconds, FLOPs and power by stage",
        description="Measure this machine's device profile: seconds and FLOPs of every stage of a generation, and its power where it can."
        " The bundled backbone's is kept in the user's cache folder without --out, and auto decides by it from then on.",
    )
    f.set_defaults(run=run)
    f.add_argument("--out", type=Path, metavar="F.json", help="where the profile goes (default: the user's cache folder)")
    f.add_argument("--name", default="this machine", help="the profile's name (default: %(default)s)")
    f.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    f.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    f.add_argument("--repeats", type=int, default=15, help="of each stage; the median counts (default: %(default)s)")
    f.add_argument(
        "--power-w", type=float, default=30.0, help="power while it works, where neither NVML nor RAPL tells it (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Measure and write one profile."""
    from megen.cost import device_profile
    from megen.files import check_writable

    if args.out is None and args.backbone != "scenes":
        raise InputError("the user's cache folder keeps the bundled backbone's profile: say with --out where this one goes")
    out = args.out or device_profile.cached()
    if args.out is None:
        out.parent.mkdir(parents=True, exist_ok=True)
    check_writable(out)
    output.bounded("--repeats", args.repeats, 1, 1000)
    output.bounded("--power-w", args.power_w, 1e-3, 1e6)
    from megen.evaluation.device_profile import profile
    from megen.halves import halves
    from megen.provenance import provenance

    measured = profile(*halves(args.backbone, args.device), args.name, args.repeats, args.power_w)
    device_profile.save(measured, out, provenance())
    if measured.load > device_profile.BUSY:
        output.say(f"other work ran beside it (load {measured.load:.1f} a core): these seconds are too long, measure again when it is done")
    rows = [{"stage": s, "ms": 1e3 * getattr(measured, s)} for s in device_profile.SECONDS]
    output.say("\n" + output.table(rows, ("stage", "ms")))
    print(out)
