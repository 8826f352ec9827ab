from __future__ import annotations

import codecs
import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from megen.files import check_writable, emit, read_text, replacing, to_json, write_text
from megen.types import InputError, MegenError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        assert mode_of(temporary) & ~mode == 0  # at no time more open than the file
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert mode_of(path) == mode


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "a.txt") == 0o640


def test_a_read_only_file_is_refused_before_and_at_the_writing(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o444)
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(InputError, match="is read-only"):
            check_writable(name)
        with pytest.raises(InputError, match="is read-only"):
            write_text(name, "new")
    assert path.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [path, link]


def test_a_place_where_nothing_can_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dangling, loop, gone = tmp_path / "dangling.png", tmp_path / "loop.png", tmp_path / "gone"
    dangling.symlink_to(tmp_path / "nosuch" / "x.png")
    loop.symlink_to(loop)
    for path, why in (
        (Path("/proc/x.png"), "cannot be written"),
        (dangling, "there is no folder"),
        (loop, "cannot be written"),
        (tmp_path / ("a" * 300), "cannot be written \\(File name too long\\)"),
        (tmp_path, "is a folder"),
        (Path("/dev/null"), "is a device"),
    ):
        with pytest.raises(InputError, match=why):
            check_writable(path)
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match=r"x\.png cannot be written"):
        check_writable(Path("x.png"))
    assert sorted(tmp_path.iterdir()) == [dangling, loop]


def test_the_longest_legal_name_and_a_link_to_a_file_to_come_can_be_written(tmp_path: Path) -> None:
    link, longest = tmp_path / "link.txt", tmp_path / ("a" * 251 + ".txt")
    link.symlink_to(tmp_path / "target.txt")
    for path in (link, longest):
        check_writable(path)
        assert not path.exists()
        write_text(path, "x")
        assert path.read_text() == "x"
    assert sorted(tmp_path.iterdir()) == sorted([link, longest, tmp_path / "target.txt"])


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, meeting, names = tmp_path / "a.txt", threading.Barrier(2), []

    def write(text: str) -> None:
        with replacing(path) as temporary:
            names.append(temporary)
            temporary.write_text(text)
            meeting.wait(10)  # both are between opening and replacing

    both = [threading.Thread(target=write, args=(10_000 * c,)) for c in "ab"]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(set(names)) == 2
    assert path.read_text() in (10_000 * "a", 10_000 * "b")
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stays_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_json_for_every_parser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "a": float("nan"),
        "b": [np.float32(0.5), np.int64(3), np.float64("inf"), np.bool_(True)],
        "c": np.array([[1.0, -np.inf]]),
        "d": (1, None, "é"),
    }
    told = {"a": None, "b": [0.5, 3, None, True], "c": [[1.0, None]], "d": [1, None, "é"]}

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    emit(value, "-")
    emit(value, str(tmp_path / "a.json"))
    for text in (to_json(value), capsys.readouterr().out, (tmp_path / "a.json").read_text()):
        assert json.loads(text, parse_constant=no_constant) == told
    with pytest.raises(TypeError):
        to_json({"a": object()})


def test_text_is_read_in_the_encoding_that_its_first_bytes_tell(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for data in ("é".encode(), codecs.BOM_UTF8 + "é".encode(), "é".encode("utf-16")):
        path.write_bytes(data)
        assert read_text(path) == "é"
    path.write_bytes("plain é".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text \(byte 6\): save it as UTF-8"):
        read_text(path)
    with pytest.raises(InputError, match=r"none\.txt cannot be read \(No such file"):
        read_text(tmp_path / "none.txt")


def test_a_wrong_input_is_a_megen_error_and_a_value_error() -> None:
    assert issubclass(InputError, MegenError)
    assert issubclass(InputError, ValueError)
