"""The analog link: power-normalised symbols, y = h*x + n, linear MMSE at the receiver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen.types import FloatArray, IntArray

Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


def noise_variance(snr_db: float) -> float:
    """`no`, the noise variance per complex channel use at unit signal power: 10^(-snr_db / 10)."""
    if not -60 <= snr_db <= 120:  # also refuses NaN
        raise ValueError(f"snr_db must lie in [-60, 120], got {snr_db}")
    return float(10 ** (-snr_db / 10))


def row_gains(counts: IntArray) -> Array:
    """Amplitude of each row [n] that stands for `counts` tokens: count^(1/4), of mean power 1.

    Errors of a row harm all its tokens: sum count * no / p under sum p = n is least at p ~ sqrt(count).
    """
    power = np.sqrt(counts.astype(np.float64))
    gains: Array = np.sqrt(power / power.mean())
    return gains


def modulate(features: FloatArray, gains: Array) -> tuple[ComplexArray, float]:
    """Rows [n, c], each times its gain [n], to I/Q symbols of unit mean power, and the amplitude that undoes it.

    Two values make one symbol; an odd last one travels beside a zero.
    """
    flat = (features.astype(np.float64) * gains[:, None]).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("features hold NaN or infinity: nothing can be sent")
    amplitude = float(np.float32(np.sqrt((flat**2).mean()))) or 1.0
    pairs = np.pad(flat / amplitude, (0, len(flat) % 2)).reshape(-1, 2)
    return (pairs[:, 0] + 1j * pairs[:, 1]) / np.sqrt(2), amplitude


def transmit(symbols: ComplexArray, gains: ComplexArray, no: float, rng: np.random.Generator) -> ComplexArray:
    """y = h*x + n with n ~ CN(0, no)."""
    noise = rng.standard_normal((2, len(symbols))) * np.sqrt(no / 2)
    received: ComplexArray = gains * symbols + noise[0] + 1j * noise[1]
    return received


def mmse(received: ComplexArray, gains: ComplexArray, no: float) -> ComplexArray:
    """conj(h) / (|h|^2 + no) * y; the mean squared error of a unit-power symbol is no / (|h|^2 + no)."""
    estimate: ComplexArray = gains.conj() / (np.abs(gains) ** 2 + no) * received
    return estimate


def equalise(received: ComplexArray, gains: ComplexArray, no: float) -> tuple[ComplexArray, Array]:
    """y / h and its noise variance no / |h|^2 per symbol; a gain of zero gives a variance of 1e12."""
    power = np.maximum(np.abs(gains) ** 2, no * 1e-12)
    return received * gains.conj() / power, no / power


def demodulate(symbols: ComplexArray, variance: Array, amplitude: float, gains: Array, channels: int) -> tuple[FloatArray, FloatArray]:
    """Equalised symbols to rows [n, c], each value shrunk to its linear MMSE estimate, and each row's noise deviation [n].

    The deviation is that before shrinking, in units of a feature; features are taken to have unit variance.
    """
    n = len(gains)
    scale = amplitude / gains[:, None]
    values = np.stack([symbols.real, symbols.imag], 1).ravel()[: n * channels].reshape(n, channels) * np.sqrt(2) * scale
    noise = np.repeat(variance, 2)[: n * channels].reshape(n, channels) * scale**2
    rows: FloatArray = (values / (1 + noise)).astype(np.float32)
    # the mean over a row in the logarithm: one symbol in a deep fade does not make the whole row unknown
    deviation: FloatArray = np.exp(0.5 * np.log(np.maximum(noise, 1e-24)).mean(1)).astype(np.float32)
    return rows, deviation
