"""`megen train refiner`: what draws small things after a flow map's last step."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megen.cli import output
from megen.errors import InputError

if TYPE_CHECKING:
    from megen.models.refiner import Refiner


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    r = commands.add_parser(
        "train refiner",
        help="train the refiner that draws small things after a flow map's last step",
        description="Train the refiner of an embedded flow map, on renders and on where the flow map's steps end from noise over them. "
        "With --from it learns single steps too; a first one leaves pictures of one step as they are. "
        "Run the same command again to go on after an interruption. Beside the backbone's weights its file is used.",
    )
    r.set_defaults(run=run)
    r.add_argument("--backbone", default="scenes", metavar="NAME|PATH", help="whose steps (default: %(default)s)")
    r.add_argument(
        "--from", dest="start", type=Path, metavar="NAME|PATH", help="refiner or backbone whose refiner is trained on, on single steps too"
    )
    r.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="latents, paths, checkpoints and the weights")
    r.add_argument("--steps", type=int, default=8000, help="(default: %(default)s)")
    r.add_argument("--batch", type=int, default=16, help="(default: %(default)s)")
    r.add_argument("--lr", type=float, default=2e-3, help="(default: %(default)s)")
    r.add_argument("--scenes", type=int, default=6144, help="scenes to render, every third a starry night (default: %(default)s)")
    r.add_argument("--paths", type=int, default=12288, help="of the flow map over their latents (default: %(default)s)")
    r.add_argument("--width", type=int, help="of its layers (default: 128, or as --from)")
    r.add_argument("--blocks", type=int, help="(default: 4, or as --from)")
    r.add_argument("--evaluations", type=int, default=4, help="of the net for each picture (default: %(default)s)")
    r.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default: %(default)s)")
    r.add_argument("--seed", type=int, default=0)
    r.add_argument("--device", default="auto")


def run(args: argparse.Namespace) -> None:
    """Train, or go on where the folder left off."""
    import os

    from megen import run_folder
    from megen.models import embedded
    from megen.models.placement import device_of
    from megen.models.refiner import BLOCKS, WIDTH, RefinerConfig
    from megen.scenes.splits import SHARPENING_SEED
    from megen.training import latents
    from megen.training.refiner import RefinerRecipe, mark, train

    output.bounded("--scenes", args.scenes, 2, 10**6)
    recipe = RefinerRecipe(args.steps, args.batch, args.lr, args.paths, save_every=args.save_every, seed=args.seed)
    device = device_of(args.device)
    backbone = embedded.load(args.backbone, str(device), quick=True)
    if not backbone.config.flow_map:
        raise InputError(f"{args.backbone} is no flow map: distil one of it first, with megen train --distill")
    if backbone.config.image_px[0] != backbone.config.image_px[1]:
        raise InputError(f"{args.backbone} makes pictures of {backbone.config.image_px} px, and scenes are square")
    start = _start(args, backbone.refined_widths)
    shape = start.config if start else RefinerConfig(*backbone.refined_widths, args.width or WIDTH, args.blocks or BLOCKS)
    config = replace(shape, evaluations=args.evaluations, single=start is not None and start.suits(backbone.flow_digest))
    backbone.refiner = None
    about = {"flow_map": backbone.flow_digest, "recipe": vars(recipe), "config": vars(config), "scenes": args.scenes}
    with run_folder.held(args.out, {**about, "start": mark(start)}):
        side, workers = backbone.config.image_px[0], max(1, os.cpu_count() or 1)
        folder = args.out / "latents"
        latents.cache_scenes(backbone.autoencoder, SHARPENING_SEED, args.scenes, side, folder, device, workers)
        print(train(recipe, config, backbone, latents.load(folder, args.scenes), args.out, start))


def _start(args: argparse.Namespace, widths: tuple[int, int]) -> Refiner | None:
    """The refiner of --from. Errors: InputError where it is none, or of another backbone's shape, or its own shape is given too."""
    from megen.models import embedded, refiner

    for name, value in (("width", args.width), ("blocks", args.blocks)):
        if value is not None:
            output.bounded(f"--{name}", value, 1, refiner.MOST_WIDTH)
            if args.start:
                raise InputError(f"--{name} is that of --from: leave it out")
    if args.start is None:
        return None
    start, _ = refiner.read(args.start if args.start.exists() else embedded.folder_of(str(args.start)))
    if (has := (start.config.channels, start.config.pooled_width)) != widths:
        raise InputError(f"the refiner of {args.start} is for channels and pooled width {has}, {args.backbone} has {widths}")
    return start
