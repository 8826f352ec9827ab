"""What one generation took and how: the JSON of `--report`. What it holds suffices to make the image again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from megen.types import Decision


@dataclass(frozen=True)
class Latency:
    """Seconds by stage; transmission is modelled, the others are measured."""

    queue: float
    text: float
    denoise: float
    merge: float
    code: float
    transmit: float
    decode: float
    total: float = field(init=False)

    def __post_init__(self) -> None:
        stages = (self.queue, self.text, self.denoise, self.merge, self.code, self.transmit, self.decode)
        object.__setattr__(self, "total", sum(stages))

    @property
    def es(self) -> float:
        """Seconds that the edge server worked."""
        return self.text + self.denoise + self.merge + self.code


@dataclass(frozen=True)
class Energy:
    """Joules of edge server, radio and user equipment, all modelled as power x time."""

    es: float
    radio: float
    ue: float
    total: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", self.es + self.radio + self.ue)


@dataclass(frozen=True)
class PayloadBits:
    """Bits of header, merge map and features."""

    header: int
    merge_map: int
    features: int
    total: int


@dataclass(frozen=True)
class Channel:
    """The link, and what became of the transmission; `link` is none, digital, analog or the name of a link of one's own.

    `parameters` are an own link's fields where it is a dataclass.
    """

    link: str
    fading: str | None = None
    snr_db: float | None = None
    bandwidth_hz: float | None = None
    speed_m_s: float | None = None
    carrier_hz: float | None = None
    csi_delay_s: float | None = None
    csi_error: float | None = None
    trace_sha256: str | None = None
    rate_bps: float | None = None
    analog_symbols: int = 0
    attempts: float = 1.0
    parts: int = 0
    parts_lost: int = 0
    residual_bler: float = 0.0
    parameters: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """Distances to the reference image, where one was made."""

    psnr_db: float | None = None
    ssim: float | None = None
    reference: str | None = None


@dataclass(frozen=True)
class MadeBy:
    """What decides the pixels beside the request: versions, weights, device, threads and precision."""

    version: str
    commit: str
    command: str
    torch: str
    weights: str
    device: str
    threads: int
    precision: str


@dataclass(frozen=True)
class Report:
    """Every figure of one generation; those that are modelled are named in `modelled`."""

    prompt: str
    completed_prompt: str  # what was drawn: the prompt with what it left open
    added: tuple[str, ...]  # the phrases that completed it
    understood: Mapping[str, str]  # phrases of the prompt, and what they were taken as
    missing: tuple[str, ...]  # words of it that nothing was drawn for
    seed: int
    drafts: int  # one-step drafts that a judge chose among
    noise_seed: int  # of the noise that was denoised: the seed, or the chosen draft's
    backbone: str
    decision: Decision
    decided_by: str
    image: dict[str, int]
    latency_s: Latency
    energy_j: Energy
    payload_bits: PayloadBits
    quantiser_bits: float | None
    bits_budget: int | None
    reduction: str  # what makes features fewer: token merging, or transform coefficients left out
    copies: int  # of each analog symbol
    order: str | None  # of the parts of a payload of bits: as asked for, or by stage where a small budget leaves some out
    channel: Channel
    quality: Quality
    made_by: MadeBy
    modelled: tuple[str, ...]
