"""The analog link: power-normalised symbols, y = h*x + n, and their equalisation. The codec shrinks them to MMSE estimates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen.types import ComplexArray, check_number

Array = NDArray[np.float64]
SNR_DB = (-60.0, 120.0)  # bounds of a mean SNR


def noise_variance(snr_db: float) -> float:
    """`no`, the noise variance per complex channel use at unit signal power: 10^(-snr_db / 10)."""
    check_number("snr_db", snr_db, *SNR_DB)
    return float(10 ** (-snr_db / 10))


def transmit(symbols: ComplexArray, gains: ComplexArray, no: float, rng: np.random.Generator) -> ComplexArray:
    """y = h*x + n with n ~ CN(0, no)."""
    noise = rng.standard_normal((2, len(symbols))) * np.sqrt(no / 2)
    received: ComplexArray = gains * symbols + noise[0] + 1j * noise[1]
    return received


def equalise(received: ComplexArray, gains: ComplexArray, no: float) -> tuple[ComplexArray, Array]:
    """y / h and its noise variance no / |h|^2 per symbol; a gain of zero gives a variance of 1e12."""
    power = np.maximum(np.abs(gains) ** 2, no * 1e-12)
    return received * gains.conj() / power, no / power
