"""A second decoder of payloads, written from docs/format.md alone: plain Python, no NumPy, no range-coder package.

Slow and short. It takes the same bytes as `megen.codec` and gives the same whole numbers, or refuses the same.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import struct
import zlib
from dataclasses import dataclass

UNIT, LIMIT, ACTIVATION, BOUND, MAX_LEVEL = 256, 4096, 32767, 32767, 65535
PRECISION, REACH, CLASSES, MOST = 24, 24, 24, 60
KINDS, NONE = 7, -1
INT32 = 2**31 - 1
NEIGHBOURS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, -1), (-1, 0), (-1, 1), (1, -1))


class RefusedError(Exception):
    """Bytes that no encoder wrote."""


def require(condition: bool, why: str) -> None:
    if not condition:
        raise RefusedError(why)


# --- the codec file -------------------------------------------------------------------------------------------------


@dataclass
class Prior:
    step: list[int]
    nets: list[list[tuple[list[list[int]], list[int], list[list[int]], list[int]]]]  # by kind, by group: w1, b1, w2, b2
    levels: list[list[int]]
    variance: list[list[list[int]]] | None = None  # by channel, row, column

    def tables(self) -> list[list[int]]:
        if not hasattr(self, "_tables"):
            self._tables = [edges_of(row) for row in self.levels]
        return self._tables


def read_prior(data: bytes) -> Prior:
    """A codec file: safetensors, which is a length, JSON, then the numbers."""
    (size,) = struct.unpack_from("<Q", data)
    about = json.loads(data[8 : 8 + size])
    assert about.pop("__metadata__")["format"] == "megen-codec-3"

    def tensor(name: str) -> list:
        entry = about[name]
        start, end = entry["data_offsets"]
        letter, width = {"I16": ("h", 2), "I32": ("i", 4)}[entry["dtype"]]
        flat = list(struct.unpack(f"<{(end - start) // width}{letter}", data[8 + size + start : 8 + size + end]))
        if len(entry["shape"]) == 1:
            return flat
        for length in entry["shape"][:0:-1]:
            flat = [flat[i : i + length] for i in range(0, len(flat), length)]
        return flat

    count = sum(name.startswith("0.") and name.endswith(".w1") for name in about)
    nets = [[tuple(tensor(f"{k}.{g}.{n}") for n in ("w1", "b1", "w2", "b2")) for g in range(count)] for k in range(KINDS if count else 0)]
    return Prior(tensor("step"), nets, tensor("levels"), tensor("variance") if "variance" in about else None)


def digest(prior: Prior) -> int:
    """CRC-32 of all numbers as 32-bit words."""
    crc = 0
    matrices = [[prior.step], *(m if isinstance(m[0], list) else [m] for kind in prior.nets for net in kind for m in net), prior.levels]
    matrices += prior.variance or []
    for matrix in matrices:
        for row in matrix:
            crc = zlib.crc32(struct.pack(f"<{len(row)}i", *row), crc)
    return crc


# --- the range decoder ----------------------------------------------------------------------------------------------


class RangeDecoder:
    def __init__(self, body: bytes) -> None:
        require(len(body) % 4 == 0, "not whole words")
        self.words = list(struct.unpack(f"<{len(body) // 4}I", body))
        self.at, self.lower, self.range = 0, 0, 2**64 - 1
        self.point = self.word() << 32
        self.point |= self.word()

    def word(self) -> int:
        self.at += 1
        return self.words[self.at - 1] if self.at <= len(self.words) else 0

    def symbol(self, edges: list[int]) -> int:
        """The symbol whose cumulative frequencies [edges[i], edges[i + 1]) hold the next quantile."""
        scale = self.range >> PRECISION
        quantile = ((self.point - self.lower) % 2**64) // scale
        require(quantile < 2**PRECISION, "bits that no encoder wrote")
        low, high = 0, len(edges) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if edges[middle] <= quantile else (low, middle)
        self.narrow(scale, edges[low], edges[low + 1] - edges[low])
        return low

    def uniform(self, bits: int) -> int:
        scale = self.range >> PRECISION
        quantile = ((self.point - self.lower) % 2**64) // scale
        require(quantile < 2**PRECISION, "bits that no encoder wrote")
        share = PRECISION - bits
        self.narrow(scale, quantile >> share << share, 1 << share)
        return quantile >> share

    def narrow(self, scale: int, start: int, frequency: int) -> None:
        self.lower = (self.lower + scale * start) % 2**64
        self.range = scale * frequency
        if self.range < 2**32:
            self.lower = (self.lower << 32) % 2**64
            self.range <<= 32
            self.point = (self.point << 32) % 2**64 | self.word()


def edges_of(counts: list[int]) -> list[int]:
    total, n, before, edges = sum(counts), len(counts), 0, []
    for i in range(n + 1):
        edges.append(before * (2**PRECISION - n) // total + i)
        before += counts[i] if i < n else 0
    return edges


# --- header, seals, map ---------------------------------------------------------------------------------------------


@dataclass
class Header:
    depth: int
    order: int
    own_scales: bool
    height: int
    width: int
    channels: int
    rows: int
    backbone: int
    scales: list[list[int]]
    crc: int
    transform: bool = False
    amplitude: float = 0.0


def opened(part: bytes, start: int) -> bytes:
    require(len(part) >= 4, "cut")
    require(zlib.crc32(part[:-4], start) == struct.unpack("<I", part[-4:])[0], "checksum")
    return part[:-4]


def read_header(part: bytes) -> Header:
    body = opened(part, 0)
    require(body[:3] == b"ME\x03" and len(body) >= 24, "no header of format 3")
    depth, order, prior, reduction, layer, height, width, channels, rows = struct.unpack_from("<BBBBBHHHH", body, 3)
    amplitude, backbone = struct.unpack_from("<fI", body, 16)
    require(order <= 2 and prior <= 1 and reduction <= 1 and layer == (8 if order == 2 else 0), "a code that is kept free")
    require(reduction == 0 or depth == 0, "coefficients that are not analog")
    require(depth <= 32 and (order != 2 or depth >= 9), "depth")
    require(0 <= amplitude <= 2**20, "amplitude")
    require(all(2 <= side <= 128 and side % 2 == 0 for side in (height, width)) and 1 <= channels <= 256, "grid")
    require(height * width // 4 <= rows <= height * width, "rows")
    scales = list(body[24:])
    require(len(scales) == (KINDS * channels if prior else 0) and all(s <= MOST for s in scales), "scales")
    table = [scales[k * channels : (k + 1) * channels] for k in range(KINDS)] if prior else []
    return Header(
        depth,
        order,
        prior == 1,
        height,
        width,
        channels,
        rows,
        backbone,
        table,
        struct.unpack("<I", part[-4:])[0],
        reduction == 1,
        amplitude,
    )


def read_map(part: bytes, header: Header) -> list[int]:
    """For each token the token whose row fills it."""
    height, width = header.height, header.width
    target = list(range(height * width))
    sources = [t for t in target if t // width % 2 or t % width % 2]
    count = 0 if header.transform else height * width - header.rows
    if count == 0 and not part:
        return target
    body = opened(part, header.crc)
    require(len(body) >= 4 and len(body) % 4 == 0, "not whole words")
    weights = [w for byte in body[:4] for w in (byte >> 4, byte & 15)]
    weights = [int(f"{w:04b}"[::-1], 2) for w in weights]  # most significant bit first in the byte, least in the number
    require(count > 0 and any(weights), "a map that moves nothing")
    coder = RangeDecoder(body[4:])
    moves = [1] * len(sources)
    if count < len(sources):
        edges = edges_of([len(sources) - count, count])
        moves = [coder.symbol(edges) for _ in sources]
    require(sum(moves) == count, "another number of moves")
    edges = edges_of(weights)
    only = [k for k in range(8) if weights[k]]
    for source, moved in zip(sources, moves, strict=True):
        if moved:
            down, right = NEIGHBOURS[coder.symbol(edges) if len(only) > 1 else only[0]]
            y, x = source // width // 2 + down, source % width // 2 + right
            require(0 <= y < height // 2 and 0 <= x < width // 2, "outside the grid")
            target[source] = 2 * y * width + 2 * x
    return target


# --- the pyramid ----------------------------------------------------------------------------------------------------


@functools.cache
def kind_of(token: int, width: int) -> int:
    y, x = divmod(token, width)
    for level, half in ((2, 1), (1, 2), (0, 4)):
        if y % (2 * half) == half and x % (2 * half) == half:
            return 1 + 2 * level
        if (y % (2 * half) == half) != (x % (2 * half) == half) and y % half == 0 and x % half == 0:
            return 2 + 2 * level
    return 0


@functools.cache
def parts_of(height: int, width: int, order: int) -> list[list[tuple[int, list[int]]]]:
    """Each part's stages: a kind and its tokens."""
    tokens = range(height * width)
    bands = range((height + 7) // 8)

    def stage(kind: int, band: int | None) -> tuple[int, list[int]]:
        return kind, [t for t in tokens if kind_of(t, width) == kind and band in (None, t // width // 8)]

    base = [stage(kind, None) for kind in (0, 1, 2)]
    if order == 0:
        return [base, *([stage(kind, band) for kind in (3, 4, 5, 6)] for band in bands)]
    if order == 2:
        return [[stage(kind, band) for kind in range(KINDS) for band in bands], *([] for _ in bands)]
    return [base, *([stage(kind, band) for band in bands] for kind in (3, 4, 5, 6))]


@functools.cache
def neighbours_of(token: int, kind: int, order: int, height: int, width: int) -> list[int]:
    if kind == 0:
        return [NONE] * 4
    half = (4, 2, 1)[(kind - 1) // 2]
    steps = ((-1, -1), (-1, 1), (1, -1), (1, 1)) if kind % 2 else ((0, -1), (0, 1), (-1, 0), (1, 0))
    across = (3, 2, 1, 0) if kind % 2 else (1, 0, 3, 2)
    y, x = divmod(token, width)
    seen = []
    for down, right in steps:
        r, c = y + half * down, x + half * right
        inside = 0 <= r < height and 0 <= c < width
        near = r * width + c
        if inside and order == 0 and kind_of(near, width) > 2 and r // 8 != y // 8:
            inside = False  # another band's
        seen.append(near if inside and kind_of(near, width) < kind else NONE)
    filled = [seen[k] if seen[k] != NONE else seen[across[k]] for k in range(4)]
    first = next((n for n in seen if n != NONE), NONE)
    return [n if n != NONE else first for n in filled]


# --- features -------------------------------------------------------------------------------------------------------


def clip(value: int, largest: int) -> int:
    return max(-largest, min(largest, value))


def log2(step: int) -> int:
    exponent = step.bit_length() - 1
    return UNIT * (exponent - 8) + (UNIT * (step - (1 << exponent)) >> exponent)


def predict(net: tuple, inputs: list[int]) -> list[int]:
    """Both outputs of a net one after the other, in 32-bit arithmetic that is checked here."""
    w1, b1, w2, b2 = net
    sums = list(b1)
    for value, weights in zip(inputs, w1, strict=True):
        if value:
            sums = [s + value * w for s, w in zip(sums, weights, strict=True)]
    hidden = [min(max(s, 0) >> 10, ACTIVATION) for s in sums]
    out = list(b2)
    for value, weights in zip(hidden, w2, strict=True):
        if value:
            out = [s + value * w for s, w in zip(out, weights, strict=True)]
    assert max(map(abs, sums + out)) <= INT32
    return [s >> 10 for s in out]


def class_of(log_scale: int, step: int) -> int:
    return max(0, min(MOST, (log_scale - log2(step) + 1024 + 32) // 64))


def level_symbols(coder: RangeDecoder, classes: list[int], edges: list[list[int]]) -> list[int]:
    """The levels of one block: first all high parts, then the escapes, then the low bits."""
    low = [-(-max(k - CLASSES + 1, 0) // 4) for k in classes]
    high = [coder.symbol(edges[k - 4 * n]) - REACH for k, n in zip(classes, low, strict=True)]
    for i, value in enumerate(high):
        if abs(value) == REACH:
            high[i] += (1 if value > 0 else -1) * coder.uniform(16)
    levels = [h << n for h, n in zip(high, low, strict=True)]
    for i, n in enumerate(low):
        if n:
            levels[i] += coder.uniform(n) - (1 << n >> 1)
    return [clip(level, MAX_LEVEL) for level in levels]


def steps_of(depth: int, prior: Prior) -> tuple[int, list[int]]:
    """The base step and each channel's."""
    whole, quarter = divmod(depth, 4)
    base = (2048 * (4096, 3444, 2896, 2435)[quarter] >> 12) >> whole
    return base, [max(s * base // UNIT, 1) for s in prior.step]


def refinement_edges(levels: list[list[int]]) -> list[list[list[int]]]:
    """By the fine step's class and the coarse level's magnitude up to 5."""
    shares = [[1, 12, 16, 16, 16, 12, 1], [0, 2, 16, 16, 16, 12, 1]]
    return [
        [edges_of([row[24 + 4 * n + m] * share >> 4 for m, share in zip(range(-3, 4), shares[n > 0], strict=True)]) for n in range(6)]
        for row in levels
    ]


def bodies_of(parts: list[bytes], header: Header, count: int) -> list[bytes | None]:
    """The parts without their checksums; None: lost, or of no use without a lost one."""
    require(len(parts) == count, "another number of parts")
    bodies = []
    for number, part in enumerate(parts):
        body = part[:-3]
        seal = struct.pack("<I", zlib.crc32(bytes([number]) + body, header.crc))[:3]
        require(not part or (len(part) >= 3 and seal == part[-3:]), "checksum")
        bodies.append(body if part else None)
    require(bodies[0] is not None, "the base was lost")
    if header.order == 1 and None in bodies:
        first = bodies.index(None)
        bodies[first:] = [None] * (len(bodies) - first)
    return bodies


def refine(
    bodies: list[bytes | None],
    header: Header,
    target: list[int],
    prior: Prior,
    coarse_levels: list[list[int]],
    fine_classes: list[list[int]],
    values: list[list[int]],
) -> None:
    """Bring the values of every band whose part arrived from the base's step to the fine one."""
    edges, (_, step), width = refinement_edges(prior.levels), steps_of(header.depth, prior), header.width
    for band, body in enumerate(bodies[1:]):
        coder = None if body is None else RangeDecoder(body)
        tokens = range(8 * band * width, min(8 * (band + 1), header.height) * width) if coder else ()
        for t in (t for t in tokens if target[t] == t):
            for c, level in enumerate(coarse_levels[t]):
                row = edges[min(fine_classes[t][c], CLASSES - 1)][min(abs(level), 5)]
                change = (coder.symbol(row) - 3) * step[c]
                values[t][c] = clip(values[t][c] + (-change if level < 0 else change), BOUND)


def read_features(parts: list[bytes], header: Header, target: list[int], prior: Prior) -> list[list[int]]:
    """Every token's values in 1 / 256, raster order, after unmerging."""
    height, width, channels = header.height, header.width, header.channels
    require(len(prior.step) == channels, "another number of channels")
    require(header.own_scales or bool(prior.nets), "no nets")
    base, step = steps_of(header.depth - (8 if header.order == 2 else 0), prior)
    _, fine_step = steps_of(header.depth, prior)
    coarse_levels = [[0] * channels for _ in range(height * width)]
    fine_classes = [[0] * channels for _ in range(height * width)]
    layout = parts_of(height, width, header.order)
    bodies = bodies_of(parts, header, len(layout))
    count = 8 if header.own_scales else len(prior.nets[0])
    edges = [channels * k // count for k in range(count + 1)]
    groups = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    tables = prior.tables()
    part_number = {t: n for n, stages in enumerate(layout) for _, tokens in stages for t in tokens}
    values = [[0] * channels for _ in range(height * width)]
    for stages, body in zip(layout, bodies, strict=True):
        coder = None if body is None else RangeDecoder(body)
        for kind, tokens in stages:
            own = [t for t in tokens if target[t] == t]
            around = {}
            for t in own:
                near = neighbours_of(t, kind, header.order, height, width)
                around[t] = [[clip(v, LIMIT) for v in values[n]] if n != NONE else [0] * channels for n in near]
            for number, (a, b) in enumerate(groups) if own else ():
                means, classes = [], []
                for t in own:
                    if header.own_scales:
                        means += [sum(n[c] for n in around[t]) + 2 >> 2 for c in range(a, b)]
                        classes += header.scales[kind][a:b]
                        fine_classes[t][a:b] = [k + 8 for k in header.scales[kind][a:b]]
                        continue
                    place = [t // width * 512 // height - 256, t % width * 512 // width - 256, log2(base)]
                    inputs = [v for n in around[t] for v in n] + place + [clip(v, LIMIT) for v in values[t][:a]]
                    out = predict(prior.nets[kind][number], inputs)
                    means += [clip(m, LIMIT) for m in out[: b - a]]
                    classes += [class_of(s, step[c]) for s, c in zip(out[b - a :], range(a, b), strict=True)]
                    fine_classes[t][a:b] = [class_of(s, fine_step[c]) for s, c in zip(out[b - a :], range(a, b), strict=True)]
                levels = level_symbols(coder, classes, tables) if coder else [0] * len(means)
                for i, (mean, level) in enumerate(zip(means, levels, strict=True)):
                    t, c = own[i // (b - a)], a + i % (b - a)
                    values[t][c] = clip(mean + level * step[c], BOUND)
                    coarse_levels[t][c] = level
            for t in tokens:
                if target[t] != t:
                    n = target[t]
                    if header.order == 0 and part_number[n] not in (0, part_number[t]):
                        n = t // width // 2 * 2 * width + t % width // 2 * 2
                    values[t] = list(values[n])
    if header.order == 2:
        refine(bodies, header, target, prior, coarse_levels, fine_classes, values)
    return [values[target[t]] for t in range(height * width)]


def decode(
    header_part: bytes, map_part: bytes, parts: list[bytes], prior: Prior, backbone: int
) -> tuple[Header, list[int], list[list[int]]]:
    """Header, target of each token, and values of each token in 1 / 256 (none where the payload is analog)."""
    header = read_header(header_part)
    require(header.backbone == backbone, "another backbone")
    target = read_map(map_part, header)
    if header.transform:
        coefficient_order(header, prior)
    return header, target, [] if header.depth == 0 else read_features(parts, header, target, prior)


# --- transform coefficients -----------------------------------------------------------------------------------------


def coefficient_order(header: Header, prior: Prior) -> list[tuple[int, int, int]]:
    """(channel, row, column) of the coefficients in the order in which their values travel."""
    variance = prior.variance
    require(variance is not None and len(variance[0]) == header.height and len(variance[0][0]) == header.width, "variances")
    places = [(c, v, u) for c in range(header.channels) for v in range(header.height) for u in range(header.width)]
    ranked = sorted(places, key=lambda p: -(32 * variance[p[0]][p[1]][p[2]] - log2(prior.step[p[0]])))[: header.rows * header.channels]
    count = len(ranked)
    stride = max(1, count * 618 // 1000)
    while math.gcd(stride, count) > 1:
        stride += 1
    return [ranked[j * stride % count] for j in range(count)]


def read_coefficients(symbols: list[tuple[complex, float]], header: Header, prior: Prior) -> tuple[list[list[float]], float]:
    """Each token's values, and the root mean square error of what they are estimates of."""
    places, needed = coefficient_order(header, prior), (header.rows * header.channels + 1) // 2
    joint = []
    for i in range(needed):
        copies = symbols[i::needed]
        require(all(max(abs(value.real), abs(value.imag)) <= 1e18 for value, _ in copies), "symbols")
        copies = [(value, min(noise, 1e24)) for value, noise in copies]
        weights = [1 / max(noise, 1e-24) for _, noise in copies]
        mean = sum(w * value for w, (value, _) in zip(weights, copies, strict=True)) / sum(weights)
        joint.append(copies[0] if len(copies) == 1 else (mean, 1 / sum(weights)))
    error = {(c, v, u): 2 ** (k / 8) for c, plane in enumerate(prior.variance) for v, row in enumerate(plane) for u, k in enumerate(row)}
    planes = [[[0.0] * header.width for _ in range(header.height)] for _ in range(header.channels)]
    for j, (c, v, u) in enumerate(places):
        k = 32 * prior.variance[c][v][u]
        scale = header.amplitude / 2 ** (-(k + 2 * log2(prior.step[c])) / 2048)
        value, noise = (joint[j // 2][0].real, joint[j // 2][0].imag)[j % 2] * math.sqrt(2) * scale, joint[j // 2][1] * scale**2
        planes[c][v][u] = value * 2 ** (k / 256) / (2 ** (k / 256) + noise)
        error[c, v, u] = 2 ** (k / 256) * noise / (2 ** (k / 256) + noise)

    def wave(frequency: int, place: int, size: int) -> float:
        return math.sqrt((2 if frequency else 1) / size) * math.cos(math.pi * (2 * place + 1) * frequency / (2 * size))

    def token(y: int, x: int) -> list[float]:
        height, width = header.height, header.width
        waves = [[wave(v, y, height) * wave(u, x, width) for u in range(width)] for v in range(height)]
        return [sum(waves[v][u] * plane[v][u] for v in range(height) for u in range(width)) for plane in planes]

    rows = [token(y, x) for y in range(header.height) for x in range(header.width)]
    return rows, math.sqrt(sum(error.values()) / len(error))


# --- the packed payload ---------------------------------------------------------------------------------------------


def unpack(data: bytes) -> tuple[bytes, bytes, list[bytes], list[tuple[complex, float]] | None]:
    require(len(data) >= 20 and data[:5] == b"MEGP\x03", "not a packed payload")
    flags, count, *lengths = struct.unpack_from("<BHII", data, 5)
    require(flags <= 1 and count <= 17, "flags or parts")
    fields = count + flags
    require(len(data) >= 20 + 4 * fields, "cut")
    lengths += struct.unpack_from(f"<{fields}I", data, 16)
    symbols = lengths.pop() if flags else 0
    require(len(data) == 20 + 4 * fields + sum(lengths) + 24 * symbols, "another length")
    require(zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0], "checksum")
    at, pieces = 16 + 4 * fields, []
    for length in lengths:
        pieces.append(data[at : at + length])
        at += length
    numbers = struct.unpack_from(f"<{3 * symbols}d", data, at)
    pairs = [(complex(numbers[2 * i], numbers[2 * i + 1]), numbers[2 * symbols + i]) for i in range(symbols)]
    return pieces[0], pieces[1], pieces[2:], pairs if flags else None
