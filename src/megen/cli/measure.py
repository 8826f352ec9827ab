"""`megen measure`: the quality grid, distortion, fidelity and airtime of every decision."""

from __future__ import annotations

import argparse
from pathlib import Path

from megen.cli import output
from megen.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from megen.backbone import Backbone

PROMPTS = 200


def add(commands: argparse._SubParsersAction) -> None:
    """Options of the command."""
    m = commands.add_parser(
        "measure",
        help="measure the quality grid: distortion, fidelity and airtime of every decision",
        description="Run a backbone over held-out prompts x steps x merge ratio x SNR and write the grid that the controller learns from.",
    )
    m.set_defaults(run=run)
    m.add_argument("--prompts", type=int, metavar="N", help=f"held-out prompts, at least 12 (default: {PROMPTS}, or all of --texts)")
    m.add_argument("--out", type=Path, default=Path("quality.npz"), metavar="F.npz", help="where the grid goes (default: %(default)s)")
    m.add_argument("--texts", type=Path, metavar="F.txt", help="prompts of your own, one a line, for a published backbone")
    m.add_argument("--backbone", default="scenes", metavar="NAME|PATH")
    m.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    m.add_argument("--steps", metavar="N", help="numbers of steps, such as 1,2,4 (default: the backbone's own)")
    m.add_argument(
        "--work", type=Path, metavar="FOLDER", help="finished prompts, to go on from after an interruption (default: beside the grid)"
    )


def counts(text: str, most: int) -> list[int]:
    """Numbers of steps from an option. Errors: InputError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= most or any(not 1 <= n <= 1000 for n in numbers):
        raise InputError(f"--steps takes {'one number' if most == 1 else 'numbers such as 1,2,4'} from 1 to 1000, got {text!r}")
    return numbers


def run(args: argparse.Namespace) -> None:
    """Measure, or go on, and write one grid."""
    from megen import console
    from megen.evaluation import quality_grid as measuring
    from megen.files import check_writable

    check_writable(args.out)
    output.bounded("--prompts", args.prompts, measuring.LEAST_PROMPTS, 100_000)
    output.bounded("--prompts", args.prompts, measuring.LEAST_PROMPTS, 100_000)
    work = args.work or args.out.with_name(args.out.name + ".work")
    if (work.exists() and not work.is_dir()) or work.resolve() == args.out.resolve():
        raise InputError(f"{work} is a file: name a folder with --work")
    from megen.cost.quality_grid import save
    from megen.halves import halves
    from megen.models.embedded import EmbeddedBackbone
    from megen.models.fingerprint import identity
    from megen.provenance import provenance
    from megen.types import Decision

    transmitter, receiver = halves(args.backbone, args.device)
    backbone = transmitter.backbone
    if isinstance(backbone, EmbeddedBackbone) and args.texts:
        raise InputError("--texts is for published backbones: the judge of what pictures show knows the world of scenes alone")
    prompts = _prompts(args.texts, args.prompts, backbone) if args.texts else measuring.captions(args.prompts or PROMPTS)
    output.bounded("the number of prompts", len(prompts), measuring.LEAST_PROMPTS, 100_000)  # of a file
    steps = tuple(counts(args.steps, 100)) if args.steps else backbone.spec.steps
    if sorted(set(steps)) != list(steps):
        raise InputError(f"--steps must rise, got {args.steps}")
    for n in steps:
        backbone.spec.check(Decision(n))
    with console.bar("prompts", len(prompts)) as on_prompt:
        rows = measuring.measure(transmitter, receiver, steps, prompts, work, on_prompt)
    save(measuring.grid_of(rows, steps, backbone.spec, {"weights": identity(backbone), **provenance()}), args.out)
    print(args.out)


def _prompts(path: Path, count: int | None, backbone: Backbone) -> list[str]:
    """The first prompts of a file, None: all. Errors: InputError that names the line of one that cannot be measured."""
    from megen.files import read_text
    from megen.words import check_words, words

    numbered = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if count is not None and len(numbered) < count:
        raise InputError(f"{path} has {len(numbered)} prompts, fewer than the {count} of --prompts")
    seen: dict[frozenset[str], int] = {}
    for number, line in numbered[:count]:
        check_words(line, f"prompt in {path}, line {number},")
        if (first := seen.setdefault(frozenset(words(line)), number)) != number:
            raise InputError(f"{path}, line {number} has the words of line {first}: prompts are classed by their words")
        try:
            backbone.condition([line])
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    return [line for _, line in numbered[:count]]
