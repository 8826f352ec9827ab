"""Where a picture is decoded that both sides could decode: where it is there sooner."""

from __future__ import annotations

from dataclasses import dataclass

PAST = 0.8  # of the running mean, at every new figure


@dataclass
class Pictures:
    """Running means of what it takes to decode here and to send the picture's file, and to send its features instead.

    Before any was made: seconds of a large autoencoder on a processor, and bytes of a photograph of 1024 x 1024 px.
    """

    decode_s: float = 2.0
    file_bits: float = 8 * 150e3
    payload_bits: float = 8 * 20e3
    waiting: int = 0  # pictures that are decoded here, one after the other, or are to be

    def decoded(self, seconds: float, file_bits: int) -> None:
        """Take in a picture that was decoded here."""
        self.decode_s = PAST * self.decode_s + (1 - PAST) * seconds
        self.file_bits = PAST * self.file_bits + (1 - PAST) * file_bits

    def coded(self, payload_bits: int) -> None:
        """Take in a payload."""
        self.payload_bits = PAST * self.payload_bits + (1 - PAST) * payload_bits

    def here_s(self, rate_bps: float) -> float:
        """What decoding here takes one more picture, and its file on the link more than its features."""
        return self.decode_s * (1 + self.waiting) + max(0.0, self.file_bits - self.payload_bits) / max(rate_bps, 1.0)

    def sooner_here(self, ue_s: float | None, rate_bps: float) -> bool:
        """Whether a file that is made here is shown sooner than features over a link of that rate that a user equipment takes `ue_s` to
        decode; None: it has not measured that yet, and tries."""
        return ue_s is not None and rate_bps > 0 and self.here_s(rate_bps) < ue_s
