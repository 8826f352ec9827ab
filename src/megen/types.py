"""The vocabulary that every room shares: frozen dataclasses that check themselves, NumPy only."""

from __future__ import annotations

import math
import sys
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
QUANTISER_BITS = 5.0  # over eight standard deviations
LEAST_QUANTISER_BITS, MOST_QUANTISER_BITS = 0.25, 8.0
POSITIVE = math.ulp(0.0)  # the smallest number above 0
LARGEST = sys.float_info.max


def check_number(name: str, value: object, low: float = -LARGEST, high: float = LARGEST, *, whole: bool = False, mend: str = "") -> None:
    """Refuse what is no finite number within [low, high], or with `whole` no whole one. Errors: InputError naming the bounds."""
    number = isinstance(value, int | float | np.integer | np.floating) and type(value) is not bool
    if number and low <= value <= high and not (whole and value != int(value)):  # type: ignore[operator, call-overload]
        return
    kind = "a whole number" if whole else "a positive number" if low == POSITIVE else "a number"
    least = "" if low in (POSITIVE, -LARGEST) else f" of at least {low:g}"
    bounds = f"lie in [{low:g}, {high:g}]" if high < LARGEST else f"be {kind}{least}"
    raise InputError(f"{name} must {bounds}, got {value!r}{mend}")


def check_type(name: str, value: object, expected: type) -> None:
    """Refuse another type. Errors: InputError."""
    if not isinstance(value, expected):
        raise InputError(f"{name} must be a {expected.__name__}, got {value!r}")


def check_array(name: str, value: object, dtype: type, shape: tuple[int | None, ...]) -> None:
    """Refuse what is no array of a type and shape (None: of any length but 0). Errors: InputError."""
    actual, expected = type(value).__name__, f"{np.dtype(dtype)} [{', '.join('n' if n is None else str(n) for n in shape)}]"
    if isinstance(value, np.ndarray):
        fits = value.ndim == len(shape) and all(has > 0 if n is None else has == n for has, n in zip(value.shape, shape, strict=True))
        if fits and value.dtype == dtype:
            return
        actual = f"{value.dtype} {list(value.shape)}"
    raise InputError(f"{name} must be an array of {expected}, got {actual}")


def check_quantiser_bits(value: object) -> None:
    """Refuse a quantiser that no payload can have. Errors: InputError."""
    check_number("quantiser_bits", value, LEAST_QUANTISER_BITS, MOST_QUANTISER_BITS, mend=" (in steps of 0.25)")
    if 4 * value % 1:  # type: ignore[operator]
        raise InputError(f"quantiser_bits must be a multiple of 0.25, got {value!r}")


@dataclass(frozen=True)
class Decision:
    """What a policy chooses for one request: denoising steps, the share of tokens merged away, and bits of the quantiser.

    The quantiser is for features that travel as bits. Errors: InputError where no backbone could offer it; which it offers, its spec says.
    """

    steps: int
    merge_ratio: float = 0.0
    quantiser_bits: float = QUANTISER_BITS

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1, whole=True)
        check_number("merge_ratio", self.merge_ratio, 0, MAX_MERGE_RATIO)
        check_quantiser_bits(self.quantiser_bits)
        object.__setattr__(self, "quantiser_bits", float(self.quantiser_bits))
        object.__setattr__(self, "steps", int(self.steps))
        object.__setattr__(self, "merge_ratio", float(self.merge_ratio))


@dataclass(frozen=True)
class ChannelState:
    """What is known of the link. Over a real socket the rate is measured and `snr_db` is None; a rate or bandwidth of 0 is unknown.

    Errors: InputError on what is no finite number, or below 0.
    """

    snr_db: float | None
    bandwidth_hz: float = 0.0
    rate_bps: float = 0.0

    def __post_init__(self) -> None:
        if self.snr_db is not None:
            check_number("snr_db", self.snr_db)
        check_number("bandwidth_hz", self.bandwidth_hz, 0)
        check_number("rate_bps", self.rate_bps, 0)


@dataclass(frozen=True)
class Budget:
    """Limits of one request; None: no limit. Errors: InputError on a limit that is not a positive number."""

    deadline_s: float | None = None
    energy_j: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("deadline_s", self.deadline_s), ("energy_j", self.energy_j)):
            if value is not None:
                check_number(name, value, POSITIVE)


@dataclass(frozen=True)
class Observation:
    """What a policy sees before it decides. Errors: InputError on numbers that cannot be."""

    channel: ChannelState
    backlog_s: float = 0.0
    prompt_class: int = 0
    arrival_phase: int = 0
    budget: Budget = field(default_factory=Budget)
    prompt: str = ""

    def __post_init__(self) -> None:
        check_type("channel", self.channel, ChannelState)
        check_number("backlog_s", self.backlog_s, 0)
        check_number("prompt_class", self.prompt_class, 0, whole=True)
        check_number("arrival_phase", self.arrival_phase, 0, whole=True)
        check_type("budget", self.budget, Budget)
        check_type("prompt", self.prompt, str)


Policy = Callable[[Observation], Decision]


PROTECTED = 2  # parts of a payload before those of its features: header and merge map


@dataclass(frozen=True)
class Part:
    """One of the `of` byte strings of a payload: 0 is its header, 1 its merge map, 2 and on are its feature parts."""

    number: int
    of: int
    data: bytes


OnPart = Callable[[Part], object]


@dataclass(frozen=True)
class Payload:
    """Sealed byte strings: header, merge map, and feature parts that may be lost alone (an empty one was lost).

    There are no feature parts where the features travel as I/Q symbols beside the protected header and map.
    """

    header: bytes
    merge_map: bytes
    features: tuple[bytes, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them, in the order in which they are coded."""
        every = (self.header, self.merge_map, *self.features)
        return tuple(Part(number, len(every), data) for number, data in enumerate(every))

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

    Bytes go by modulation, coding and retransmission; `symbols` [n], of unit mean power, as I/Q. `error_rates` is the largest
    block error rate of the first attempts of each sealed part: header and map together, then each feature part.
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
    outer_loop: tuple[
        tuple[float, float], ...
    ] = ()  # (limit of the error rate, offset in dB) of the link adaptation, for the next transmission

    def __post_init__(self) -> None:
        check_type("received", self.received, Received)
        check_number("latency_s", self.latency_s, 0)
        check_number("attempts", self.attempts, 0)
        check_number("parts", self.parts, 0, whole=True)
        check_number("parts_lost", self.parts_lost, 0, self.parts, whole=True)
        for target, offset_db in self.outer_loop:
            check_number("an error rate of outer_loop", target, 0, 1)
            check_number("an offset of outer_loop", offset_db)


@dataclass(frozen=True)
class Equalised:
    """Tokens [h*w, c] as an analog link left them, each value the clean one and noise, whose deviation [h*w] is known.

    `unknown` is the mean deviation of a value, of those that were not sent too. Errors: InputError on another type or shape.
    """

    values: FloatArray
    deviation: FloatArray
    unknown: float

    def __post_init__(self) -> None:
        check_array("values", self.values, np.float32, (None, None))
        check_array("deviation", self.deviation, np.float32, (len(self.values),))
        check_number("unknown", self.unknown, 0, math.inf)  # a variance may be as large as a number can be


@dataclass(frozen=True)
class Features:
    """What a payload says: rows [n, c], merge map [h*w], and the degradation of each token [h*w, 4].

    The columns of `degradation`: noise deviation, quantiser deviation, 1 where copied by unmerging, and .5 where predicted
    because it was lost. From an analog link rows are linear estimates, and `equalised` has what they were made of.
    Errors: InputError on another type or shape, and on a map that leads past the rows.
    """

    rows: FloatArray
    merge_map: IntArray
    degradation: FloatArray
    equalised: Equalised | None = None

    def __post_init__(self) -> None:
        check_array("rows", self.rows, np.float32, (None, None))
        check_array("merge_map", self.merge_map, np.int64, (None,))
        check_array("degradation", self.degradation, np.float32, (len(self.merge_map), 4))
        if self.merge_map.min() < 0 or self.merge_map.max() >= len(self.rows):
            low, high = self.merge_map.min(), self.merge_map.max()
            raise InputError(f"merge_map must name rows from 0 to {len(self.rows) - 1}, got {low} to {high}")
        if self.equalised is not None:
            check_array("equalised.values", self.equalised.values, np.float32, (len(self.merge_map), self.rows.shape[1]))

    def check(self, channels: int, grid: tuple[int, int] | None) -> None:
        """Refuse features that are not of a backbone's channels and grid (None: any). Errors: InputError."""
        check_array("rows", self.rows, np.float32, (None, channels))
        if grid is not None:
            check_array("merge_map", self.merge_map, np.int64, (grid[0] * grid[1],))

    @staticmethod
    def clean(tokens: FloatArray) -> Features:
        """Every token as it was, without merging, quantiser or link: what a reference image is decoded from."""
        return Features(tokens, np.arange(len(tokens), dtype=np.int64), np.zeros((len(tokens), 4), np.float32))
