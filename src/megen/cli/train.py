"""`megen train`: a backbone on scenes or on a folder of captioned pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.cli import output
from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from megen.training.backbone import Plan


LR = 2e-3  # of everything but --adversarial


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    t = commands.add_parser(
        "train",
        help="train a backbone on scenes or on a folder of captioned pictures",
        description="Train a backbone. Run the same command again to go on after an interruption.",
    )
    t.set_defaults(run=run)
    t.add_argument("data", help="scenes, or a folder of pictures with metadata.jsonl (file_name, text)")
    t.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoints, latents, samples and the finished weights")
    t.add_argument("--name", default="", help="the backbone's name (default: the data's)")
    t.add_argument("--from", dest="start", metavar="NAME|PATH", help="a backbone to train on from")
    t.add_argument("--reset-denoiser", action="store_true", help="with --from: keep its autoencoder only")
    kinds = ("trajectory", "progressive", "lagrangian", "consistency")
    t.add_argument("--distill", choices=kinds, help="with --from: make one flow map for any number of steps of it, by this loss")
    t.add_argument("--student", metavar="NAME|PATH", help="with --distill: a flow map to distil on from, instead of the teacher's weights")
    t.add_argument("--guidance", type=float, help="with --distill: of the teacher, built into the flow map (default: 2)")
    t.add_argument("--elastic", action="store_true", help="with --distill: also train nets of reduced depth")
    t.add_argument(
        "--adversarial",
        action="store_true",
        help="with --from a flow map of scenes and --autoencoder-steps 0: sharpen it by a discriminator and a judge's reward",
    )
    t.add_argument("--gan-weight", type=float, help="with --adversarial; 0: without a discriminator (default: 1.5)")
    t.add_argument("--reward-weight", type=float, help="with --adversarial; 0: without a reward (default: 0.3)")
    t.add_argument("--device", default="auto")
    t.add_argument("--scenes", type=int, default=6144, help="scenes to render before the denoiser is trained (default: %(default)s)")
    t.add_argument(
        "--fresh-scenes-per-step", type=int, default=2, help="scenes rendered in the background for each step (default: %(default)s)"
    )
    t.add_argument("--image-px", type=int, default=1024, help="side of the pictures, a multiple of 256 (default: %(default)s)")
    t.add_argument("--autoencoder-steps", type=int, default=2800, help="0 with --from: keep its autoencoder (default: %(default)s)")
    t.add_argument("--autoencoder-batch", type=int, default=16, help="crops (default: %(default)s)")
    t.add_argument("--crop-px", type=int, default=128, help="of the autoencoder's crops, a multiple of 32 (default: %(default)s)")
    t.add_argument("--pool", type=int, default=500, help="pictures that it crops (default: %(default)s)")
    t.add_argument(
        "--finest-width", type=int, default=0, help="of a decoder's stage at a quarter of the resolution; 0: as --from (default: 0)"
    )
    t.add_argument("--decoder-only", action="store_true", help="train the decoder on, keep encoder and latents")
    t.add_argument("--steps", type=int, default=4000, help="steps of the denoiser; 0 with --from: keep it (default: %(default)s)")
    t.add_argument("--batch", type=int, default=32)
    t.add_argument("--lr", type=float, help=f"(default: {LR:g}; with --adversarial 1.2e-4)")
    t.add_argument(
        "--time-shift", type=float, help="above 1: more of the training at high noise (default: 2; not with --distill or --adversarial)"
    )
    t.add_argument(
        "--receiver-steps",
        type=int,
        default=1200,
        help="steps of entropy coder and restorer; 0: keep those of --from (default: %(default)s)",
    )
    t.add_argument("--save-every", type=int, help="steps of the denoiser (default: 250; with --adversarial 25)")
    t.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> None:
    """Train, or go on where the folder left off."""
    plan = _plan(args)
    from megen.models.placement import device_of
    from megen.training.backbone import train

    print(train(plan, device_of(args.device)))


def _plan(args: argparse.Namespace) -> Plan:
    """The plan of the options. Errors: InputError on options that do not go together."""
    pictures = None if args.data == "scenes" else Path(args.data)
    if pictures is not None and not pictures.is_dir():
        raise InputError(f"the data must be scenes or a folder of pictures, got {args.data!r}")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out} is a file: name a folder")
    _check_numbers(args)
    _check_pairs(args)
    from megen.training.adversarial import AdversarialRecipe
    from megen.training.autoencoder import AutoencoderRecipe
    from megen.training.backbone import Plan
    from megen.training.distill import DistillRecipe
    from megen.training.teacher import TeacherRecipe

    schedule = {"steps": args.steps, "batch": args.batch, "lr": LR if args.lr is None else args.lr, "seed": args.seed}
    slow = AdversarialRecipe.lr if args.lr is None else args.lr
    saving, shift = _given(args, "save_every"), _given(args, "time_shift")
    weights, guidance = _given(args, "gan_weight", "reward_weight"), _given(args, "guidance")
    return Plan(
        name=args.name or (pictures.resolve().name if pictures else "scenes"),
        folder=args.out,
        pictures=pictures,
        image_px=args.image_px,
        scenes=args.scenes,
        fresh_scenes_per_step=args.fresh_scenes_per_step,
        start=args.start,
        reset_denoiser=args.reset_denoiser,
        distill=DistillRecipe(args.distill, **schedule, **saving, **guidance, elastic=args.elastic) if args.distill else None,
        adversarial=AdversarialRecipe(**(schedule | {"lr": slow}), **saving, **weights) if args.adversarial else None,
        student=args.student,
        receiver_steps=args.receiver_steps,
        finest_width=args.finest_width,
        autoencoder=AutoencoderRecipe(
            steps=args.autoencoder_steps,
            batch=args.autoencoder_batch,
            crop_px=args.crop_px,
            pool=args.pool,
            seed=args.seed,
            decoder_only=args.decoder_only,
        ),
        teacher=TeacherRecipe(**schedule, **saving, **shift),
    )


def _given(args: argparse.Namespace, *options: str) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name in options if (value := getattr(args, name)) is not None}


def _check_numbers(args: argparse.Namespace) -> None:
    if args.image_px % 256 or not 256 <= args.image_px <= 4096:
        raise InputError(f"--image-px must be a multiple of 256 up to 4096, got {args.image_px}")
    if args.crop_px % 32 or not 32 <= args.crop_px <= args.image_px:
        raise InputError(f"--crop-px must be a multiple of 32 up to --image-px, got {args.crop_px}")
    least = {
        "scenes": 1,
        "fresh_scenes_per_step": 0,
        "receiver_steps": 0,
        "batch": 1,
        "autoencoder_batch": 1,
        "pool": 1,
        "finest_width": 0,
        "steps": 0 if args.start else 1,
        "autoencoder_steps": 0 if args.start else 1,
    }
    for option, bound in least.items():
        if getattr(args, option) < bound:
            raise InputError(f"--{option.replace('_', '-')} must be at least {bound}, got {getattr(args, option)}")
    output.bounded("--seed", args.seed, 0, 2**31 - 1)
    output.bounded("--guidance", args.guidance, 1, 20)
    output.bounded("--save-every", args.save_every, 1, 10**6)
    output.bounded("--time-shift", args.time_shift, 0.1, 20)
    output.bounded("--lr", LR if args.lr is None else args.lr, 1e-9, 0.999)
    output.bounded("--gan-weight", args.gan_weight, 0, 100)
    output.bounded("--reward-weight", args.reward_weight, 0, 100)


def _check_pairs(args: argparse.Namespace) -> None:
    """Options that need one another, or exclude one another."""
    for option in ("distill", "reset-denoiser", "adversarial", "decoder-only"):
        if getattr(args, option.replace("-", "_")) and not args.start:
            raise InputError(f"--{option} needs --from: there must be a backbone to start from")
    if (args.elastic or args.student) and not args.distill:
        raise InputError(f"--{'elastic' if args.elastic else 'student'} needs --distill")
    if not args.distill:
        output.refuse(args, ["guidance"], "needs --distill")
    if not args.adversarial:
        output.refuse(args, ["gan_weight", "reward_weight"], "needs --adversarial")
    whole = args.autoencoder_steps or args.reset_denoiser or args.decoder_only or not args.steps
    for option in ("distill", "adversarial"):
        if getattr(args, option) and whole:
            raise InputError(
                f"--{option} keeps the autoencoder of --from: give --autoencoder-steps 0, one step or more,"
                " no --reset-denoiser and no --decoder-only"
            )
    if args.adversarial or args.distill:
        output.refuse(args, ["time_shift"], "cannot change with --distill or --adversarial: it is that of --from")
    if args.adversarial and (args.distill or args.data != "scenes"):
        raise InputError("--adversarial works on scenes, whose captions can be judged, and not together with --distill")
    if args.reset_denoiser and not args.steps:
        raise InputError("--reset-denoiser needs at least one step of the denoiser")
