"""Rows of features to I/Q symbols and back, for a link that carries them as they are.

rows [n, c] ──× gain of each row──> flat ──/ amplitude──> pairs ──> symbols of unit mean power
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen.types import ComplexArray, FloatArray, InputError, IntArray

Array = NDArray[np.float64]
LEAST_NOISE, MOST_NOISE = 1e-24, 1e24  # beyond these a variance counts as this much, so that all that is made of it is finite
MOST = 1e18  # of a symbol: no equalised one of such a variance is larger


def row_gains(counts: IntArray) -> Array:
    """Amplitude of each row [n] that stands for `counts` tokens: count^(1/4), of mean power 1.

    Errors of a row degrade all its tokens: sum count * no / p under sum p = n is least at p ~ sqrt(count).
    """
    power = np.sqrt(counts.astype(np.float64))
    gains: Array = np.sqrt(power / power.mean())
    return gains


def modulate(rows: FloatArray | Array, gains: Array) -> tuple[ComplexArray, float]:
    """Rows [n, c], each times its gain [n], to I/Q symbols of unit mean power, and the amplitude that undoes it.

    Two values make one symbol; an odd last one travels beside a zero. Errors: InputError on NaN or infinity.
    """
    flat = (rows.astype(np.float64) * gains[:, None]).ravel()
    if not np.isfinite(flat).all():
        raise InputError("features hold NaN or infinity: nothing can be sent")
    amplitude = float(np.float32(np.sqrt((flat**2).mean()))) or 1.0
    pairs = np.pad(flat / amplitude, (0, len(flat) % 2)).reshape(-1, 2)
    return (pairs[:, 0] + 1j * pairs[:, 1]) / np.sqrt(2), amplitude


def values_of(symbols: ComplexArray, variance: Array, scale: Array) -> tuple[Array, Array]:
    """Equalised symbols to values [n], each times its scale [n], and the variances of their noise [n]."""
    flat = np.stack([symbols.real, symbols.imag], 1).ravel()[: len(scale)]
    return flat * np.sqrt(2) * scale, np.repeat(variance, 2)[: len(scale)] * scale**2


def demodulate(symbols: ComplexArray, variance: Array, amplitude: float, gains: Array, channels: int) -> tuple[FloatArray, FloatArray]:
    """Equalised symbols to rows [n, c], each value shrunk to its linear MMSE estimate, and each row's noise deviation [n].

    The deviation is that before shrinking, in units of a feature; features are taken to have unit variance.
    """
    n = len(gains)
    values, noise = (v.reshape(n, channels) for v in values_of(symbols, variance, np.repeat(amplitude / gains, channels)))
    rows: FloatArray = (values / (1 + noise)).astype(np.float32)
    # the mean over a row in the logarithm: one symbol in a deep fade does not make the whole row unknown
    deviation: FloatArray = np.exp(0.5 * np.log(np.maximum(noise, LEAST_NOISE)).mean(1)).astype(np.float32)
    return rows, deviation
