from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megen.link import NotDeliveredError, RadioLink, Trace, analog, read_trace
from megen.types import InputError, Payload, Transmission

PLAIN = "time_s,snr_db\n0,3\n0.5,-1.5\n2,7\n"


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace(",", ", ").encode(),
        PLAIN.replace(",", '","').replace("\n", '"\n"')[:-1].join(['"', ""]).encode(),
        PLAIN.replace(",", ";").replace(".", ",").encode("utf-8-sig"),  # a spreadsheet where commas are decimal
        PLAIN.replace(",", "\t").encode(),
        (PLAIN + ",\n\n").encode(),
        b"cell,snr_db,time_s\na,3,0\nb,-1.5,0.5\nc,7,2\n",
    ],
)
def test_a_trace_is_read_however_it_was_saved(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(data)
    trace = read_trace(path)
    np.testing.assert_array_equal(trace.time_s, [0, 0.5, 2])
    np.testing.assert_array_equal(trace.snr_db, [3, -1.5, 7])


def test_a_trace_repeats(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time_s,snr_db\n0,3\n1,5\n2,-1\n")
    np.testing.assert_array_equal(read_trace(path).at(np.array([0.0, 0.5, 1.0, 2.9, 3.0, 4.2])), [3, 3, 5, -1, 3, 5])


@pytest.mark.parametrize("outage", ["", "-inf", "-Infinity", " "])
def test_an_outage_is_a_gain_of_zero(outage: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"time_s,snr_db\n0,{outage}\n1,6\n2,12\n")
    trace = read_trace(path)
    assert trace.at(0.5) == -np.inf
    link = RadioLink(6.0, trace=trace)
    times = np.array([0.5, 1.5, 2.5])
    gains = link.gain(np.random.default_rng(0))(times)
    np.testing.assert_allclose(gains, [0, 1, 10**0.3], atol=1e-12)
    values, variance = analog.equalise(np.ones(3, np.complex128), gains, analog.noise_variance(link.snr_db))
    assert np.isfinite(values).all()
    assert variance[0] > 1e9 * variance[1]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs the columns time_s and snr_db between commas, semicolons, tabs; its first line is ''"),
        ("a,b\n1,2\n", "its first line is 'a,b'"),
        ("time_s|snr_db\n1|2\n", r"its first line is 'time_s\|snr_db'"),
        ("time_s,snr_db\n0,x\n", "trace.csv:2: time_s and snr_db must be numbers"),
        ("time_s,snr_db\n,3\n", "trace.csv:2: time_s and snr_db must be numbers"),
        ("time_s,snr_db\n0\n", "trace.csv:2: 1 columns, expected 2 between commas"),
        ('time_s,snr_db\n"0,5",3\n', "trace.csv:2: time_s and snr_db must be numbers"),
        ("time_s,snr_db\n0,nan\n", "trace.csv:2: snr_db must lie within 100 dB of 0, or be empty or -inf in an outage, got nan"),
        ("time_s,snr_db\n0,inf\n", "trace.csv:2: snr_db must lie within"),
        ("time_s,snr_db\n0,1e308\n", "trace.csv:2: snr_db must lie within"),
        ("time_s,snr_db\ninf,1\n", "trace.csv:2: time_s must be finite"),
        ("time_s,snr_db\n1,2\n1,3\n", "trace.csv:3: times must rise"),
        ("time_s,snr_db\n", "holds no samples"),
        ("time_s,snr_db\n0,\n1,-inf\n", "holds nothing but outages"),
    ],
)
def test_a_broken_trace_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(InputError, match=why):
        read_trace(tmp_path / "trace.csv")


def test_a_trace_in_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_bytes("time_s,snr_db,où\n0,1,x\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"trace\.csv is not UTF-8 text"):
        read_trace(tmp_path / "trace.csv")


@pytest.mark.parametrize(
    ("time_s", "snr_db", "why"),
    [
        ([], [], r"time_s must be an array of float64 \[n\], got float64 \[0\]"),
        ([0.0, 1.0], [3.0], r"snr_db must be an array of float64 \[2\]"),
        ([1.0, 0.0], [3.0, 3.0], "times must be finite and rise"),
        ([0.0, np.nan], [3.0, 3.0], "times must be finite and rise"),
        ([0.0, 1.0], [3.0, np.nan], "SNRs must lie within 100 dB of 0"),
        ([0.0, 1.0], [3.0, 300.0], "SNRs must lie within 100 dB of 0"),
        ([0.0, 1.0], [-np.inf, -np.inf], "nothing but outages"),
    ],
)
def test_a_trace_checks_itself(time_s: list[float], snr_db: list[float], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Trace(np.array(time_s, float), np.array(snr_db, float))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("other", ["trace.csv", (np.array([0.0]), np.array([3.0]))])
def test_a_link_takes_a_trace_and_nothing_else_for_one(other: object) -> None:
    with pytest.raises(InputError, match="trace must be a Trace, got"):
        RadioLink(trace=other)  # type: ignore[arg-type]


def test_what_can_be_observed_of_a_trace_is_its_first_snr_and_errors_name_it() -> None:
    link = RadioLink(trace=Trace(np.array([0.0, 1.0]), np.array([-5.0, 20.0])), bandwidth_hz=2e6)
    assert (link.state().snr_db, link.state().bandwidth_hz) == (-5.0, 2e6)
    assert RadioLink(7.0).state().snr_db == 7.0
    assert RadioLink(trace=Trace(np.array([0.0, 1.0]), np.array([-np.inf, 20.0]))).state().snr_db == -60
    hopeless = RadioLink(trace=Trace(np.array([0.0]), np.array([-45.0])))
    with pytest.raises(NotDeliveredError, match="4 times at -45 dB"):
        hopeless.send(Transmission(Payload(bytes(30), b"")), np.random.default_rng(0))
