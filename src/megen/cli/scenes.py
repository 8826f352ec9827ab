"""`megen scenes`: the true picture of a caption of the embedded world."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.cli import output


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    s = commands.add_parser(
        "scenes",
        help="render the true picture of a caption",
        description="Render the true picture of a caption: what the embedded backbone learned from.",
    )
    s.set_defaults(run=run)
    s.add_argument("caption")
    s.add_argument("--out", type=Path, default=Path("scene.png"), metavar="F.png")
    s.add_argument("--seed", type=int, default=0, help="decides all that the caption leaves open (default: %(default)s)")
    s.add_argument("--size-px", type=int, default=1024, help="side of the picture, 64 to 8192 (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Render one picture."""
    from megen.files import check_writable
    from megen.words import check_words, left_out

    check_writable(args.out)
    output.picture_format(args.out)
    check_words(args.caption, "caption")
    output.bounded("--size-px", args.size_px, 64, 8192)
    output.bounded("--seed", args.seed, 0, 2**63 - 1)
    import numpy as np

    from megen.scenes.captions import parse, sample_scene, vocabulary
    from megen.scenes.render import render

    unknown, named = left_out(args.caption, vocabulary()), parse(args.caption)
    if unknown:
        output.say(f"warning: unknown words, left out: {', '.join(unknown)}")
    scene = sample_scene(np.random.default_rng(args.seed), given=named)
    output.say("drawn as named: " + (", ".join(named.values()) or "nothing; all is random"))
    output.save_image((render([scene], args.size_px)[0].permute(1, 2, 0) * 255).round().byte().numpy(), args.out)
    print(args.out)
