"""The golden vectors and random bytes, by the library and by the second decoder of `reference_decoder.py`."""

from __future__ import annotations

import functools
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from megen import codec, merging
from megen.codec import FeatureCodec, Prior, payload, prior
from megen.codec.header import LAYOUT, MAGIC, VERSION, layer_code, seal
from megen.codec.pyramid import KINDS, ORDERS
from megen.types import Payload, Received
from megen.ue import Receiver
from tests.codec import reference_decoder as reference
from tests.codec.helpers import BACKBONE, sealed
from tests.codec.reference_table import logistic_levels

GOLDEN = Path(__file__).parents[1] / "golden"
SCENES = Path(prior.__file__).parents[1] / "assets" / "scenes"
VECTORS = json.loads((GOLDEN / "vectors.json").read_text())
FOLDERS = {"small": GOLDEN / "small", "scenes": SCENES}


@functools.cache
def reference_prior(kind: str, channels: int) -> reference.Prior:
    if kind == "none":
        return reference.Prior([256] * channels, [], logistic_levels())
    return reference.read_prior((FOLDERS[kind] / prior.FILE).read_bytes())


@functools.cache
def library_prior(kind: str) -> Prior | None:
    return None if kind == "none" else prior.load(FOLDERS[kind], 3 if kind == "small" else 32)


def names(kind: str) -> list:
    return [pytest.param(vector, id=vector["name"]) for vector in VECTORS[kind]]


def by_library(data: bytes, own: Prior | None) -> tuple[list[int], list[list[int]]] | None:
    """Which token fills each, and every token's values in 1 / 256; None: refused."""
    try:
        received = codec.unpack(data)
        features = FeatureCodec(own, BACKBONE).decode(received)
    except codec.CodecError:
        return None
    values = np.rint(features.rows.astype(np.float64) * prior.UNIT).astype(int)[features.merge_map]
    return features.merge_map.tolist(), [] if received.symbols is not None else values.tolist()


def by_reference(data: bytes, own: reference.Prior) -> tuple[list[int], list[list[int]]] | None:
    try:
        header, choice, parts, symbols = reference.unpack(data)
        read, target, values = reference.decode(header, choice, parts, own, BACKBONE)
        if read.depth == 0:
            needed = (read.rows * read.channels + 1) // 2
            reference.require(symbols is not None and len(symbols) in range(needed, 9 * needed, needed), "symbols")
    except reference.RefusedError:
        return None
    number = {token: i for i, token in enumerate(sorted(set(target)))}
    return [number[t] for t in target], values


def check_coefficients(vector: dict, data: bytes) -> None:
    """Both decoders' estimates from transform coefficients, where the vector is of some."""
    header, _, _, symbols = reference.unpack(data)
    read = reference.read_header(header)
    assert read.transform == ("values" in vector)
    if read.transform:
        features = FeatureCodec(library_prior(vector["prior"]), BACKBONE).decode(codec.unpack(data))
        rows, error = reference.read_coefficients(symbols, read, reference_prior(vector["prior"], read.channels))
        for found in (features.rows.ravel(), np.ravel(rows)):
            np.testing.assert_allclose(found, vector["values"], atol=2e-6)
        assert (error, features.degradation[0, 1]) == pytest.approx((vector["error"], error), abs=1e-6)


@pytest.mark.parametrize("vector", names("decoded"))
def test_both_decoders_give_the_golden_vector(vector: dict) -> None:
    data = bytes.fromhex(vector["payload"])
    header = reference.read_header(reference.unpack(data)[0])
    ours, theirs = by_library(data, library_prior(vector["prior"])), by_reference(data, reference_prior(vector["prior"], header.channels))
    assert ours == theirs is not None
    if "map" in vector:
        assert ours[0] == vector["map"]
        check_coefficients(vector, data)
        return
    values = ours[1]
    crc = zlib.crc32(b"".join(struct.pack(f"<{header.channels}h", *token) for token in values))
    assert (crc, values[0], values[-1]) == (vector["crc"], vector["first"], vector["last"])
    degradation = FeatureCodec(library_prior(vector["prior"]), BACKBONE).decode(codec.unpack(data)).degradation
    assert np.flatnonzero(degradation[:, 3]).tolist() == vector["lost"]


@pytest.mark.parametrize("vector", names("refused"))
def test_both_decoders_refuse_the_golden_vector(vector: dict) -> None:
    data = bytes.fromhex(vector["payload"])
    assert by_reference(data, reference_prior("small", 3)) is None
    with pytest.raises(codec.CodecError) as refusal:
        FeatureCodec(library_prior("small"), BACKBONE).decode(codec.unpack(data))
    assert str(refusal.value) == vector["why"]


def test_the_tables_and_digests_are_the_golden_ones() -> None:
    assert prior.logistic_levels()[:, prior.REACH :].tolist() == VECTORS["levels"]
    assert logistic_levels() == prior.logistic_levels().tolist()
    for kind in FOLDERS:  # after a new bundled prior: python tests/golden/make.py
        own = library_prior(kind)
        assert own is not None
        assert reference.digest(reference_prior(kind, own.channels)) == own.digest == VECTORS["digests"][kind]


def test_the_page_has_the_bytes_of_its_worked_example_and_the_tables_checksum() -> None:
    page = (GOLDEN.parents[1] / "docs" / "format.md").read_text()
    example = page.split("## 10.")[1].split("## 11.")[0]
    shown = [line.split("   ")[0] for block in example.split("```")[1::2] for line in block.splitlines()]
    assert bytes.fromhex("".join(line for line in shown if line[:2].isalnum())).hex() == VECTORS["decoded"][0]["payload"]
    assert f"{zlib.crc32(prior.logistic_levels().astype('<i4').tobytes()):08x}" in page


def strings(count: int, seed: int, kind: str) -> list[bytes]:
    """Byte strings that no encoder wrote, of three kinds: bits changed under valid checksums, sealed garbage, plain garbage."""
    rng = np.random.default_rng(seed)
    grids = 2 * rng.integers(1, 5, (4, 2))  # few, as their pyramids take longer than the strings
    out = []
    for number in range(count):
        height, width = map(int, grids[number // 10 % 4 if seed == 0 else 4 * number // count])
        channels = int(rng.integers(1, 5)) if kind == "none" else 3
        order = int(rng.integers(0, 3))
        depth = int(rng.integers(9 if order == 2 else 1, 33))
        if number % 20 == 19:
            out.append(b"MEGP\x03" * (number % 40 == 39) + rng.bytes(int(rng.integers(0, 90))))
            continue
        if number % 2:
            if number % 20 == 1:  # ten changes of each payload
                tokens = rng.standard_normal((height * width, channels)).astype(np.float32)
                merged = merging.merged(tokens, (height, width), 0.75 * rng.random())
                encoder = FeatureCodec(library_prior(kind), BACKBONE)
                sent = encoder.encode(merged, quantiser_bits=depth / 4, order=ORDERS[order]).payload
            bodies, choice, header = [p[: -payload.CRC_BYTES] for p in sent.features], sent.merge_map[:-4], sent.header
            changed = int(rng.integers(0, len(bodies) + bool(choice)))
            if changed == len(bodies):
                choice = _changed(choice, rng)
            else:
                bodies[changed] = _changed(bodies[changed], rng)
        else:
            own_scales = kind == "none" or rng.random() < 0.2
            scales = rng.integers(0, 61, KINDS * channels).astype(np.uint8).tobytes() if own_scales else b""
            count_sent = int(rng.integers(height * width // 4, height * width + 1))
            codes = (depth, order, int(own_scales), 0, layer_code(ORDERS[order]))
            codes = codes if rng.random() < 0.9 else tuple(rng.integers(0, 4, 5).tolist())
            header = seal(LAYOUT.pack(MAGIC, VERSION, *codes, height, width, channels, count_sent, 0.0, BACKBONE) + scales)
            bodies = [rng.bytes(4 * int(rng.integers(0, 30))) for _ in range(5 if order == 1 else 1 + (height > 0))]
            choice = b"" if count_sent == height * width else rng.bytes(4 * int(rng.integers(1, 10)))
        whole = sealed(header, bodies, choice or None)
        if rng.random() < 0.1:
            lost = int(rng.integers(0, len(bodies)))
            whole = Payload(whole.header, whole.merge_map, tuple(b"" if i == lost else p for i, p in enumerate(whole.features)))
        out.append(codec.pack(Received(whole)))
    return out


def _changed(body: bytes, rng: np.random.Generator) -> bytes:
    if not body or rng.random() < 0.2:
        return rng.bytes(4 * int(rng.integers(0, 9)))
    at = int(rng.integers(0, len(body)))
    return body[:at] + bytes([body[at] ^ int(rng.integers(1, 256))]) + body[at + 1 :]


def agreement(count: int, seed: int, kind: str) -> tuple[int, int]:
    """How many of `count` strings both decode alike, and how many both refuse. Errors: AssertionError with the first that differs."""
    own, decoded, refused = library_prior(kind), 0, 0
    for data in strings(count, seed, kind):
        header = data[20 + 4 * data[6] - 4 :][:16] if len(data) > 60 else b""
        theirs = by_reference(data, reference_prior(kind, header[12] if len(header) == 16 else 1))
        ours = by_library(data, own)
        assert ours == theirs, data.hex()
        decoded, refused = decoded + (ours is not None), refused + (ours is None)
    return decoded, refused


@pytest.mark.parametrize("kind", ["small", "none"])
def test_both_decoders_agree_on_random_bytes(kind: str) -> None:
    decoded, refused = agreement(200, 0, kind)
    assert min(decoded, refused) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "none"])
def test_both_decoders_agree_on_100_000_byte_strings(kind: str) -> None:
    found = np.sum([agreement(500, seed, kind) for seed in range(1, 101)], 0)
    print(kind, "decoded, refused:", found.tolist())
    assert found.sum() == 50_000


def test_the_bundled_receiver_decodes_the_golden_payload_of_its_own_backbone() -> None:
    receiver = Receiver.load(SCENES)
    assert receiver.codec.fingerprint == VECTORS["bundled"], "the bundled backbone is another now: run tests/golden/make.py"
    assert receiver.decode(codec.unpack((GOLDEN / "scenes.payload").read_bytes())).shape == (1024, 1024, 3)
