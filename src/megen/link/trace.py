"""A recorded channel: SNRs over time from a CSV file, as spreadsheets and logging tools write it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megen.errors import InputError
from megen.files import read_text

Array = NDArray[np.float64]
Trace = tuple[Array, Array]  # times in s, SNRs in dB
COLUMNS = ("time_s", "snr_db")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
OUTAGE = ("", "-inf", "-infinity")  # SNRs of a sample in which nothing was received
SNR_DB_BOUND = 100.0  # of a sample that is no outage


def read_trace(path: Path) -> Trace:
    """Times in s and SNRs in dB of the columns time_s and snr_db; an SNR of -inf is an outage.

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
    return times, snrs


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


def snr_at(trace: Trace, time_s: float | Array) -> Array:
    """The SNR in dB of a trace at given times: the last sample before each, the trace repeating without end; -inf in an outage."""
    times, snrs = trace
    period = times[-1] - times[0] + (np.diff(times).mean() if len(times) > 1 else 1.0)
    since = np.mod(np.asarray(time_s, float) - times[0], period)
    return np.asarray(snrs[np.searchsorted(times - times[0], since, side="right") - 1])
