"""`megen export`: the user equipment's half as one ONNX graph."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    e = commands.add_parser(
        "export",
        help="write the receiver as one ONNX graph",
        description="Write the user equipment's half (gather, restorer, decoder) as one ONNX graph. Beside it lie the entropy coder's "
        "prior and, where the backbone has one, the graph of the phone's denoiser.",
    )
    e.set_defaults(run=run)
    e.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    e.add_argument("--out", type=Path, default=Path("receiver.onnx"), metavar="F.onnx")


def run(args: argparse.Namespace) -> None:
    """Write the graph."""
    from megen.codec import prior
    from megen.export import export_denoiser, export_receiver, net_of
    from megen.files import check_writable
    from megen.halves import transmitter_of
    from megen.models import embedded, phone_denoiser
    from megen.ue.receiver import DENOISER

    check_writable(args.out)
    transmitter = transmitter_of(args.backbone, "cpu")
    learned, backbone = transmitter.codec.prior, transmitter.backbone
    assert learned is not None
    beside = args.out.parent / prior.FILE
    if beside.is_file() and prior.load(beside.parent, learned.channels).digest != learned.digest:
        raise InputError(f"{beside} is another backbone's: export into another folder, or remove it")
    export_receiver(net_of(backbone), backbone, learned, args.out)
    if isinstance(backbone, embedded.EmbeddedBackbone) and (phone := phone_denoiser.load(embedded.folder_of(args.backbone))):
        export_denoiser(phone, backbone, learned, args.out.with_name(DENOISER))
    print(args.out)
