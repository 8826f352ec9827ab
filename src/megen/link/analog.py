"""The analog link: power-normalised symbols, y = h*x + n, linear MMSE at the receiver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen.types import ComplexArray, InputError

Array = NDArray[np.float64]


def noise_variance(snr_db: float) -> float:
    """`no`, the noise variance per complex channel use at unit signal power: 10^(-snr_db / 10)."""
    if not -60 <= snr_db <= 120:  # also refuses NaN
        raise InputError(f"snr_db must lie in [-60, 120], got {snr_db}")
    return float(10 ** (-snr_db / 10))


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
