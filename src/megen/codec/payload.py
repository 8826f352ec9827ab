"""A payload's parts to bytes and back, each with its own checksum. NumPy only.

Header, merge map, and the features' parts. Checksums start from the header's, so that parts of two
payloads do not mix. Whatever bytes come in, decoding gives what was encoded or raises `CodecError`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from megen.codec import entropy, features
from megen.codec.header import CRC, CRC_BYTES, CodecError, Header, crc_of, decode_header, encode_header, layer_code, opened, seal
from megen.codec.prior import Prior
from megen.codec.pyramid import segments
from megen.types import PROTECTED, FloatArray, InputError, IntArray, OnPart, Part, Payload

CHOICES = 8  # destinations that a source may merge into
WEIGHTS = 15  # a choice's frequency is coded in four bits


def part_crc(body: bytes, number: int, header: bytes) -> bytes:
    """The checksum of a feature part, over its number and its body."""
    return CRC.pack(crc_of(bytes([number]) + body, header))[:CRC_BYTES]


def encode_map(choice: IntArray, header: bytes) -> bytes:
    """A merge choice per source (-1: stays): which move, then where to, entropy-coded; nothing where none merged.

    How many move is known from the header; how often each of the eight neighbours is chosen is coded in four bits each.
    """
    moved = choice >= 0
    if not moved.any():
        return b""
    coder = entropy.encoder()
    if not moved.all():
        staying = len(moved) - int(moved.sum())
        coder.encode(moved.astype(np.int32), entropy.categorical([staying, len(moved) - staying]))  # type: ignore[attr-defined]
    counts = np.bincount(choice[moved], minlength=CHOICES)
    weights = -(-counts * WEIGHTS // counts.max())
    if np.count_nonzero(weights) > 1:
        coder.encode(choice[moved].astype(np.int32), entropy.categorical(weights))  # type: ignore[attr-defined]
    packed = np.packbits((weights[:, None] >> np.arange(4)) & 1).tobytes()
    return seal(packed + entropy.finished(coder), header)


def decode_map(payload: Payload, header: Header) -> IntArray:
    """The merge choice of every source, as `encode_map` took it. Errors: CodecError."""
    tokens = header.height * header.width
    sources, count = tokens - tokens // 4, tokens - header.rows
    if header.reduction == "transform":
        count = 0
    choice = np.full(sources, -1, np.int64)
    if not count and not payload.merge_map:
        return choice
    body = opened(payload.merge_map, "merge map", payload.header)
    if len(body) < 4 or len(body) % 4:
        raise CodecError("the merge map is not made of whole words")
    weights = np.unpackbits(np.frombuffer(body[:4], np.uint8)).reshape(CHOICES, 4) @ (1 << np.arange(4))
    if not count or not weights.any():
        raise CodecError(f"the merge map moves no tokens, the header says {count}" if count else "a merge map where no token merged")
    coder = entropy.decoder(body[4:])
    try:
        moved = np.ones(sources, bool)
        if count < sources:
            moved = coder.decode(entropy.categorical([sources - count, count]), sources).astype(bool)  # type: ignore[attr-defined]
        if moved.sum() != count:
            raise CodecError(f"the merge map moves {moved.sum()} tokens, the header says {count}")
        if np.count_nonzero(weights) > 1:
            choice[moved] = coder.decode(entropy.categorical(weights), count)  # type: ignore[attr-defined]
        else:
            choice[moved] = weights.argmax()
    except AssertionError as error:  # what constriction raises on bits that no encoder wrote
        raise CodecError("the merge map holds bits that no encoder wrote") from error
    return choice


def encode(
    rows: FloatArray, choice: IntArray, mapping: IntArray, header: Header, prior: Prior, on_part: OnPart = lambda part: None
) -> Payload:
    """One payload at the header's depth and in its order of rows [n, c], the merge choice and the merge map that it gives.

    `on_part` is called with each part as soon as it is coded. The features stay out of a payload that is analog.
    Errors: InputError on values that cannot be coded.
    """
    if header.analog:
        payload = protected(header, choice)
        for part in payload.parts:
            on_part(part)
        return payload
    scales, coded = features.encode_parts(rows, mapping, header.grid, prior, header.depth, order=header.order)
    first = encode_header(replace(header, scales=scales))
    parts, count = [], PROTECTED + len(segments(*header.grid, header.order))
    sealed = (body + part_crc(body, i, first) for i, body in enumerate(coded))
    for number, data in enumerate(itertools.chain((first, encode_map(choice, first)), sealed)):
        on_part(Part(number, count, data))
        parts.append(data)
    return Payload(parts[0], parts[1], tuple(parts[PROTECTED:]))


def protected(header: Header, choice: IntArray | None = None) -> Payload:
    """Header and merge map alone; without a choice no token merged."""
    first = encode_header(header)
    return Payload(first, b"" if choice is None else encode_map(choice, first))


def encode_within(bits_budget: int, rows: FloatArray, choice: IntArray, mapping: IntArray, header: Header, prior: Prior) -> Payload:
    """The payload of the greatest depth that takes at most `bits_budget` bits, by bisection. Where none does, it is coded in stages and the
    fewest of the last ones stay out: the receiver predicts their tokens.

    Errors: InputError where even the first stage takes more at the smallest depth, naming its bits.
    """

    def at(depth: int, order: str) -> Payload:
        return encode(rows, choice, mapping, replace(header, depth=depth, order=order), prior)

    def without(whole: Payload, stages: int) -> Payload:
        return replace(whole, features=(*whole.features[: len(whole.features) - stages], *[b""] * stages))

    order, left_out, low = header.order, 0, features.MIN_DEPTH + layer_code(header.order)
    best = at(low, order)
    if best.bits()["total"] > bits_budget:
        order, low = "stage", features.MIN_DEPTH
        best = coarsest = at(low, order)
        while best.bits()["total"] > bits_budget:
            left_out += 1
            if left_out == len(coarsest.features):
                why = f"the coarsest payload takes {best.bits()['total']}"
                raise InputError(f"a budget of {bits_budget} bits is too small: {why}; merge more, or raise it")
            best = without(coarsest, left_out)
    high = features.MAX_DEPTH
    while low < high:
        middle = (low + high + 1) // 2
        payload = without(at(middle, order), left_out)
        if payload.bits()["total"] <= bits_budget:
            low, best = middle, payload
        else:
            high = middle - 1
    return best


def decode_protected(payload: Payload, backbone: int) -> tuple[Header, IntArray]:
    """Header and merge choice of a payload. Errors: CodecError, also where it is of another backbone."""
    header = decode_header(payload.header)
    if header.backbone != backbone:
        raise CodecError(f"the payload is of backbone {header.backbone:08x}, this receiver decodes {backbone:08x}")
    return header, decode_map(payload, header)


def opened_part(part: bytes, number: int, header: bytes) -> bytes | None:
    """The body of a feature part; None: it was lost. Errors: CodecError where its checksum does not fit."""
    if not part:
        return None
    body = part[:-CRC_BYTES]
    if len(part) < CRC_BYTES or part_crc(body, number, header) != part[-CRC_BYTES:]:
        raise CodecError(f"feature part {number} fails its checksum: it was changed in transit")
    return body


def error_rates(payload: Payload, order: str = "band") -> tuple[float, ...]:
    """Largest block error rate of each part's first attempts: header and map together, then the base, then the rest.

    Parts that others need take a lower one: the base, and by stage all but the last. In layers the base is a third of all bits.
    """
    parts = len(payload.features)
    if order == "layer":
        return (0.003, 0.003, *[0.3] * (parts - 1))
    last = 1 if order == "stage" else parts - 1
    return (0.003, *[0.01] * (parts - last), *[0.3] * last)[: 1 + parts]
