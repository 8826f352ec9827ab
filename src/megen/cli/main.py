"""The command line. Each command is a module with `add` (its options) and `run`; heavy imports wait until one runs."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module

from megen import __version__
from megen.errors import InputError, MegenError, extra_of
from megen.threads import ready_threads

TYPE_CHECKING = False  # the import of `typing` would take a third of what --help takes
if TYPE_CHECKING:
    from typing import NoReturn

DESCRIPTION = "Text-to-image generation shared between an edge server and a phone."
COMMANDS = (
    "generate",
    "serve",
    "ask",
    "capacity",
    "receive",
    "scenes",
    "train",
    "train_receiver",
    "train_refiner",
    "bench",
    "profile",
    "measure",
    "control",
    "export",
)  # a module each
BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended


class Parser(argparse.ArgumentParser):
    """One line for a wrong option, and numbers such as -3e0 are numbers."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._negative_number_matcher = re.compile(r"(?i)^-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|^-(inf|infinity|nan)$")

    def error(self, message: str) -> NoReturn:
        print(f"megen: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


TWO_WORDS = ("decoder", "prior", "denoiser", "refiner")  # after train


def parser() -> argparse.ArgumentParser:
    """The whole parser."""
    whole = Parser(prog="megen", description=DESCRIPTION)
    whole.add_argument("--version", action="version", version=f"megen {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        import_module(f"megen.cli.{name}").add(commands)
    return whole


def joined(arguments: Sequence[str]) -> list[str]:
    """`train decoder` and its like are commands of two words; anything else after train is its data."""
    first, *rest = arguments if len(arguments) > 1 else (*arguments, "")
    return [f"{first} {rest[0]}", *rest[1:]] if first == "train" and rest[0] in TWO_WORDS else list(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for a wrong input, 1 for a failed run."""
    _ready_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    ready_threads(spinning=given[:1] != ["train"])  # which renders and reads pictures beside
    try:
        try:
            args = parser().parse_args(joined(given))
        except SystemExit as stop:
            return int(stop.code or 0)
        from megen import provenance

        with provenance.running(shlex.join(["megen", *given])):
            args.run(args)
        sys.stdout.flush()
    except InputError as error:
        print(f"megen: {_one_line(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (extra := extra_of(error.name, " ".join(filter(None, (args.command, getattr(args, "what", None)))))) is None:
            raise
        print(f"megen: this command needs {error.name}: pip install 'megen[{extra}]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("megen: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (MegenError, OSError, MemoryError) as error:
        print(f"megen: failed: {_one_line(error)}", file=sys.stderr)
        return 1
    except Exception as error:  # nobody foresaw it: a bug, or a library's own trouble
        import traceback

        traceback.print_exc()
        print(f"megen: failed unexpectedly, by {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _ready_streams() -> None:
    """A closed stream (as by `>&-`) takes what is printed and drops it; a name that the encoding lacks is escaped, not refused."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())
