"""What tells one backbone's features from another's."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import torch

from megen.backbone import Backbone
from megen.models.embedded import EmbeddedBackbone
from megen.models.published import PublishedBackbone

SIGNS = 256


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
    """What all pictures come from: the digest of an embedded backbone's weights; of a published one its net's signs and how it is run.

    The signs of the first `SIGNS` values of each tensor are the same in any precision, and differ between fine-tunes. Text encoders do not
    count.
    """
    digest = str(getattr(backbone, "digest", ""))
    if not isinstance(backbone, PublishedBackbone):
        return digest
    said, spec = backbone.checkpoint, backbone.spec
    how: list[object] = [digest, spec.latent_shape, spec.image_px, sorted(spec.times), said.sampler, float(backbone.guidance)]
    how += [(Path(said.lora).name, float(said.lora_scale)) if said.lora else None, Path(said.decoder).name if said.decoder else None]
    out = hashlib.sha256(repr(how).encode())
    pipe = backbone.text.pipe
    net: torch.nn.Module = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
    for name, tensor in sorted(net.state_dict().items()):
        out.update(name.encode() + torch.signbit(tensor.detach().flatten()[:SIGNS]).cpu().numpy().tobytes())
    return out.hexdigest()[:16]
