"""Where a picture is decoded that both sides could decode: where it is there sooner."""

from __future__ import annotations

from dataclasses import dataclass

KEPT = 0.8  # of the past, for every new figure


@dataclass
class Pictures:
    """Running means of what it takes to decode here and to send the picture's file, and to send its features instead.

    Before any was made: seconds of a large autoencoder on a processor, and bytes of a photograph of 1024 x 1024 px.
    """

    decode_s: float = 2.0
    file_bits: float = 8 * 150e3
    payload_bits: float = 8 * 20e3

    def decoded(self, seconds: float, file_bits: int) -> None:
        """Take in a picture that was decoded here."""
        self.decode_s = KEPT * self.decode_s + (1 - KEPT) * seconds
        self.file_bits = KEPT * self.file_bits + (1 - KEPT) * file_bits

    def coded(self, payload_bits: int) -> None:
        """Take in a payload."""
        self.payload_bits = KEPT * self.payload_bits + (1 - KEPT) * payload_bits

    def sooner_here(self, ue_s: float | None, rate_bps: float) -> bool:
        """Whether a file that is made here is shown sooner than features over a link of that rate that a user equipment takes `ue_s` to
        decode; None: it has not measured that yet, and tries."""
        if ue_s is None or rate_bps <= 0:
            return False
        return self.decode_s + self.file_bits / rate_bps < ue_s + self.payload_bits / rate_bps
