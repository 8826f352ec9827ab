"""What tells one backbone's features from another's."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict
from pathlib import Path

from megen.backbone import Backbone
from megen.models.embedded import EmbeddedBackbone
from megen.models.published import PublishedBackbone

PATHS = "lora", "decoder"  # of a checkpoint that is run: their names count, not where they lie


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


def identity(backbone: Backbone) -> str:
    """What all of its pictures come from: the digest of an embedded backbone's weights; of a published one what the checkpoint says of it.

    The nets of a published checkpoint are not read for this: its name, its autoencoder and how it is run count.
    """
    digest = str(getattr(backbone, "digest", ""))
    if not isinstance(backbone, PublishedBackbone):
        return digest
    how = {k: v for k, v in asdict(backbone.checkpoint).items() if k not in ("source", "receiver", "unload_text")}
    how |= {name: Path(how[name]).name for name in PATHS if how[name]}
    return hashlib.sha256(json.dumps([digest, backbone.spec.name, how], sort_keys=True).encode()).hexdigest()[:16]
