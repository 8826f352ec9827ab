"""`megen capacity`: how many engines a load needs."""

from __future__ import annotations

import argparse

from megen.cli import output
from megen.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    c = commands.add_parser(
        "capacity",
        help="how many engines a load needs",
        description="Simulate engines that batch by the step under a load, and find how many keep the share of late pictures.",
    )
    c.set_defaults(run=run)
    c.add_argument("--requests-an-hour", type=float, required=True, metavar="N", help="that arrive in the mean")
    c.add_argument("--deadline-s", type=float, default=2.0, help="when a picture should be there (default: %(default)s)")
    c.add_argument("--late", type=float, default=0.05, metavar="P", help="share that may be late (default: %(default)s)")
    c.add_argument("--engines", type=int, metavar="N", help="say what so many make of the load, instead of how many it needs")
    c.add_argument("--steps", default="4", metavar="N[:P],...", help="step counts with their shares, such as 1:0.2,4:0.8 (default: 4)")
    c.add_argument("--burst", type=float, default=1.0, metavar="C2", help="squared variation of the gaps; 1: independent (default: 1)")
    c.add_argument("--air-s", type=float, default=0.02, help="what a transmission takes (default: %(default)s)")
    c.add_argument("--rows", type=int, default=8, metavar="N", help="requests that an engine runs together (default: %(default)s)")
    c.add_argument("--shared-cores", action="store_true", help="text, merging and coding run on the engine's own cores, not beside it")
    c.add_argument("--server", metavar="NAME|PATH", help="the engine's device profile (default: this machine's, else the bundled cpu)")
    c.add_argument("--phone", metavar="NAME|PATH", default="phone", help="the phones' (default: %(default)s)")
    c.add_argument("--requests", type=int, default=100_000, metavar="N", help="requests to simulate (default: %(default)s)")
    c.add_argument("--seed", type=int, default=0, help="of the simulation (default: %(default)s)")
    c.add_argument("--json", metavar="F", help="write the result here; - is stdout")


def run(args: argparse.Namespace) -> None:
    """Simulate, and print the forecast."""
    from dataclasses import asdict

    from megen.cost import device_profile
    from megen.files import emit
    from megen.serving import capacity

    steps, shares = _steps(args.steps)
    load = capacity.Load(args.requests_an_hour, args.deadline_s, steps, shares, args.burst, args.air_s)
    measured = None if args.server else device_profile.this_machine()
    server = measured or device_profile.load(args.server or device_profile.SERVER)
    phone = device_profile.load(args.phone)
    options = {"rows": args.rows, "requests": args.requests, "seed": args.seed, "shared": args.shared_cores}
    if args.engines is not None:
        found = capacity.forecast(load, args.engines, server, phone, **options)
    else:
        found = capacity.engines_for(load, args.late, server, phone, **options)
    if args.json:
        emit({"load": asdict(load), "server": server.name, "phone": phone.name, **options, "forecast": asdict(found)}, args.json)
    if args.json != "-":
        print(f"{found.engines} engines: {100 * found.late:.2f} % late, median {found.p50_s:.2f} s, 95 % within {found.p95_s:.2f} s")
        print(f"engines compute {100 * found.busy:.0f} % of the time, {found.rows:.1f} rows in a batch (modelled, from the profiles)")
    for caution in [] if args.server else device_profile.cautions(measured):
        output.say(caution)
    if server.batch_fixed == 0:
        output.say(f"the profile {server.name!r} does not say what batching saves: none is assumed (megen profile measures it)")


def _steps(text: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    pairs = [part.partition(":") for part in text.split(",")]
    try:
        return tuple(int(steps) for steps, _, _ in pairs), tuple(float(share or 1) for _, _, share in pairs)
    except ValueError:
        raise InputError(f"--steps takes step counts with their shares, such as 1:0.2,4:0.8, got {text!r}") from None
