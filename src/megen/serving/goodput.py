"""What a socket delivers, from the user equipment's acknowledgements: a sender cannot see it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from megen.types import POSITIVE, check_number

PRIOR_BPS = 2e6  # before anything was acknowledged
PRIOR_BYTES = 2000  # that the prior counts as
KEPT = 0.5  # of the past, for every window of new bytes
WINDOW_BYTES = 8000
MOST_BPS = 1e10
SLOWER = 10.0  # times that one frame may be slower than the estimate: a phone that stalled once is no slow link
KEPT_CONNECTIONS = 4096  # whose last rate is kept


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
        """Take in `size` bytes that arrived in so many seconds, of which no more count than at `SLOWER` times less than the estimate."""
        seconds = min(seconds, SLOWER * 8 * size / self.bps)
        kept = KEPT ** (size / WINDOW_BYTES)
        self._bytes, self._seconds = kept * self._bytes + size, kept * self._seconds + seconds

    @property
    def bps(self) -> float:
        """Bits a second."""
        return min(8 * self._bytes / max(self._seconds, 1e-9), MOST_BPS)


@dataclass
class Goodputs:
    """The last estimate of each owner at an address: their next connection begins with it, as many clients connect for each request."""

    _last_bps: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def begin(self, who: tuple[str, str]) -> GoodputEstimate:
        """The estimate of a new connection."""
        return GoodputEstimate(self._last_bps.get(who, PRIOR_BPS))

    def end(self, who: tuple[str, str], estimate: GoodputEstimate) -> None:
        """A connection is over."""
        self._last_bps[who] = estimate.bps
        self._last_bps.move_to_end(who)
        while len(self._last_bps) > KEPT_CONNECTIONS:
            self._last_bps.popitem(last=False)
