"""Seconds by stage of one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Filled as the request goes; `synchronise` waits for what an accelerator still has to do."""

    seconds: dict[str, float] = field(default_factory=dict)
    synchronise: Callable[[], object] = lambda: None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a stage."""
        start = time.perf_counter()
        yield
        self.synchronise()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
