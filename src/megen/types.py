"""The vocabulary that every room shares: frozen dataclasses, NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """What a policy chooses for one request: denoising steps and the share of tokens merged away."""

    steps: int
    merge_ratio: float


@dataclass(frozen=True)
class ChannelState:
    """What is known of the link. Over a real socket the rate is measured and `snr_db` is None."""

    snr_db: float | None
    bandwidth_hz: float
    rate_bps: float


@dataclass(frozen=True)
class Budget:
    """Limits of one request; None: no limit."""

    deadline_s: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True)
class Observation:
    """What a policy sees before it decides."""

    channel: ChannelState
    backlog_s: float = 0.0
    prompt_class: int = 0
    arrival_phase: int = 0
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Payload:
    """One image on its way: byte strings, each protected by its own checksum.

    `features` are parts that may be lost alone (an empty one was lost); none where the features travel as
    analog symbols beside the protected header and map.
    """

    header: bytes
    merge_map: bytes
    features: tuple[bytes, ...] = ()

    def bits(self) -> dict[str, int]:
        """Bits of header, map and features, and their total; analog features count no bits."""
        counts = {
            "header": 8 * len(self.header),
            "merge_map": 8 * len(self.merge_map),
            "features": 8 * sum(map(len, self.features)),
        }
        return {**counts, "total": sum(counts.values())}


@dataclass(frozen=True)
class GenerationReport:
    """What `--report` writes: every figure of one generation, modelled ones named in `modelled`."""

    prompt: str
    seed: int
    backbone: str
    decision: Decision
    image: dict[str, int]
    latency_s: dict[str, float]
    energy_j: dict[str, float]
    payload_bits: dict[str, int]
    channel: dict[str, Any]
    quality: dict[str, Any]
    modelled: tuple[str, ...]
