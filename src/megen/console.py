"""Progress on stderr: a bar on a terminal, silence or a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[..., object]  # (done, text beside the bar)


def _stderr() -> Console:
    """Stderr as it is: FORCE_COLOR makes no terminal of a log."""
    return Console(stderr=True, force_terminal=sys.stderr.isatty())


@contextmanager
def bar(what: str, total: int, done: int = 0, every: int = 0) -> Iterator[Update]:
    """Give a function of (done, text beside the bar = ""); where stderr is no terminal, it prints a line each `every` steps (0: none)."""
    console = _stderr()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done, shown="")

        def update(now: int, text: str = "") -> None:
            progress.update(task, completed=now, shown=text)
            if every and not console.is_terminal and (now % every == 0 or now == total):
                console.print(f"{what} {now}/{total}  {text}", soft_wrap=True, highlight=False)

        yield update


@contextmanager
def status(what: str) -> Iterator[Callable[[str], object]]:
    """Give a function that says what is being done; silent where stderr is no terminal."""
    console = _stderr()
    with console.status(what) as shown:
        yield shown.update if console.is_terminal else lambda text: None
