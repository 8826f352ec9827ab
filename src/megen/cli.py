"""The command line: the only place where things are wired. Heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from megen import __version__

DESCRIPTION = "Text-to-image generation shared between an edge server and a phone."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"megen: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="megen", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"megen {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    g = commands.add_parser(
        "generate",
        help="make an image from a prompt, sent over a link",
        description="Make one image: denoised and merged at the edge server, sent over a link, decoded at the user equipment.",
    )
    g.add_argument("prompt", help='what to draw, e.g. "a lighthouse at sunset, snowy mountains, pine trees"')
    g.add_argument("--out", type=Path, default=Path("megen.png"), metavar="F.png", help="where the image goes (default: %(default)s)")
    g.add_argument("--report", type=Path, metavar="F.json", help="write latencies, energies, bits and quality here")
    g.add_argument("--seed", type=int, default=0, help="start of all randomness (default: %(default)s)")
    g.add_argument("--steps", default="4", metavar="N", help="denoising steps that the backbone offers, or auto (default: %(default)s)")
    g.add_argument("--merge-ratio", default="0", metavar="R", help="share of tokens merged away, 0 to 0.75, or auto (default: %(default)s)")
    g.add_argument(
        "--link", choices=("none", "analog", "digital"), default="digital", help="what the features cross (default: %(default)s)"
    )
    g.add_argument("--snr-db", type=float, default=10.0, help="mean signal-to-noise ratio per complex channel use (default: %(default)s)")
    g.add_argument("--distance-m", type=float, help="take the SNR from a link budget at this distance instead")
    g.add_argument(
        "--path-loss", choices=("umi-los", "umi-nlos", "reference"), default="umi-los", help="of that budget (default: %(default)s)"
    )
    g.add_argument("--trace", type=Path, metavar="F.csv", help="take the SNR from a recording instead: columns time_s, snr_db")
    g.add_argument("--bandwidth-hz", type=float, default=1e6, help="bandwidth of the link (default: %(default)s)")
    fadings = ("awgn", "rayleigh", "rician")
    g.add_argument("--fading", choices=fadings, default="awgn", help="what the air does to the symbols (default: %(default)s)")
    g.add_argument("--speed-m-s", type=float, default=1.0, help="how fast the user moves, for fading (default: %(default)s)")
    g.add_argument(
        "--bits-budget", type=int, metavar="N", help="the finest quantiser whose payload takes at most N bits (default: 5 bits a value)"
    )
    g.add_argument("--deadline-s", type=float, help="latency limit; a miss is said on stderr; auto chooses by it")
    g.add_argument("--energy-budget-j", type=float, help="energy limit; a miss is said on stderr; auto chooses by it")
    g.add_argument(
        "--backbone", default="scenes", metavar="NAME|PATH", help="a shipped backbone or a folder of weights (default: %(default)s)"
    )
    g.add_argument("--device", default="auto", help="where the edge server's half runs: auto, cpu or cuda (default: %(default)s)")
    g.add_argument(
        "--reference",
        action="store_true",
        help="also make the image of the same seed with the most steps, no merging and no link, and report PSNR and SSIM to it",
    )
    g.add_argument("--grid", type=Path, metavar="F.png", help="also write a contact sheet over steps x merge ratio")
    g.add_argument("--words", action="store_true", help="print the words that the backbone knows before anything else")

    s = commands.add_parser(
        "scenes",
        help="render the true picture of a caption",
        description="Render the true picture of a caption: what the embedded backbone learned from.",
    )
    s.add_argument("caption")
    s.add_argument("--out", type=Path, default=Path("scene.png"), metavar="F.png")
    s.add_argument("--seed", type=int, default=0, help="decides all that the caption leaves open (default: %(default)s)")
    s.add_argument("--size-px", type=int, default=1024, help="side of the picture, 64 to 8192 (default: %(default)s)")

    t = commands.add_parser(
        "train",
        help="train a backbone on scenes or on a folder of captioned pictures",
        description="Train a backbone. Run the same command again to go on after an interruption.",
    )
    t.add_argument("data", help="scenes, or a folder of pictures with metadata.jsonl (file_name, text)")
    t.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoints, latents, samples and the finished weights")
    t.add_argument("--name", default="", help="the backbone's name (default: the data's)")
    t.add_argument("--from", dest="start", metavar="NAME|PATH", help="a backbone to train on from")
    t.add_argument("--anew", action="store_true", help="with --from: keep its autoencoder only")
    kinds = ("trajectory", "progressive", "lagrangian", "consistency")
    t.add_argument("--distill", choices=kinds, help="with --from: make one flow map for any number of steps of it, by this loss")
    t.add_argument("--student", metavar="NAME|PATH", help="with --distill: a flow map to distil on from, instead of the teacher's weights")
    t.add_argument("--guidance", type=float, default=2.0, help="of the teacher, built into the flow map (default: %(default)s)")
    t.add_argument("--elastic", action="store_true", help="with --distill: also train nets of reduced depth")
    t.add_argument("--device", default="auto")
    t.add_argument("--scenes", type=int, default=6144, help="scenes to render before the denoiser is trained (default: %(default)s)")
    t.add_argument("--fresh", type=int, default=2, help="scenes rendered in the background for each of its steps (default: %(default)s)")
    t.add_argument("--image-px", type=int, default=1024, help="side of the pictures, a multiple of 256 (default: %(default)s)")
    t.add_argument("--autoencoder-steps", type=int, default=2800, help="0 with --from: keep its autoencoder (default: %(default)s)")
    t.add_argument("--decoder-only", action="store_true", help="train the decoder on, keep encoder and latents")
    t.add_argument("--steps", type=int, default=4000, help="steps of the denoiser; 0 with --from: keep it (default: %(default)s)")
    t.add_argument("--batch", type=int, default=32)
    t.add_argument("--lr", type=float, default=2e-3)
    t.add_argument("--time-shift", type=float, default=2.0, help="above 1: more of the training at high noise (default: %(default)s)")
    t.add_argument(
        "--receiver-steps",
        type=int,
        default=1200,
        help="steps of entropy coder and restorer; 0: keep those of --from (default: %(default)s)",
    )
    t.add_argument("--save-every", type=int, default=250)
    t.add_argument("--seed", type=int, default=0)

    b = commands.add_parser(
        "bench",
        help="measure one half of the system and print a table",
        description="Measure payloads and distortion of every way to bring an image over a link, or a backbone at each number of steps.",
    )
    b.add_argument("what", choices=("link", "backbone"))
    b.add_argument("--prompts", type=int, default=50, metavar="N", help="held-out prompts (default: %(default)s)")
    b.add_argument("--steps", metavar="N", help="denoising steps of each image; for backbone several: 1,2,4 (default: the backbone's own)")
    b.add_argument("--seed", type=int, default=0)
    b.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    b.add_argument("--device", default="auto", help="backbone: where it runs: auto, cpu or cuda (default: %(default)s)")
    b.add_argument("--json", default="-", metavar="F.json", help="where the table goes; - is stdout (default: %(default)s)")
    b.add_argument("--teacher", metavar="PATH", help="backbone: measure this teacher anew, and distances to its images")
    b.add_argument("--consistency", metavar="PATH", help="backbone: measure this consistency model beside it")
    b.add_argument("--skipped", type=int, default=0, metavar="N", help="backbone: measure it also with N blocks left out")
    b.add_argument("--batch", type=int, default=4, metavar="N", help="backbone: images denoised together (default: %(default)s)")
    b.add_argument("--sheet", type=Path, metavar="F.jpg", help="backbone: write a contact sheet of steps x prompts")
    b.add_argument("--sweep", type=int, default=8, metavar="N", help="link: how many prompts cross at every SNR (default: %(default)s)")
    b.add_argument(
        "--avif-speed", type=int, default=0, metavar="S", help="link: effort of AVIF files: 0 strongest, 10 fastest (default: %(default)s)"
    )

    f = commands.add_parser(
        "profile",
        help="measure this machine's seconds, FLOPs and power by stage",
        description="Measure this machine's device profile: seconds and FLOPs of every stage of a generation, and its power where it can.",
    )
    f.add_argument("--out", type=Path, default=Path("profile.json"), metavar="F.json", help="where the profile goes (default: %(default)s)")
    f.add_argument("--name", default="this machine", help="the profile's name (default: %(default)s)")
    f.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    f.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    f.add_argument("--repeats", type=int, default=15, help="of each stage; the median counts (default: %(default)s)")
    f.add_argument(
        "--power-w", type=float, default=30.0, help="power while it works, where neither NVML nor RAPL tells it (default: %(default)s)"
    )

    m = commands.add_parser(
        "measure",
        help="measure the quality grid: distortion, fidelity and airtime of every decision",
        description="Run a backbone over held-out prompts x steps x merge ratio x SNR and write the grid that the controller learns from.",
    )
    m.add_argument("--prompts", type=int, default=200, metavar="N", help="held-out prompts, at least 12 (default: %(default)s)")
    m.add_argument("--out", type=Path, default=Path("quality.npz"), metavar="F.npz", help="where the grid goes (default: %(default)s)")
    m.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    m.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    m.add_argument("--steps", metavar="N", help="numbers of steps, such as 1,2,4 (default: the backbone's own)")
    m.add_argument(
        "--work", type=Path, metavar="FOLDER", help="finished prompts, to go on from after an interruption (default: beside the grid)"
    )

    _add_control(commands)

    e = commands.add_parser(
        "export",
        help="write the receiver as one ONNX graph",
        description="Write the user equipment's half (gather and decoder) as one ONNX graph.",
    )
    e.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    e.add_argument("--out", type=Path, default=Path("receiver.onnx"), metavar="F.onnx")
    return parser


def _add_control(commands: argparse._SubParsersAction[_Parser]) -> None:
    c = commands.add_parser(
        "control",
        help="train and evaluate the policy that chooses steps and merge ratio",
        description="Train a policy on the constrained MDP, or evaluate policies beside the exact optimum and every baseline.",
    )
    doing = c.add_subparsers(dest="what", required=True, metavar="train|evaluate", parser_class=_Parser)
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
        help=f"one policy alone: {named}, a shipped learned one ({', '.join(algorithms)}), or a trained one's path (default: all)",
    )
    v.add_argument("--episodes", type=int, default=200, metavar="N", help="episodes of each policy (default: %(default)s)")
    v.add_argument("--horizon", type=int, metavar="N", help="requests an episode (default: 200; as-released: 64)")
    v.add_argument(
        "--alpha", type=float, default=0.05, help="highest probability of a miss that the shield lets through (default: %(default)s)"
    )
    v.add_argument("--json", default="-", metavar="F.json", help="where the figures go; - is stdout (default: %(default)s)")
    for p in (t, v):
        p.add_argument("--seed", type=int, default=0, help="of every random draw (default: %(default)s)")
        p.add_argument("--env", choices=("main", "as-released"), default="main", help="which process (default: %(default)s)")
        p.add_argument("--quality", type=Path, metavar="F.npz", help="quality grid (default: the shipped one)")
        p.add_argument("--server", metavar="NAME|PATH", help="edge server's device profile (default: cpu)")
        p.add_argument("--phone", metavar="NAME|PATH", help="phone's device profile (default: phone)")
        p.add_argument("--deadline-s", type=float, help="latency that a request should keep (default: 0.7; as-released: 3, of its mean)")
        p.add_argument("--late-limit", type=float, help="share of requests that may miss it (default: 0.05)")
        p.add_argument("--energy-limit-j", type=float, help="mean energy of a request (default: 6.4; as-released: 1800)")
        p.add_argument("--gap-s", metavar="A,B", help="mean gaps between requests in s, in a burst and between bursts (default: 0.2,1)")
        p.add_argument("--snr-mean-db", type=float, help="mean SNR of the link (default: 6)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for a wrong input, 1 for a failed run."""
    parser = _parser()
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        from megen import commands

        command: Callable[[argparse.Namespace], None] = getattr(commands, args.command)
        command(args)
    except ValueError as error:  # every wrong input is one: files, numbers, words
        print(f"megen: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("megen: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # whatever a library raises: the run failed
        print(f"megen: failed: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())
