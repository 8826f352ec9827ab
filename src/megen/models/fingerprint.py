"""What tells one backbone's features from another's."""

from __future__ import annotations

import zlib

from megen.models.embedded import EmbeddedBackbone


def fingerprint(backbone: EmbeddedBackbone, codec: int) -> int:
    """CRC-32 of latent shape and statistics, decoder, restorer, and the entropy coder's prior (its digest `codec`).

    A receiver decodes the payloads of its own backbone only.
    """
    crc = zlib.crc32(repr(backbone.latent_shape).encode(), codec)
    decoder, restorer = backbone.autoencoder.decoder.state_dict(), backbone.restorer.state_dict()
    for tensor in (
        backbone.latent_mean,
        backbone.latent_scale,
        *(decoder[k] for k in sorted(decoder)),
        *(restorer[k] for k in sorted(restorer)),
    ):
        crc = zlib.crc32(tensor.detach().half().cpu().numpy().tobytes(), crc)
    return crc
