"""What tells one backbone's features from another's."""

from __future__ import annotations

import zlib

from megen.backbone import Backbone
from megen.models.embedded import EmbeddedBackbone


def fingerprint(backbone: Backbone, codec: int) -> int:
    """CRC-32 of what the latents mean and of the entropy coder's prior (its digest `codec`): a receiver decodes its own backbone's alone.

    Of the embedded backbone latent shape and statistics, decoder and restorer count; of any other its latent shape and its `digest`.
    """
    crc = zlib.crc32(repr(backbone.spec.latent_shape).encode(), codec)
    if not isinstance(backbone, EmbeddedBackbone):
        return zlib.crc32(str(getattr(backbone, "digest", "")).encode(), crc)
    decoder, restorer = backbone.autoencoder.decoder.state_dict(), backbone.restorer.state_dict()
    for tensor in (
        backbone.latent_mean,
        backbone.latent_scale,
        *(decoder[k] for k in sorted(decoder)),
        *(restorer[k] for k in sorted(restorer)),
    ):
        crc = zlib.crc32(tensor.detach().half().cpu().numpy().tobytes(), crc)
    return crc
