"""`megen receive`: a payload to an image, without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.cli import output


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    r = commands.add_parser(
        "receive",
        help="decode a payload that megen generate --payload wrote",
        description="The user equipment's half alone: what crossed the link to an image, by onnxruntime and without torch.",
    )
    r.set_defaults(run=run)
    r.add_argument("payload", type=Path, metavar="PAYLOAD", help="a file that megen generate --payload wrote")
    r.add_argument("--out", type=Path, default=Path("megen.png"), metavar="F.png", help="where the image goes (default: %(default)s)")
    r.add_argument(
        "--receiver",
        default="scenes",
        metavar="NAME|F.onnx",
        help="a bundled backbone's receiver, or a graph that megen export wrote (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Decode one payload."""
    from megen import codec
    from megen.errors import InputError
    from megen.files import check_writable
    from megen.ue import Receiver

    check_writable(args.out)
    output.picture_format(args.out)
    if not args.payload.is_file():
        raise InputError(f"no payload at {args.payload}: megen generate --payload writes one")
    received = codec.unpack(args.payload.read_bytes())
    output.save_image(Receiver.load(args.receiver).decode(received), args.out)
    print(args.out)
