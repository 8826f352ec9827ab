"""`megen ask`: a picture from an edge server, decoded here."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from megen.cli import output
from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from megen.ue.client import Answer, Event

SERVER = "http://127.0.0.1:8000"
TOKEN = "MEGEN_TOKEN"


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    a = commands.add_parser(
        "ask",
        help="ask an edge server for an image",
        description="Ask an edge server for an image and decode it here. A lost connection is resumed; a busy server is asked again.",
    )
    a.set_defaults(run=run)
    a.add_argument("prompt", help='what to draw, e.g. "a lighthouse at sunset, snowy mountains, pine trees"')
    a.add_argument("--server", default=SERVER, metavar="URL[,URL]", help="servers, in the order in which to ask (default: %(default)s)")
    a.add_argument("--token", help=f"for servers that ask for one (default: ${TOKEN})")
    a.add_argument("--out", type=Path, default=Path("megen.png"), metavar="F.png", help="where the image goes (default: %(default)s)")
    a.add_argument("--report", type=Path, metavar="F.json", help="write what it took and how here")
    a.add_argument("--payload", type=Path, metavar="F", help="write what crossed the link here, for megen receive")
    a.add_argument("--seed", type=int, default=0, help="start of all randomness (default: %(default)s)")
    a.add_argument("--steps", default="auto", metavar="N|auto", help="denoising steps (default: %(default)s)")
    a.add_argument("--merge-ratio", default="auto", metavar="R|auto", help="share of tokens merged away (default: %(default)s)")
    a.add_argument("--quantiser-bits", type=float, metavar="Q", help="0.25 to 8 bits a value (default: auto)")
    a.add_argument("--deadline-s", type=float, help="latency limit, which the server plans for")
    a.add_argument("--energy-budget-j", type=float, help="energy limit, which the server plans for")
    a.add_argument("--as-typed", action="store_true", help="leave open what the prompt leaves open")
    a.add_argument("--receiver", type=Path, metavar="F.onnx", help="the receiver to decode with (default: the server's backbone's)")
    a.add_argument("--patience-s", type=float, default=120.0, help="give up after so long (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Ask, decode, and write the image."""
    import asyncio

    from megen.cost import device_profile
    from megen.files import check_writable, write_json
    from megen.types import POSITIVE, check_number
    from megen.ue.client import Client
    from megen.ue.receiver import Receiver
    from megen.words import check_words

    output.picture_format(args.out)
    for path in filter(None, (args.out, args.report, args.payload)):
        check_writable(path)
    check_words(args.prompt)
    check_number("--patience-s", args.patience_s, POSITIVE)
    ratio = _number("--merge-ratio", args.merge_ratio)
    steps = _number("--steps", args.steps)
    if steps is not None and steps != int(steps):
        raise InputError(f"--steps must be a whole number or auto, got {args.steps!r}")
    receiver = Receiver.load(args.receiver) if args.receiver else None
    servers = [server.strip() for server in args.server.split(",") if server.strip()]
    measured = device_profile.this_machine()
    for caution in device_profile.cautions(measured) if measured else []:
        output.say(caution)
    decode_s = measured.ue_s() if measured else None
    client = Client(servers, args.token or os.environ.get(TOKEN), receiver, args.patience_s, decode_s, _say)
    answer = asyncio.run(
        client.ask(
            args.prompt,
            seed=args.seed,
            deadline_s=args.deadline_s,
            energy_j=args.energy_budget_j,
            steps=None if steps is None else int(steps),
            merge_ratio=ratio,
            quantiser_bits=args.quantiser_bits,
            as_typed=args.as_typed,
        )
    )
    output.save_image(answer.image, args.out)
    if answer.received is None:
        output.say("this server decodes itself: no user equipment can decode its backbone")
        if args.payload:
            raise InputError("--payload has nothing to hold: this server sends pictures (the picture is written)")
    elif args.payload:
        from megen.codec.framing import pack
        from megen.files import replacing

        with replacing(args.payload) as temporary:
            temporary.write_bytes(pack(answer.received))
    if args.report:
        write_json(args.report, report(answer))
    if args.deadline_s is not None and answer.latency_s > args.deadline_s:
        output.say(f"warning: it took {answer.latency_s:.2f} s, the limit is {args.deadline_s:g} s")
    print(args.out)


def report(answer: Answer) -> dict[str, object]:
    """The server's report with what this side measured."""
    stages = answer.report["latency_s"]
    server_s = sum(stages.get(k, 0.0) for k in ("queue", "text", "denoise", "merge", "code", "es_decode"))
    air_s = max(0.0, answer.latency_s - server_s - answer.decode_s)
    latency = {**stages, "transmit": air_s, "decode": answer.decode_s, "total": answer.latency_s}
    height, width = answer.image.shape[:2]
    own = {"reconnects": answer.reconnects, "received_bytes": answer.bytes, "image": {"width_px": width, "height_px": height}}
    return {**answer.report, "latency_s": latency, **own}


def _say(event: Event) -> None:
    from megen.protocol import PREVIEW, Frame
    from megen.protocol.messages import Accepted, Coded, Stepped

    if isinstance(event, str):
        output.say(event)
    elif isinstance(event, Accepted):
        place = f"{event.position} requests ahead; " if event.position else ""
        bits = f"{event.decision.quantiser_bits:g} bits a value"
        output.say(f"{place}{event.decision.steps} steps, merge ratio {event.decision.merge_ratio:g}, {bits} ({event.why})")
        if event.added:
            output.say(f"added: {', '.join(event.added)}")
        if event.missing:
            output.say(f"not in this world: {', '.join(event.missing)}")
    elif isinstance(event, Stepped):
        output.say(f"step {event.done} of {event.of}")
    elif isinstance(event, Coded):
        what = "features" if event.picture is None else f"a picture of {event.bytes} bytes"
        output.say(f"{what} in {event.parts} parts")
    elif isinstance(event, Frame) and event.kind == PREVIEW:
        output.say(f"preview after step {event.part}: {len(event.data)} bytes")


def _number(name: str, text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise InputError(f"{name} must be a number or auto, got {text!r}") from None
