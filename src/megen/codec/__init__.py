"""Features to bits and back: header, merge map and entropy-coded features, each part with its own checksum; or I/Q symbols."""

from megen.codec.codec import FeatureCodec, check_copies, check_order, check_quantiser
from megen.codec.framing import pack, unpack
from megen.codec.header import REDUCTIONS, CodecError
from megen.codec.prior import Prior, PriorError
from megen.types import QUANTISER_BITS

__all__ = [
    "QUANTISER_BITS",
    "REDUCTIONS",
    "CodecError",
    "FeatureCodec",
    "Prior",
    "PriorError",
    "check_copies",
    "check_order",
    "check_quantiser",
    "pack",
    "unpack",
]
