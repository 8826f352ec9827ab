"""What movement does to a signal: block fading that is correlated over slots, and what the sender knows of it.

Gains are complex with mean power 1. Slots of one block each: a gain is constant in a slot.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0

from megen.link.propagation import LIGHT_M_S
from megen.types import ComplexArray, InputError

Array = NDArray[np.float64]
FADINGS = ("awgn", "rayleigh", "rician")
Gain = Callable[[Array], ComplexArray]  # times in s to channel gains


def doppler_hz(speed_m_s: float, carrier_hz: float) -> float:
    """Largest Doppler shift, v f / c."""
    if not (speed_m_s >= 0 and carrier_hz > 0):
        raise InputError(f"speed and carrier must not be negative, got {speed_m_s:g} m/s and {carrier_hz:g} Hz")
    return speed_m_s * carrier_hz / LIGHT_M_S


def jakes_correlation(lag_s: float | Array, doppler: float) -> Array:
    """E[h(t) h*(t + lag)] = J0(2 pi f_D lag) under isotropic scattering."""
    return np.asarray(j0(2 * np.pi * doppler * np.asarray(lag_s, float)))


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


def autoregressive(first: ComplexArray, slots: int, correlation: float, rng: np.random.Generator) -> ComplexArray:
    """First-order Markov fading h' = rho h + sqrt(1 - rho^2) w from `first` [...]: gains [slots, ...].

    Exact at lag one; the correlation at lag k is rho^k, not J0.
    """
    if not -1 <= correlation <= 1:
        raise InputError(f"the correlation must lie in [-1, 1], got {correlation}")
    out = np.empty((slots, *first.shape), np.complex128)
    for k in range(slots):
        out[k] = first if k == 0 else correlation * out[k - 1] + np.sqrt(1 - correlation**2) * rayleigh(first.shape, rng)
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


def gain_of(fading: str, doppler: float, rng: np.random.Generator, rician_db: float = 6.0) -> Gain:
    """The channel gain over time of one transmission: 1 (awgn), Rayleigh, or Rician with a factor of `rician_db`."""
    if fading not in FADINGS:
        raise InputError(f"fading must be {', '.join(FADINGS)}, got {fading!r}")
    if fading == "awgn":
        return lambda time_s: np.ones(np.shape(time_s), np.complex128)
    scattered = jakes(doppler, rng)
    return scattered if fading == "rayleigh" else lambda time_s: rician(scattered(time_s), rician_db)


def known_gains(gains: ComplexArray, delay_slots: int, error_variance: float, rng: np.random.Generator) -> ComplexArray:
    """What the sender knows of gains [slots, ...]: those of `delay_slots` before, with an estimation error CN(0, error_variance).

    The first slots, which have no past, know the first gain.
    """
    if delay_slots < 0 or error_variance < 0:
        raise InputError(f"delay and error must not be negative, got {delay_slots} and {error_variance}")
    old = gains[np.maximum(np.arange(len(gains)) - delay_slots, 0)]
    out: ComplexArray = old + np.sqrt(error_variance) * rayleigh(old.shape, rng)
    return out
