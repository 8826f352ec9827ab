"""The analog link: power-normalised symbols, y = h*x + n, linear MMSE at the receiver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen.types import FloatArray

ComplexArray = NDArray[np.complex128]
FADINGS = ("awgn", "rayleigh")


def noise_variance(snr_db: float) -> float:
    """`no`, the noise variance per complex channel use at unit signal power: 10^(-snr_db / 10)."""
    if not -60 <= snr_db <= 120:  # also refuses NaN
        raise ValueError(f"snr_db must lie in [-60, 120], got {snr_db}")
    return float(10 ** (-snr_db / 10))


def modulate(features: FloatArray) -> tuple[ComplexArray, float]:
    """Real features to I/Q symbols of unit mean power, and the amplitude that undoes it.

    Two features make one symbol; an odd last one travels beside a zero.
    """
    flat = features.astype(np.float64).ravel()
    if not np.isfinite(flat).all():
        raise ValueError("features hold NaN or infinity: nothing can be sent")
    amplitude = float(np.float32(np.sqrt((flat**2).mean()))) or 1.0
    pairs = np.pad(flat / amplitude, (0, len(flat) % 2)).reshape(-1, 2)
    return (pairs[:, 0] + 1j * pairs[:, 1]) / np.sqrt(2), amplitude


def demodulate(symbols: ComplexArray, amplitude: float, shape: tuple[int, int]) -> FloatArray:
    """Symbols back to features of the given shape."""
    flat = np.stack([symbols.real, symbols.imag], 1).ravel()[: shape[0] * shape[1]]
    features: FloatArray = (flat * np.sqrt(2) * amplitude).reshape(shape).astype(np.float32)
    return features


def fade(n: int, fading: str, block: int, rng: np.random.Generator) -> ComplexArray:
    """Channel gains of n symbols: 1 for awgn, one CN(0, 1) draw a block for rayleigh (E|h|^2 = 1)."""
    if fading not in FADINGS:
        raise ValueError(f"fading must be {' or '.join(FADINGS)}, got {fading!r}")
    if fading == "awgn":
        return np.ones(n, np.complex128)
    if block < 1:
        raise ValueError(f"a fading block must hold at least 1 symbol, got {block}")
    blocks = -(-n // block)
    gains: ComplexArray = (rng.standard_normal(blocks) + 1j * rng.standard_normal(blocks)) / np.sqrt(2)
    return np.repeat(gains, block)[:n]


def transmit(symbols: ComplexArray, gains: ComplexArray, no: float, rng: np.random.Generator) -> ComplexArray:
    """y = h*x + n with n ~ CN(0, no)."""
    noise = rng.standard_normal((2, len(symbols))) * np.sqrt(no / 2)
    received: ComplexArray = gains * symbols + noise[0] + 1j * noise[1]
    return received


def mmse(received: ComplexArray, gains: ComplexArray, no: float) -> ComplexArray:
    """conj(h) / (|h|^2 + no) * y; the mean squared error of a unit-power symbol is no / (|h|^2 + no)."""
    estimate: ComplexArray = gains.conj() / (np.abs(gains) ** 2 + no) * received
    return estimate
