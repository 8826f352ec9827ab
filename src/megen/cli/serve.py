"""`megen serve`: an edge server, with a page for phones."""

from __future__ import annotations

import argparse
import ssl
from pathlib import Path

from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from megen.halves import Receives, Transmitter
    from megen.link import Link
    from megen.serving.cluster import Cluster


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    s = commands.add_parser(
        "serve",
        help="run an edge server that phones and programs ask for pictures",
        description="Run an edge server: it denoises, sends features over WebSockets, and serves the page that decodes them in a browser.",
    )
    s.set_defaults(run=run)
    s.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets phones in (default: %(default)s)")
    s.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    s.add_argument("--token-file", type=Path, metavar="F", help="who may ask: a line each, `name token`")
    s.add_argument("--insecure", action="store_true", help="let anyone in who can reach the address")
    s.add_argument("--origin", action="append", default=[], metavar="URL", help="another site whose pages may ask; may be repeated")
    s.add_argument("--tls-cert", type=Path, metavar="F", help="certificate, for https")
    s.add_argument("--tls-key", type=Path, metavar="F", help="its key")
    s.add_argument(
        "--backbone",
        default="scenes",
        metavar="NAME|PATH",
        help="a bundled backbone, a folder of weights, a hub name, or a JSON file that says how a checkpoint is run",
    )
    s.add_argument("--device", default="auto", help="where it runs: auto, cpu or cuda (default: %(default)s)")
    s.add_argument("--policy", default="plan", metavar="NAME|PATH", help="who decides what requests leave open (default: %(default)s)")
    s.add_argument("--quality", type=Path, metavar="F.npz", help="quality grid of the backbone (default: the bundled one's)")
    s.add_argument("--server", metavar="NAME|PATH", help="this edge server's device profile (default: this machine's)")
    s.add_argument(
        "--phone", metavar="NAME|PATH", help="device profile of phones that tell nothing of themselves (default: this machine's)"
    )
    s.add_argument("--rows", type=int, default=8, metavar="N", help="requests that are denoised together (default: %(default)s)")
    s.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait (default: %(default)s)")
    s.add_argument("--cluster", metavar="ADDRESS", help="run on replicas under Ray at this private address; local: on this machine")
    s.add_argument("--replicas", metavar="N[-M]", help="replicas of --cluster, from N to M by the load (default: 1)")
    s.add_argument("--threads", type=int, metavar="N", help="of the engine (default: as many as there are cores)")
    s.add_argument(
        "--requests-a-minute",
        type=int,
        default=120,
        metavar="N",
        help="of one token, or of one address without tokens (default: %(default)s)",
    )
    s.add_argument("--connections", type=int, default=64, metavar="N", help="of one address at a time (default: %(default)s)")
    s.add_argument("--log", type=Path, metavar="F.jsonl", help="write every request's outcome here, for megen control fit")
    s.add_argument(
        "--emulate-link",
        metavar="snr_db=X,speed_m_s=Y,...",
        help="put the simulated radio link between server and socket: snr_db, fading, speed_m_s, bandwidth_hz",
    )


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    from megen.cli import output
    from megen.files import check_writable
    from megen.serving.access import Access, Limits, check_exposed, read_tokens

    output.bounded("--port", args.port, 0, 65535)
    output.bounded("--queue", args.queue, 1, 10**6)
    tokens = read_tokens(args.token_file) if args.token_file else {}
    check_exposed(args.host, tokens, args.insecure)
    access = Access(tokens, Limits(args.requests_a_minute, args.connections), tuple(args.origin))
    if args.log:
        check_writable(args.log)
    link = emulated_link(args.emulate_link) if args.emulate_link else None
    tls = _tls(args)

    from megen.evaluation.device_profile import measure_once
    from megen.serving import server
    from megen.serving.service import Settings

    output.bounded("--threads", args.threads, 1, 1024)
    server.set_threads(args.threads)
    cluster = _cluster(args)
    settings = Settings(rows=args.rows, capacity=args.queue, engines=cluster.most if cluster else 1)
    profiles = (args.server, args.phone)
    options = server.Options(args.backbone, args.device, args.policy, args.quality, profiles, settings, args.log, link, cluster)
    listening = server.bound(args.host, args.port)  # before all that takes time
    output.say("loading the backbone")

    def prepare(transmitter: Transmitter, receiver: Receives) -> None:
        if args.backbone == "scenes" and not (args.server and args.phone):
            measure_once(transmitter, receiver, output.say)

    app = server.build(options, access, prepare)
    token = next(iter(tokens.values()), None)
    server.run(app, listening, tls=tls, ready=lambda url: server.say_address(url, token))


def _cluster(args: argparse.Namespace) -> Cluster | None:
    from megen.cli import output

    if not args.cluster:
        output.refuse(args, ("replicas",), "belongs to --cluster")
        return None
    from megen.serving.cluster import Cluster

    least, _, most = (args.replicas or "1").partition("-")
    try:
        counts = int(least), int(most or least)
    except ValueError:
        raise InputError(f"--replicas takes a number, or two such as 1-4, got {args.replicas!r}") from None
    return Cluster(*counts, address=None if args.cluster == "local" else args.cluster, gpus=float(args.device == "cuda"))


def _tls(args: argparse.Namespace) -> dict[str, str] | None:
    if (args.tls_cert is None) != (args.tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together: give both")
    if args.tls_cert is None:
        return None
    for path in (args.tls_cert, args.tls_key):
        if not path.is_file():
            raise InputError(f"no file {path}")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(args.tls_cert, args.tls_key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InputError(
            f"{args.tls_cert} and {args.tls_key} are not a certificate and its key, in PEM and without a password ({error})"
        ) from None
    return {"ssl_certfile": str(args.tls_cert), "ssl_keyfile": str(args.tls_key)}


def emulated_link(text: str) -> Link:
    """A radio link from `name=value` pairs, whose adaptation goes on from image to image. Errors: InputError naming what it knows."""
    from megen.link import RadioLink

    numbers = ("snr_db", "speed_m_s", "bandwidth_hz")
    fields: dict[str, object] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in (*numbers, "fading") or not value:
            raise InputError(f"--emulate-link takes {', '.join(numbers)} and fading as name=value, got {part!r}")
        try:
            fields[name] = value if name == "fading" else float(value)
        except ValueError:
            raise InputError(f"{name} of --emulate-link must be a number, got {value!r}") from None
    if "speed_m_s" in fields:
        fields.setdefault("fading", "rayleigh")
    return RadioLink(**fields).connect()  # type: ignore[arg-type]
