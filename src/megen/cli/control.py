"""`megen control`: plan, learn and evaluate the policy that chooses steps and merge ratio."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    c = commands.add_parser(
        "control",
        help="plan, train and evaluate the policy that chooses steps and merge ratio",
        description="Plan exactly for a load and its limits, train a policy on the constrained MDP, or evaluate policies.",
    )
    c.set_defaults(run=run)
    doing = c.add_subparsers(dest="what", required=True, metavar="plan|train|evaluate|fit")
    t = doing.add_parser("train", help="learn a policy", description="Learn a policy. Run MEG-CVPO again to go on after an interruption.")
    t.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="policy.npz, progress.csv and the checkpoint")
    algorithms = ("cvpo", "cvpo-value", "ppo-lag", "sac-lag", "fixed-penalty")
    t.add_argument("--algorithm", choices=algorithms, default="cvpo", help="(default: %(default)s)")
    t.add_argument("--iterations", type=int, metavar="N", help="of 102,400 requests each (default: 40)")
    v = doing.add_parser("evaluate", help="measure policies", description="Measure one policy, or all of them, beside the exact optimum.")
    named = "lp, unconstrained, myopic, backlog-blind, channel-blind, fixed-mixture, fixed, greedy, random"
    v.add_argument(
        "--policy",
        metavar="NAME|PATH",
        help=f"one policy alone: {named}, a bundled learned one ({', '.join(algorithms)}), or a trained one's path (default: all)",
    )
    v.add_argument("--episodes", type=int, default=200, metavar="N", help="episodes of each policy (default: %(default)s)")
    v.add_argument("--horizon", type=int, metavar="N", help="requests an episode (default: 200; as-released: 64)")
    v.add_argument(
        "--alpha", type=float, default=0.05, help="highest probability of a miss that the shield lets through (default: %(default)s)"
    )
    v.add_argument("--json", metavar="F.json", help="write the whole object there; - is stdout (default: a table on stdout)")
    n = doing.add_parser(
        "plan",
        help="the exact plan for a load, its limits and two machines",
        description="Work out the best policy whose long-run means keep the limits, to 1e-4 of its reward, in about a second.",
    )
    n.add_argument("--scenario", type=Path, metavar="F.json", help="the load, as megen control fit wrote it (default: the assumed one)")
    n.add_argument("--tardiness-limit-s", type=float, help="mean of what requests take beyond the deadline (default: 0.0075)")
    n.add_argument("--relax", action="store_true", help="where no policy keeps the limits, plan for the nearest that can be kept")
    n.add_argument("--out", type=Path, metavar="F.npz", help="write the policy there, for generate --policy and control evaluate")
    n.add_argument("--json", metavar="F.json", help="write the whole object there; - is stdout (default: a few lines on stdout)")
    f = doing.add_parser(
        "fit",
        help="a scenario from a log of requests",
        description="Estimate arrivals, channel and service times from a JSONL log of requests (schema: docs/control.md).",
    )
    f.add_argument("log", type=Path, metavar="LOG.jsonl")
    f.add_argument("--out", type=Path, metavar="F.json", help="write the scenario there, for control plan --scenario")
    f.add_argument("--server-out", type=Path, metavar="F.json", help="write the edge server's profile there, with the log's seconds")
    f.add_argument("--phone-out", type=Path, metavar="F.json", help="write the phone's profile there, with the log's seconds")
    f.add_argument("--json", metavar="F.json", help="write the whole object there; - is stdout (default: a few lines on stdout)")
    for p in (t, v):
        p.add_argument("--seed", type=int, default=0, help="of every random draw (default: %(default)s)")
        p.add_argument("--env", choices=("main", "long-run", "as-released"), default="main", help="which process (default: %(default)s)")
    for p in (t, v, n):
        p.add_argument(
            "--reward",
            choices=("seen", "reference", "attributes"),
            help="what a request earns: what is seen, closeness to the most steps (the source's), or named attributes that come out right"
            " (default: seen for plans and long-run, else reference)",
        )
        p.add_argument("--quality", type=Path, metavar="F.npz", help="quality grid (default: the bundled one)")
        p.add_argument(
            "--server", metavar="NAME|PATH", help="edge server's device profile (default: the process's own; of plans the bundled cpu)"
        )
        p.add_argument(
            "--phone", metavar="NAME|PATH", help="phone's device profile (default: the process's own; of plans the bundled phone)"
        )
        p.add_argument("--deadline-s", type=float, help="latency that a request should keep (default: 0.7; as-released: 3, of its mean)")
        p.add_argument("--late-limit", type=float, help="share of requests that may miss it (default: 0.05)")
        p.add_argument("--energy-limit-j", type=float, help="mean energy of a request (default: 6.4; as-released: 1800)")
        p.add_argument("--gap-s", metavar="A,B", help="mean gaps between requests in s, in a burst and between bursts (default: 0.2,1)")
        p.add_argument("--snr-mean-db", type=float, help="mean SNR of the link (default: 6)")


def run(args: argparse.Namespace) -> None:
    """Plan, train, evaluate or fit."""
    from megen.cli import control_run

    control_run.control(args)
