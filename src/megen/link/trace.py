"""A recorded channel: SNRs over time, and its reader of CSV files as spreadsheets and logging tools write them."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megen.errors import InputError
from megen.files import read_text
from megen.types import check_array

Array = NDArray[np.float64]
COLUMNS = ("time_s", "snr_db")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
OUTAGE = ("", "-inf", "-infinity")  # SNRs of a sample in which nothing was received
SNR_DB_BOUND = 100.0  # of a sample that is no outage


@dataclass(frozen=True, eq=False)
class Trace:
    """Times [n] in s that rise, and the SNR [n] in dB from each on: within 100 dB of 0, or -inf in an outage. Errors: InputError."""

    time_s: Array
    snr_db: Array

    def __post_init__(self) -> None:
        check_array("time_s", self.time_s, np.float64, (None,))
        check_array("snr_db", self.snr_db, np.float64, self.time_s.shape)
        if not np.isfinite(self.time_s).all() or (np.diff(self.time_s) <= 0).any():
            raise InputError("a trace's times must be finite and rise")
        if not ((np.abs(self.snr_db) <= SNR_DB_BOUND) | np.isneginf(self.snr_db)).all():
            raise InputError(f"a trace's SNRs must lie within {SNR_DB_BOUND:g} dB of 0, or be -inf in an outage")
        if np.isneginf(self.snr_db).all():
            raise InputError("a trace of nothing but outages: no sample has an SNR")

    def at(self, time_s: float | Array) -> Array:
        """The SNR in dB at given times: the last sample before each, the trace repeating without end; -inf in an outage."""
        period = self.time_s[-1] - self.time_s[0] + (np.diff(self.time_s).mean() if len(self.time_s) > 1 else 1.0)
        since = np.mod(np.asarray(time_s, float) - self.time_s[0], period)
        return np.asarray(self.snr_db[np.searchsorted(self.time_s - self.time_s[0], since, side="right") - 1])

    @property
    def sha256(self) -> str:
        """Of its numbers: what a report knows it by."""
        return hashlib.sha256(self.time_s.tobytes() + self.snr_db.tobytes()).hexdigest()


def read_trace(path: Path) -> Trace:
    """The trace of the columns time_s and snr_db; an empty SNR or -inf is an outage.

    Columns stand between commas, semicolons or tabs; beside the latter two a decimal comma is a decimal point.
    Errors: InputError with the line that is wrong.
    """
    lines = read_text(path).splitlines()
    separator = _separator(lines[0] if lines else "", path)
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        columns = [name.strip() for name in next(rows)]
        places = [columns.index(name) for name in COLUMNS]
        samples: list[tuple[float, float]] = []
        for row in rows:
            if not any(field.strip() for field in row):
                continue  # spreadsheets write them after the last sample
            where = f"{path}:{rows.line_num}"
            if len(row) <= max(places):
                raise InputError(f"{where}: {len(row)} columns, expected {len(columns)} between {SEPARATORS[separator]}")
            time, snr = (_point(row[place], separator) for place in places)
            samples.append(_sample(time, snr, where))
            if len(samples) > 1 and samples[-1][0] <= samples[-2][0]:
                raise InputError(f"{where}: times must rise, got {samples[-1][0]:g} s after {samples[-2][0]:g} s")
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: not a readable line ({error})") from error
    if not samples:
        raise InputError(f"{path} holds no samples")
    times, snrs = np.array(samples).T
    if np.isneginf(snrs).all():
        raise InputError(f"{path} holds nothing but outages: no sample has an SNR")
    return Trace(times.copy(), snrs.copy())


def _separator(header: str, path: Path) -> str:
    for separator in SEPARATORS:
        fields = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        if set(COLUMNS) <= {field.strip() for field in fields}:
            return separator
    raise InputError(
        f"{path} needs the columns {' and '.join(COLUMNS)} between {', '.join(SEPARATORS.values())}; its first line is {header[:80]!r}"
    )


def _point(field: str, separator: str) -> str:
    return field.strip() if separator == "," else field.strip().replace(",", ".")


def _sample(time: str, snr: str, where: str) -> tuple[float, float]:
    try:
        time_s, snr_db = float(time), -np.inf if snr.lower() in OUTAGE else float(snr)
    except ValueError as error:
        raise InputError(f"{where}: time_s and snr_db must be numbers, an SNR empty or -inf in an outage ({error})") from error
    if not np.isfinite(time_s):
        raise InputError(f"{where}: time_s must be finite, got {time}")
    if snr_db != -np.inf and not abs(snr_db) <= SNR_DB_BOUND:
        raise InputError(f"{where}: snr_db must lie within {SNR_DB_BOUND:g} dB of 0, or be empty or -inf in an outage, got {snr}")
    return time_s, snr_db
