"""Writes the golden vectors: `python tests/golden/make.py`. A decoder of docs/format.md must give what they say.

small/codec.safetensors   a small codec file with nets of random weights and a table of levels of its own
vectors.json              packed payloads in hex, and the tokens that they decode to, or that they are refused
scenes.payload            a payload of the bundled backbone, by its own fingerprint: the bundled receiver decodes it
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megen import codec, merging
from megen.codec import FeatureCodec, Prior, framing, payload, prior
from megen.codec.header import LAYOUT, MAGIC, decode_header, encode_header, seal
from megen.types import Payload, Received
from megen.ue.receiver import Receiver

HERE = Path(__file__).parent
SCENES = HERE.parents[1] / "src" / "megen" / "assets" / "scenes"
BACKBONE = 0xC0FFEE


def small_prior(channels: int = 3, hidden: int = 5, groups: int = 2) -> Prior:
    """Nets that predict the mean of the neighbours, disturbed at random, so that every sum matters."""
    rng = np.random.default_rng(0)
    nets = []
    for _ in range(prior.KINDS):
        row = []
        for group in prior.groups(channels, groups):
            own = group.stop - group.start
            w1 = np.rint(200 * rng.standard_normal((4 * channels + group.start + 3, hidden)))
            w2 = np.rint(300 * rng.standard_normal((hidden, 2 * own)))
            b2 = np.rint(rng.uniform(-300_000, 300_000, 2 * own))
            row.append(prior.Net(w1, np.rint(rng.uniform(-99_999, 99_999, hidden)), w2, b2))
        nets.append(tuple(row))
    levels = prior.logistic_levels().copy()
    moved = levels[:, prior.REACH] // 3  # from level 0 to level 1
    levels[:, prior.REACH] -= moved
    levels[:, prior.REACH + 1] += moved
    y, x = np.mgrid[:4, :4]
    variance = np.rint(24 - 9 * np.hypot(y, x) + rng.uniform(-20, 20, (channels, 1, 1))).astype(np.int64)
    return Prior(np.array([256, 100, 700])[:channels], tuple(nets), levels, variance)


def tokens_of(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Tokens that resemble their neighbours, a few of them far out."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].reshape(2, -1, 1) / 4
    wave = np.sin(y * rng.uniform(0.5, 1.5, channels) + x * rng.uniform(0.5, 1.5, channels) + rng.uniform(0, 6, channels))
    out = wave + 0.3 * rng.standard_normal((height * width, channels))
    out[rng.integers(len(out))] *= 60
    return out.astype(np.float32).clip(-128, 128)


def vector(name: str, kind: str, own: Prior | None, received: Received) -> dict[str, object]:
    features = FeatureCodec(own, BACKBONE).decode(received)
    out: dict[str, object] = {"name": name, "prior": kind, "payload": codec.pack(received).hex()}
    if received.symbols is not None:
        of = {"map": features.merge_map.tolist()}
        if decode_header(received.payload.header).reduction == "transform":
            of |= {"values": [round(float(v), 6) for v in features.rows.ravel()], "error": round(float(features.degradation[0, 1]), 6)}
        return out | of
    values = np.rint(features.rows * prior.UNIT).astype("<i2")[features.merge_map]
    lost = np.flatnonzero(features.degradation[:, 3]).tolist()
    return out | {"crc": zlib.crc32(values.tobytes()), "first": values[0].tolist(), "last": values[-1].tolist(), "lost": lost}


def decoded() -> Iterator[dict[str, object]]:
    """One vector for each thing that can differ."""
    small, scenes = small_prior(), prior.load(SCENES, 32)
    cases = [
        ("the worked example", "none", 2, 2, 1, 0.0, 12, "band"),
        *(
            (f"quarter bits {depth}, {order}", "small", 8, 8, 3, 0.25, depth, order)
            for depth in (1, 7, 20, 32)
            for order in ("band", "stage", "layer")
            if order != "layer" or depth > 8
        ),
        ("all that can merge", "small", 6, 10, 3, 0.75, 20, "band"),
        ("several bands", "small", 20, 12, 3, 0.5, 16, "band"),
        ("several bands by stage", "small", 20, 12, 3, 0.5, 16, "stage"),
        ("several bands in layers", "small", 20, 12, 3, 0.5, 16, "layer"),
        ("own scales in layers", "none", 18, 4, 12, 0.6, 22, "layer"),
        ("bundled backbone in layers", "scenes", 12, 8, 32, 0.25, 20, "layer"),
        ("own scales", "none", 8, 12, 5, 0.25, 24, "band"),
        ("own scales by stage", "none", 18, 4, 12, 0.6, 9, "stage"),
        ("own scales, finest", "none", 4, 4, 2, 0.0, 32, "band"),
        ("bundled backbone", "scenes", 8, 8, 32, 0.5, 20, "band"),
        ("bundled backbone by stage", "scenes", 8, 8, 32, 0.25, 20, "stage"),
        ("bundled backbone, coarse", "scenes", 10, 4, 32, 0.0, 6, "band"),
    ]
    for seed, (name, kind, height, width, channels, ratio, depth, order) in enumerate(cases):
        own = {"none": None, "small": small, "scenes": scenes}[kind]
        merged = merging.merged(tokens_of(height, width, channels, seed), (height, width), ratio)
        sent = FeatureCodec(own, BACKBONE).encode(merged, quantiser_bits=depth / 4, order=order).payload
        yield vector(name, kind, own, Received(sent))
        if name.startswith("several"):
            for lost in (1, 2, len(sent.features) - 1):
                left = tuple(b"" if i == lost else part for i, part in enumerate(sent.features))
                yield vector(f"{name}, part {lost} lost", kind, own, Received(replace(sent, features=left)))
    merged = merging.merged(tokens_of(4, 4, 3, 99), (4, 4), 0.3)
    sent = FeatureCodec(small, BACKBONE).encode(merged, analog=True)
    assert sent.symbols is not None
    yield vector("analog", "small", small, Received(sent.payload, sent.symbols, np.linspace(0.1, 0.2, len(sent.symbols))))
    for name, ratio, copies in (("transform coefficients", 0.0, 1), ("a part of the coefficients, twice", 0.6, 2)):
        sent = FeatureCodec(small, BACKBONE).encode_coefficients(tokens_of(4, 4, 3, 98), (4, 4), ratio, copies=copies)
        assert sent.symbols is not None
        yield vector(name, "small", small, Received(sent.payload, sent.symbols, np.linspace(0.1, 0.3, len(sent.symbols))))
    rng = np.random.default_rng(1)
    header = encode_header(replace(decode_header(encode_header_of(8, 8, 3, 64)), depth=20))
    bodies = [rng.bytes(4 * n) for n in (6, 40)]
    yield vector(
        "bits that no encoder wrote",
        "small",
        small,
        Received(Payload(header, b"", tuple(b + payload.part_crc(b, i, header) for i, b in enumerate(bodies)))),
    )


def encode_header_of(height: int, width: int, channels: int, rows: int, **codes: int) -> bytes:
    """A sealed header with codes that the library itself never writes."""
    fields = {"version": 3, "depth": 20, "order": 0, "prior": 0, "reduction": 0, "layer": 0} | codes
    return seal(LAYOUT.pack(MAGIC, *fields.values(), height, width, channels, rows, 0.0, BACKBONE))


def resealed(good: Payload, header: bytes) -> Payload:
    """The same map and parts under another header."""
    parts = (part[: -payload.CRC_BYTES] for part in good.features)
    features = tuple(body + payload.part_crc(body, i, header) for i, body in enumerate(parts))
    return Payload(header, seal(good.merge_map[:-4], header), features)


def refused() -> Iterator[dict[str, object]]:
    """What every decoder refuses."""
    own = FeatureCodec(small_prior(), BACKBONE)
    good = own.encode(merging.merged(tokens_of(8, 8, 3, 7), (8, 8), 0.25)).payload
    packed = codec.pack(Received(good))
    older = seal(b"ME\x02\x14" + bytes.fromhex("0800080003004000") + bytes(4) + BACKBONE.to_bytes(4, "little"))
    header = good.header
    garbage = b"\xff" * 8  # a quantile of 2^24 at once
    broken = garbage + payload.part_crc(garbage, 0, header)
    payloads = {
        "format 2": resealed(good, older),
        "a later format": resealed(good, encode_header_of(8, 8, 3, 48, version=4)),
        "another order": resealed(good, encode_header_of(8, 8, 3, 48, order=2)),
        "coefficients in bits": resealed(good, encode_header_of(8, 8, 3, 48, reduction=1)),
        "another reduction": resealed(good, encode_header_of(8, 8, 3, 48, reduction=2)),
        "coefficients without variances": Payload(encode_header_of(8, 8, 3, 64, reduction=1, depth=0), b""),
        "coefficients with a map": resealed(good, encode_header_of(8, 8, 3, 48, reduction=1, depth=0)),
        "a refinement layer": resealed(good, encode_header_of(8, 8, 3, 48, layer=1)),
        "another prior": resealed(good, encode_header_of(8, 8, 3, 48, prior=2)),
        "scales that are missing": resealed(good, encode_header_of(8, 8, 3, 48, prior=1)),
        "the base was lost": replace(good, features=(b"", *good.features[1:])),
        "a part too many": replace(good, features=(*good.features, b"")),
        "parts exchanged": replace(good, features=good.features[::-1]),
        "a part of half a word": replace(good, features=(b"ab" + payload.part_crc(b"ab", 0, header), good.features[1])),
        "a quantile beyond": replace(good, features=(broken, good.features[1])),
        "no map": replace(good, merge_map=b""),
    }
    strings = {name: codec.pack(Received(p)) for name, p in payloads.items()}
    strings |= {"cut": packed[:-9], "a byte changed": packed[:60] + bytes([packed[60] ^ 4]) + packed[61:], "nothing": b""}
    strings["flags kept free"] = packed[:5] + b"\x02" + packed[6:]
    for name, data in strings.items():
        try:
            own.decode(codec.unpack(data))
        except codec.CodecError as error:
            yield {"name": name, "prior": "small", "payload": data.hex(), "why": str(error)}
        else:
            raise AssertionError(f"{name} was decoded")


def main() -> None:
    (HERE / "small").mkdir(exist_ok=True)
    prior.save(small_prior(), HERE / "small", {})
    digests = {"small": small_prior().digest, "scenes": prior.load(SCENES, 32).digest}
    table = prior.logistic_levels()[:, prior.REACH :].tolist()
    lines: dict[str, Any] = {
        "format": framing.VERSION,
        "backbone": BACKBONE,
        "bundled": Receiver.load(SCENES).codec.fingerprint,
        "digests": digests,
        "levels": table,
        "decoded": list(decoded()),
        "refused": list(refused()),
    }
    body = ",\n".join(f'"{key}": ' + rows(value) for key, value in lines.items())
    (HERE / "vectors.json").write_text("{\n" + body + "\n}\n")
    merged = merging.merged(tokens_of(32, 32, 32, 0) / 4, (32, 32), 0.5)
    sent = FeatureCodec(prior.load(SCENES, 32), lines["bundled"]).encode(merged, quantiser_bits=4)
    (HERE / "scenes.payload").write_bytes(codec.pack(Received(sent.payload)))


def rows(value: object) -> str:
    """A list as one line an entry."""
    return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)


if __name__ == "__main__":
    main()
