"""What movement does to a signal: block fading that is correlated over slots.

Gains are complex with mean power 1. Slots of one block each: a gain is constant in a slot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0

from megen.link.propagation import LIGHT_M_S
from megen.types import ComplexArray, InputError, check_number

Array = NDArray[np.float64]
FADINGS = ("awgn", "rayleigh", "rician")
SPEED_M_S, CARRIER_HZ = (0.0, 1000.0), (1e8, 3e11)  # bounds
RICIAN_DB = 6.0  # the factor of a line of sight
Gain = Callable[[Array], ComplexArray]  # times in s to channel gains


def doppler_hz(speed_m_s: float, carrier_hz: float) -> float:
    """Largest Doppler shift, v f / c. Errors: InputError naming the bounds of both."""
    check_number("speed_m_s", speed_m_s, *SPEED_M_S)
    check_number("carrier_hz", carrier_hz, *CARRIER_HZ, mend="; 3.5 GHz are 3.5e9")
    return speed_m_s * carrier_hz / LIGHT_M_S


def rayleigh(shape: tuple[int, ...], rng: np.random.Generator) -> ComplexArray:
    """Independent CN(0, 1) gains."""
    out: ComplexArray = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    return out


def rician(scattered: ComplexArray, k_db: float) -> ComplexArray:
    """A line of sight of factor K beside scattered gains: sqrt(K/(K+1)) + sqrt(1/(K+1)) h."""
    if not np.isfinite(k_db):
        raise InputError(f"the Rician factor must be a finite number of dB, got {k_db}")
    k = 10 ** (k_db / 10)
    out: ComplexArray = np.sqrt(k / (k + 1)) + np.sqrt(1 / (k + 1)) * scattered
    return out


def jakes(doppler: float, rng: np.random.Generator, shape: tuple[int, ...] = (), waves: int = 32) -> Gain:
    """Rayleigh fading whose correlation is J0 at every lag: plane waves from random directions, as a function of time.

    The function takes times [n] in s and returns gains [n, *shape].
    """
    shift = 2 * np.pi * doppler * np.cos(rng.uniform(-np.pi, np.pi, (waves, *shape)))
    amplitude = rayleigh((waves, *shape), rng) / np.sqrt(waves)

    def gain(time_s: Array) -> ComplexArray:
        time = np.asarray(time_s, float).reshape(-1, *(1,) * len(shape))
        out = np.zeros((len(time), *shape), np.complex128)
        for w in range(waves):
            out += amplitude[w] * np.exp(1j * shift[w] * time)
        return out

    return gain


@dataclass(frozen=True)
class Forecast:
    """What a sender expects of an SNR: that of |sqrt(steady) + sqrt(scattered) w|^2, w of CN(0, 1). Both are linear."""

    steady: float
    scattered: float = 0.0


def forecast(fading: str, doppler: float, age_s: float, snr_db: float, mean_snr_db: float) -> Forecast:
    """The SNR to expect where it was `snr_db` so long ago, by Jakes' correlation J0(2 pi f age).

    What is scattered loses its phase with age; a line of sight does not. A recording is taken as steady.
    """
    known, mean = 10 ** (snr_db / 10), 10 ** (mean_snr_db / 10)
    if fading not in ("rayleigh", "rician"):
        return Forecast(known)
    correlation = float(j0(2 * np.pi * doppler * age_s))
    if fading == "rayleigh":
        return Forecast(known * correlation**2, mean * (1 - correlation**2))
    k = 10 ** (RICIAN_DB / 10)
    amplitude = np.sqrt(mean * k / (k + 1)) * (1 - correlation) + correlation * np.sqrt(known)  # as if both were in phase
    return Forecast(float(amplitude) ** 2, mean * (1 - correlation**2) / (k + 1))


def gain_of(fading: str, doppler: float, rng: np.random.Generator, rician_db: float = RICIAN_DB) -> Gain:
    """The channel gain over time of one transmission: 1 (awgn), Rayleigh, or Rician with a factor of `rician_db`."""
    if fading not in FADINGS:
        raise InputError(f"fading must be {', '.join(FADINGS)}, got {fading!r}")
    if fading == "awgn":
        return lambda time_s: np.ones(np.shape(time_s), np.complex128)
    scattered = jakes(doppler, rng)
    return scattered if fading == "rayleigh" else lambda time_s: rician(scattered(time_s), rician_db)
