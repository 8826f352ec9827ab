"""The codec alone: seconds and memory to refuse or decode any bytes, and to code and decode latents.

`python -m experiments.codec.run` draws byte strings of every kind (random, cut, sealed garbage) for the bundled backbone's grid.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from experiments import common
from megen import codec, merging
from megen.codec import CodecError, FeatureCodec, payload, prior, pyramid
from megen.models import embedded
from megen.types import Payload, Received

GRID, CHANNELS, BACKBONE = (32, 32), 32, 1


def strings(count: int, good: Payload, rng: np.random.Generator) -> list[Payload]:
    """Payloads that no encoder wrote, in turn: random bytes, one part replaced, and garbage under valid checksums."""
    out = []
    for i in range(count):
        noise = [rng.bytes(int(rng.integers(1, 4000))) for _ in good.features]
        if i % 3 == 0:
            out.append(Payload(rng.bytes(28), rng.bytes(300), tuple(noise)))
        elif i % 3 == 1:
            out.append(replace(good, features=(noise[0], *good.features[1:])))
        else:
            bodies = [body[: len(body) // 4 * 4] for body in noise]
            sealed = tuple(body + payload.part_crc(body, k, good.header) for k, body in enumerate(bodies))
            out.append(replace(good, features=sealed))
    return out


def mean_s(run: Callable[[], object], count: int = 20) -> float:
    """Mean wall-clock seconds of a call."""
    began = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - began) / count


def refusals(coder: FeatureCodec, good: Payload, count: int, rng: np.random.Generator) -> dict[str, float]:
    """Seconds, memory and outcomes of strings that no encoder wrote."""
    seconds, refused, decoded, other = [], 0, 0, 0
    for sent in strings(count, good, rng):
        began = time.perf_counter()
        try:
            coder.decode(Received(sent))
            decoded += 1
        except CodecError:
            refused += 1
        except Exception:
            other += 1
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    for sent in strings(30, good, rng):
        try:
            coder.decode(Received(sent))
        except CodecError:
            continue
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"slowest_s": max(seconds), "peak_bytes": peak, "refused": refused, "decoded": decoded, "other_exceptions": other}


def map_bits(rng: np.random.Generator) -> int:
    """Bits of a map of 64 x 64 tokens, half of them merged, every neighbour alike."""
    _, sources, candidates = merging.layout(64, 64)
    choice = np.full(len(sources), -1, np.int64)
    inside = np.flatnonzero((candidates >= 0).all(1))
    choice[rng.choice(inside, 2048, replace=False)] = rng.integers(0, 8, 2048)
    return 8 * len(payload.encode_map(choice, b""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    merged = merging.merged(rng.standard_normal((GRID[0] * GRID[1], CHANNELS)).astype(np.float32), GRID, 0.25)
    figures: dict[str, object] = {"strings": args.count}
    coders = {
        "nets": FeatureCodec(prior.load(embedded.folder_of("scenes"), CHANNELS), BACKBONE),
        "own_scales": FeatureCodec(None, BACKBONE),
    }
    for name, coder in coders.items():
        for order in pyramid.ORDERS:
            sent = coder.encode(merged, order=order).payload
            received = Received(sent)
            figures[f"{name}_{order}"] = {
                "encode_s": mean_s(lambda: coder.encode(merged, order=order)),  # noqa: B023
                "decode_s": mean_s(lambda: coder.decode(received)),  # noqa: B023
                "pack_and_unpack_s": mean_s(lambda: codec.unpack(codec.pack(received))),  # noqa: B023
                "bits_of_white_tokens": sent.bits(),
                **refusals(coder, sent, args.count, rng),
            }
    common.write("codec", {**figures, "map_bits_4096_tokens_2048_merged_uniform": map_bits(rng)})


if __name__ == "__main__":
    main()
