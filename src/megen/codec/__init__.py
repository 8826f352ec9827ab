"""Features to bits and back: header, merge map, and entropy-coded features, each part with its own checksum."""

from megen.codec.payload import (
    CodecError,
    Header,
    decode_features,
    decode_header,
    decode_map,
    decode_protected,
    encode,
    encode_header,
    encode_map,
    encode_within,
    protection,
)
from megen.codec.prior import Prior, PriorError

__all__ = [
    "CodecError",
    "Header",
    "Prior",
    "PriorError",
    "decode_features",
    "decode_header",
    "decode_map",
    "decode_protected",
    "encode",
    "encode_header",
    "encode_map",
    "encode_within",
    "protection",
]
