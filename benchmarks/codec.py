"""The codec alone: seconds and memory to refuse or decode any bytes, and to code and decode real latents.

`python benchmarks/codec.py` draws byte strings of every kind (random, cut, sealed garbage) for the shipped backbone's grid.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from dataclasses import replace

import numpy as np

import common
from megen import codec, merging
from megen.codec import payload, prior, pyramid
from megen.models import backbone as backbones
from megen.types import Payload


def strings(count: int, good: Payload, rng: np.random.Generator) -> list[Payload]:
    """Payloads that no encoder wrote, in turn: random bytes, one part replaced, and garbage under valid checksums."""
    out = []
    parts = len(good.features)
    for i in range(count):
        noise = [rng.bytes(int(rng.integers(1, 4000))) for _ in range(parts)]
        if i % 3 == 0:
            out.append(Payload(rng.bytes(28), rng.bytes(300), tuple(noise)))
        elif i % 3 == 1:
            out.append(replace(good, features=(noise[0], *good.features[1:])))
        else:
            bodies = (body[: len(body) // 4 * 4] for body in noise)
            sealed = tuple(body + payload._part_crc(body, k, good.header) for k, body in enumerate(bodies))
            out.append(replace(good, features=sealed))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600)
    args = parser.parse_args()
    own = prior.load(backbones.folder_of("scenes"), 32)
    rng, grid = np.random.default_rng(0), (32, 32)
    tokens = rng.standard_normal((1024, 32)).astype(np.float32)
    choice = merging.match(tokens, *grid, 0.25)
    mapping = merging.merge_map(choice, *grid)
    rows, _ = merging.merge(tokens, mapping)
    header = codec.Header(*grid, 32, len(rows), 1, 20)
    good = codec.encode(rows, choice, mapping, header, own)

    def decode(got: Payload) -> None:
        read, chosen = codec.decode_protected(got, 1)
        codec.decode_features(got, read, merging.merge_map(chosen, *grid), own)

    began = time.perf_counter()
    for _ in range(20):
        codec.encode(rows, choice, mapping, header, own)
    encode_s = (time.perf_counter() - began) / 20
    began = time.perf_counter()
    for _ in range(20):
        decode(good)
    decode_s = (time.perf_counter() - began) / 20
    seconds, refused, decoded, other = [], 0, 0, 0
    for got in strings(args.count, good, rng):
        began = time.perf_counter()
        try:
            decode(got)
            decoded += 1
        except codec.CodecError:
            refused += 1
        except Exception:
            other += 1
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    for got in strings(30, good, rng):
        try:
            decode(got)
        except codec.CodecError:
            continue
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    big = np.full(len(merging.layout(64, 64)[1]), -1, np.int64)
    inside = np.flatnonzero((merging.layout(64, 64)[2] >= 0).all(1))
    big[rng.choice(inside, 2048, replace=False)] = rng.integers(0, 8, 2048)
    common.write(
        "codec",
        {
            "strings": args.count,
            "slowest_s": max(seconds),
            "peak_bytes": peak,
            "refused": refused,
            "decoded": decoded,
            "other_exceptions": other,
            "encode_s": encode_s,
            "decode_s": decode_s,
            "map_bits_4096_tokens_2048_merged_uniform": 8 * len(codec.encode_map(big, b"")),
            "parts": len(pyramid.segments(*grid)),
        },
    )


if __name__ == "__main__":
    main()
