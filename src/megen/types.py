"""The vocabulary that every room shares: frozen dataclasses that check themselves, NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megen.errors import InputError as InputError
from megen.errors import MegenError as MegenError
from megen.errors import RunError as RunError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
ComplexArray = NDArray[np.complex128]

MAX_MERGE_RATIO = 0.75  # one token of each 2 x 2 cell stays


@dataclass(frozen=True)
class Decision:
    """What a policy chooses for one request: denoising steps and the share of tokens merged away.

    Errors: InputError where no backbone could offer it; which it offers, its spec says.
    """

    steps: int
    merge_ratio: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or self.steps != int(self.steps) or self.steps < 1:
            raise InputError(f"steps must be a whole number of at least 1, got {self.steps!r}")
        if not 0 <= self.merge_ratio <= MAX_MERGE_RATIO:  # also refuses NaN
            raise InputError(f"merge_ratio must lie in [0, {MAX_MERGE_RATIO}], got {self.merge_ratio!r}")


@dataclass(frozen=True)
class ChannelState:
    """What is known of the link. Over a real socket the rate is measured and `snr_db` is None."""

    snr_db: float | None
    bandwidth_hz: float
    rate_bps: float


@dataclass(frozen=True)
class Budget:
    """Limits of one request; None: no limit. Errors: InputError on a limit that is not a positive number."""

    deadline_s: float | None = None
    energy_j: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("deadline_s", self.deadline_s), ("energy_j", self.energy_j)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} must be a positive number, got {value}")


@dataclass(frozen=True)
class Observation:
    """What a policy sees before it decides."""

    channel: ChannelState
    backlog_s: float = 0.0
    prompt_class: int = 0
    arrival_phase: int = 0
    budget: Budget = field(default_factory=Budget)
    prompt: str = ""


Policy = Callable[[Observation], Decision]


@dataclass(frozen=True)
class Payload:
    """Sealed byte strings: header, merge map, and feature parts that may be lost alone (an empty one was lost).

    There are no feature parts where the features travel as I/Q symbols beside the protected header and map.
    """

    header: bytes
    merge_map: bytes
    features: tuple[bytes, ...] = ()

    def bits(self) -> dict[str, int]:
        """Bits of header, map and features, and their total; I/Q symbols count no bits."""
        counts = {
            "header": 8 * len(self.header),
            "merge_map": 8 * len(self.merge_map),
            "features": 8 * sum(map(len, self.features)),
        }
        return {**counts, "total": sum(counts.values())}


@dataclass(frozen=True)
class Transmission:
    """One image as the edge server hands it to the link: what it holds decides how it crosses.

    Bytes go by modulation, coding and retransmission; `symbols` [n], of unit mean power, as I/Q. `error_rates` is the block error
    rate that each sealed part's first attempt is sent for: header and map together, then each feature part.
    """

    payload: Payload
    symbols: ComplexArray | None = None
    error_rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Received:
    """What the link left of a transmission: bytes, and equalised symbols [n] with the noise variance of each [n]."""

    payload: Payload
    symbols: ComplexArray | None = None
    variance: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Delivery:
    """What a link delivered and what that took; `attempts` is the mean over the transport blocks."""

    received: Received
    latency_s: float = 0.0
    attempts: float = 1.0
    parts: int = 0
    parts_lost: int = 0
    outer_loop_db: float = 0.0  # the link adaptation's offset afterwards, for the next transmission


@dataclass(frozen=True)
class Features:
    """What a payload says: rows [n, c], merge map [h*w], and the degradation of each token [h*w, 4].

    The columns of `degradation`: noise deviation, quantiser deviation, 1 where copied by unmerging, and .5 where predicted
    because it was lost.
    """

    rows: FloatArray
    merge_map: IntArray
    degradation: FloatArray

    @staticmethod
    def clean(tokens: FloatArray) -> Features:
        """Every token as it was, without merging, quantiser or link: what a reference image is decoded from."""
        return Features(tokens, np.arange(len(tokens), dtype=np.int64), np.zeros((len(tokens), 4), np.float32))
