"""What a socket delivers, from the user equipment's acknowledgements: a sender cannot see it."""

from __future__ import annotations

from dataclasses import dataclass

from megen.types import POSITIVE, check_number

PRIOR_BPS = 2e6  # before anything was acknowledged
PRIOR_BYTES = 2000  # that the prior counts as
KEPT = 0.5  # of the past, for every window of new bytes
WINDOW_BYTES = 8000
MOST_BPS = 1e10


@dataclass
class GoodputEstimate:
    """An exponentially weighted mean over bytes: sum of bits over sum of seconds, the past halved every `WINDOW_BYTES`.

    Errors: InputError on a prior that is no positive rate.
    """

    prior_bps: float = PRIOR_BPS

    def __post_init__(self) -> None:
        check_number("prior_bps", self.prior_bps, POSITIVE)
        self._bytes, self._seconds = float(PRIOR_BYTES), 8 * PRIOR_BYTES / self.prior_bps

    def observe(self, size: int, seconds: float) -> None:
        """Take in `size` bytes that arrived in so many seconds."""
        kept = KEPT ** (size / WINDOW_BYTES)
        self._bytes, self._seconds = kept * self._bytes + size, kept * self._seconds + seconds

    @property
    def bps(self) -> float:
        """Bits a second."""
        return min(8 * self._bytes / max(self._seconds, 1e-9), MOST_BPS)
