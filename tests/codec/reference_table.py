"""The table of levels where there is no codec file, by the formula of docs/format.md, in exact fractions of 70 digits."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

from tests.codec.reference_decoder import CLASSES, REACH


@functools.cache
def logistic_levels() -> list[list[int]]:
    """Counts [24][49]; exp(x) by its series."""

    def exp(x: Fraction) -> Fraction:
        halvings = max(0, math.ceil(math.log2(float(abs(x)) + 1)) + 4)
        y, term, total = x / 2**halvings, Fraction(1), Fraction(1)
        for n in range(1, 30):
            term = round_to(term * y / n)
            total += term
        for _ in range(halvings):
            total = round_to(total * total)
        return total

    def round_to(x: Fraction) -> Fraction:
        return Fraction(round(x * 10**70), 10**70)

    root = round_to(Fraction(math.isqrt(math.isqrt(2 * 10**280)), 10**70))
    table = []
    for k in range(CLASSES):
        scale = root ** (k - 16) if k >= 16 else 1 / root ** (16 - k)
        below = [1 / (1 + exp(round_to(-(Fraction(2 * e - 1, 2)) / scale))) for e in range(1, REACH + 1)]
        probability = [2 * below[0] - 1, *(b - a for a, b in itertools.pairwise(below)), 1 - below[-1]]
        half = [round(p * (2**16 - 49)) + 1 for p in probability]
        half[0] += 2**16 - half[0] - 2 * sum(half[1:])
        table.append(half[:0:-1] + half)
    return table
