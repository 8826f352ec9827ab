"""`megen train decoder`, `prior` and `denoiser`: the user equipment's half of a backbone."""

from __future__ import annotations

import argparse
import zlib
from contextlib import nullcontext
from pathlib import Path

from megen.cli import output
from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from megen.backbone import Backbone
    from megen.codec import Prior
    from megen.training.examples import Examples

GAINS_OF = 16  # latents that the decoder's gains are measured with
BATCH = 8  # of an embedded backbone's own latents
PROMPTS = 1000  # captions of scenes, where no prompts are given


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the three commands."""
    d = commands.add_parser(
        "train decoder",
        help="distil a light receiver from a backbone's own decoder",
        description="Distil a light receiver (restorer and decoder) from a backbone's own decoder, for latents that crossed noisy links. "
        "Run the same command again to go on after an interruption; several devices by torchrun.",
    )
    _add_examples(d, default=512)
    d.set_defaults(run=run_decoder)
    d.add_argument("--steps", type=int, default=4000, help="(default: %(default)s)")
    d.add_argument("--batch", type=int, default=8, help="(default: %(default)s)")
    d.add_argument("--lr", type=float, default=6e-4, help="(default: %(default)s)")
    d.add_argument("--width", type=float, default=1.0, help="of all its levels, times the usual (default: %(default)s)")
    d.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default: %(default)s)")
    p = commands.add_parser(
        "train prior",
        help="fit the entropy coder's prior to a backbone's latents",
        description="Fit the entropy coder's prior to a backbone's latents; without one each payload brings its own scales. "
        "An embedded backbone uses the file beside its weights.",
    )
    _add_examples(p, default=256)
    p.set_defaults(run=run_prior)
    p.add_argument("--steps", type=int, default=1500, help="(default: %(default)s)")
    n = commands.add_parser(
        "train denoiser",
        help="train the denoiser that a phone runs on features that arrived with much noise, coarse or in part",
        description="Train the phone's denoiser on latents of an embedded backbone's own that crossed random links. "
        "Run the same command again to go on after an interruption. Beside the backbone's weights its file is used.",
    )
    n.set_defaults(run=run_denoiser)
    n.add_argument("--backbone", default="scenes", metavar="NAME|PATH", help="whose latents (default: %(default)s)")
    n.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="latents, checkpoints and the weights")
    n.add_argument("--from", dest="start", type=Path, metavar="FOLDER", help="train the denoiser in that folder on")
    n.add_argument("--steps", type=int, default=6000, help="(default: %(default)s)")
    n.add_argument("--batch", type=int, default=32, help="(default: %(default)s)")
    n.add_argument("--lr", type=float, default=2e-3, help="(default: %(default)s)")
    n.add_argument("--latents", type=int, default=2048, help="own latents to begin with (default: %(default)s)")
    n.add_argument("--crossings", type=int, default=2048, help="of links, before the first step (default: %(default)s)")
    n.add_argument("--fresh-per-step", type=int, default=16, help="crossings renewed for each step (default: %(default)s)")
    n.add_argument("--save-every", type=int, default=250, help="steps between checkpoints (default: %(default)s)")
    n.add_argument("--seed", type=int, default=0)
    n.add_argument("--device", default="auto")


def _add_examples(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--backbone", default="scenes", metavar="NAME|PATH", help="whose latents (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="examples, checkpoints and the receiver")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="train on these, with metadata.jsonl (file_name, text)")
    parser.add_argument("--scenes", action="store_true", help="train on rendered scenes (default: on the backbone's own samples)")
    parser.add_argument("--prompts", type=Path, metavar="F.txt", help="of the samples, a line each (default: captions of scenes)")
    parser.add_argument("--examples", type=int, default=default, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")


def run_decoder(args: argparse.Namespace) -> None:
    """Train, or go on where the folder left off, and write the graph."""
    _check(args)
    import torch
    from accelerate import PartialState

    from megen import run_folder
    from megen.models.placement import device_of
    from megen.training.decoder import DecoderRecipe, train

    recipe = DecoderRecipe(args.steps, args.batch, args.lr, save_every=args.save_every, seed=args.seed)
    output.bounded("--width", args.width, 0.05, 8)
    state = PartialState(cpu=device_of(args.device).type == "cpu")  # of this process, where there are several
    if state.device.type == "cuda":
        torch.cuda.set_device(state.device)
    backbone, made_from = _backbone(args)
    with run_folder.held(args.out, {"backbone": made_from}) if state.is_main_process else nullcontext():
        from megen.models.light_decoder import config_for

        config = config_for(backbone.spec.latent_shape, backbone.spec.image_px, args.width)
        with state.main_process_first():
            data = _examples(args, backbone, made_from)
        model = train(recipe, config, backbone, data, _prior(args, backbone), args.out)
        if state.is_main_process:
            print(_write_graph(args, backbone, model))


def run_prior(args: argparse.Namespace) -> None:
    """Fit the prior; a decoder that lies in the folder is written again for it."""
    _check(args)
    output.bounded("--steps", args.steps, 1, 10**7)
    from megen import run_folder
    from megen.codec import prior
    from megen.models.embedded import EmbeddedBackbone
    from megen.provenance import provenance
    from megen.training import prior as fitting
    from megen.training.phone_denoiser import own_latents

    backbone, made_from = _backbone(args)
    with run_folder.held(args.out, {"backbone": made_from}):
        if isinstance(backbone, EmbeddedBackbone) and not (args.pictures or args.scenes or args.prompts):
            latents = own_latents(backbone, args.examples, args.seed, args.out / "latents.safetensors", BATCH).float()
        else:
            latents = _examples(args, backbone, made_from).latents
        relative = fitting.relative_steps(lambda z: backbone.decode(z.to(backbone.device)).cpu(), latents[:GAINS_OF], args.seed)
        fitted = fitting.train(latents, relative, args.steps, seed=args.seed)
        prior.save(fitted, args.out, {"backbone": backbone.spec.name, **provenance()})
        from megen.models import light_decoder

        if (args.out / light_decoder.FILE).is_file():
            _write_graph(args, backbone, light_decoder.load(args.out))
        print(args.out / prior.FILE)


def run_denoiser(args: argparse.Namespace) -> None:
    """Train, or go on where the folder left off."""
    import os

    from megen import run_folder
    from megen.codec import prior
    from megen.models import embedded, phone_denoiser, weights
    from megen.models.placement import device_of
    from megen.training.phone_denoiser import PhoneDenoiserRecipe, train

    recipe = PhoneDenoiserRecipe(
        args.steps, args.batch, args.lr, args.latents, args.crossings, args.fresh_per_step, args.save_every, args.seed
    )
    backbone = embedded.load(args.backbone, str(device_of(args.device)), quick=True)
    learned = prior.load(embedded.folder_of(args.backbone), backbone.latent_shape[0])
    start = phone_denoiser.load(args.start) if args.start else None
    if args.start and (start is None or start.config.channels != backbone.latent_shape[0]):
        raise InputError(f"{args.start} holds no {phone_denoiser.FILE} for latents of {backbone.latent_shape[0]} channels")
    about = {"backbone": backbone.digest, "recipe": vars(recipe), "start": weights.content(args.start)[:16] if args.start else None}
    with run_folder.held(args.out, about):
        print(train(recipe, backbone, learned, args.out, max(1, (os.cpu_count() or 2) - 1), start))


def _check(args: argparse.Namespace) -> None:
    """Errors: InputError on options that do not go together."""
    output.bounded("--examples", args.examples, 2, 10**6)
    output.bounded("--seed", args.seed, 0, 2**31 - 1)
    if args.pictures and args.scenes:
        raise InputError("--pictures and --scenes both say what to train on: give one of them")
    if args.prompts and (args.pictures or args.scenes):
        raise InputError("--prompts are for samples of the backbone: leave --pictures and --scenes out")


def _backbone(args: argparse.Namespace) -> tuple[Backbone, str]:
    """The backbone, and what its examples are made from."""
    from megen.files import read_text
    from megen.halves import transmitter_of
    from megen.training import pictures

    backbone = transmitter_of(args.backbone, args.device).backbone
    what: object = "scenes"
    if args.pictures:
        what = pictures.digest(pictures.read_captions(args.pictures))
    elif not args.scenes:  # samples depend on all of how the backbone is run
        how = getattr(backbone, "checkpoint", ""), backbone.spec.steps, getattr(backbone, "guidance", "")
        what = f"{how}, {zlib.crc32((read_text(args.prompts) if args.prompts else '').encode())}"
    return backbone, f"{getattr(backbone, 'digest', '')}, {backbone.spec.latent_shape}, {what}, seed {args.seed}"


def _examples(args: argparse.Namespace, backbone: Backbone, made_from: str) -> Examples:
    from megen.files import read_text
    from megen.training import examples
    from megen.training.pictures import read_captions

    if args.pictures:
        source = examples.of_pictures(backbone, read_captions(args.pictures))  # type: ignore[arg-type]
    elif args.scenes:
        source = examples.of_scenes(backbone, args.seed)  # type: ignore[arg-type]
    else:
        given = [line.strip() for line in read_text(args.prompts).splitlines() if line.strip()] if args.prompts else None
        if given == []:
            raise InputError(f"{args.prompts} holds no prompts: write one a line")
        source = examples.of_samples(backbone, given or examples.scene_prompts(args.seed, PROMPTS), args.seed)
    return examples.collect(backbone, source, args.examples, args.out / "examples", made_from)


def _prior(args: argparse.Namespace, backbone: Backbone) -> Prior:
    """Of the folder, or of an embedded backbone."""
    from megen.codec import prior
    from megen.halves import prior_of

    channels = backbone.spec.latent_shape[0]
    if not hasattr(backbone, "checkpoint"):
        return prior_of(backbone, args.backbone)
    return prior.load(args.out, channels) if (args.out / prior.FILE).is_file() else prior.plain(channels)


def _write_graph(args: argparse.Namespace, backbone: Backbone, model: object) -> Path:
    from megen.export import export_receiver
    from megen.ue.receiver import GRAPH

    export_receiver(model, backbone, _prior(args, backbone), args.out / GRAPH)  # type: ignore[arg-type]
    return Path(args.out) / GRAPH
