"""What distance does to a signal: path loss, and the link budget that turns it into an SNR. Shadowing is not modelled.

3GPP TR 38.901 (v17) table 7.4.1-1, urban micro street canyon; and the reference system's
35.3 + 37.6 log10 d. Distances in metres, carrier in hertz; every argument may be an array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megen.types import POSITIVE, InputError, check_number

Array = NDArray[np.float64]

LIGHT_M_S = 299_792_458.0
HEIGHT_BS_M, HEIGHT_UT_M, HEIGHT_ENVIRONMENT_M = 10.0, 1.5, 1.0
MODELS = ("umi-los", "umi-nlos", "reference")


def _slant_m(ground_m: ArrayLike) -> tuple[Array, Array]:
    d = np.asarray(ground_m, float)
    if not ((d >= 10) & (d <= 5000)).all():
        raise InputError(f"TR 38.901 UMi holds from 10 m to 5 km, got {d.min():g} to {d.max():g} m")
    return d, np.asarray(np.hypot(d, HEIGHT_BS_M - HEIGHT_UT_M))


def umi_los_db(distance_m: ArrayLike, carrier_hz: float) -> Array:
    """Path loss with line of sight, dual slope around the breakpoint 4 h'_BS h'_UT f / c. Errors: InputError outside 10 m to 5 km."""
    ground, slant = _slant_m(distance_m)
    f_ghz = _carrier(carrier_hz) / 1e9
    breakpoint_m = 4 * (HEIGHT_BS_M - HEIGHT_ENVIRONMENT_M) * (HEIGHT_UT_M - HEIGHT_ENVIRONMENT_M) * carrier_hz / LIGHT_M_S
    near = 32.4 + 21 * np.log10(slant) + 20 * np.log10(f_ghz)
    drop = 9.5 * np.log10(breakpoint_m**2 + (HEIGHT_BS_M - HEIGHT_UT_M) ** 2)
    far = 32.4 + 40 * np.log10(slant) + 20 * np.log10(f_ghz) - drop
    return np.asarray(np.where(ground <= breakpoint_m, near, far))


def umi_nlos_db(distance_m: ArrayLike, carrier_hz: float) -> Array:
    """Path loss without line of sight, never below that with it. Errors: InputError outside 10 m to 5 km."""
    _, slant = _slant_m(distance_m)
    blocked = 22.4 + 35.3 * np.log10(slant) + 21.3 * np.log10(_carrier(carrier_hz) / 1e9) - 0.3 * (HEIGHT_UT_M - 1.5)
    return np.asarray(np.maximum(umi_los_db(distance_m, carrier_hz), blocked))


def reference_db(distance_m: ArrayLike) -> Array:
    """Path loss of the reference system, 35.3 + 37.6 log10 d. Errors: InputError below 1 m."""
    d = np.asarray(distance_m, float)
    if not (d >= 1).all():
        raise InputError(f"the distance must be at least 1 m, got {d.min():g}")
    return np.asarray(35.3 + 37.6 * np.log10(d))


def path_loss_db(model: str, distance_m: ArrayLike, carrier_hz: float) -> Array:
    """Path loss of one of the `MODELS`. Errors: InputError."""
    if model == "reference":
        return reference_db(distance_m)
    if model not in MODELS:
        raise InputError(f"the path-loss model must be one of {', '.join(MODELS)}, got {model!r}")
    return umi_los_db(distance_m, carrier_hz) if model == "umi-los" else umi_nlos_db(distance_m, carrier_hz)


def _carrier(carrier_hz: float) -> float:
    if not 0.5e9 <= carrier_hz <= 100e9:
        raise InputError(f"TR 38.901 holds from 0.5 to 100 GHz, got {carrier_hz:g} Hz")
    return carrier_hz


@dataclass(frozen=True)
class LinkBudget:
    """Transmit power and receiver noise; the defaults are the reference system's (-94 dBm in 1 MHz in all)."""

    power_dbm: float = 30.0
    bandwidth_hz: float = 1e6
    noise_dbm_hz: float = -174.0
    noise_figure_db: float = 20.0

    def __post_init__(self) -> None:
        check_number("bandwidth_hz", self.bandwidth_hz, POSITIVE)
        for name in ("power_dbm", "noise_dbm_hz", "noise_figure_db"):
            check_number(name, getattr(self, name), -300, 300)

    def noise_dbm(self) -> float:
        """Noise power in the whole bandwidth."""
        return float(self.noise_dbm_hz + self.noise_figure_db + 10 * np.log10(self.bandwidth_hz))

    def snr_db(self, path_loss_db: ArrayLike) -> Array:
        """Mean SNR at the receiver."""
        return np.asarray(self.power_dbm - np.asarray(path_loss_db) - self.noise_dbm())
