"""The json-file log as it is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.logs.jsonfile import PART_BYTES, JsonFileLog


def entries(path: Path) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in found:
        assert list(entry) == ["log", "stream", "time"]
    return [(entry["stream"], entry["log"]) for entry in found]


def test_one_object_a_line_in_dockers_form(tmp_path: Path) -> None:
    log = JsonFileLog(str(tmp_path / "log"))
    log.write(1, b'say "hi" <b> & \xc3\xa9\t\n')
    log.close()
    text = (tmp_path / "log").read_text()
    assert re.fullmatch(
        r'\{"log":"say \\"hi\\" \\u003cb\\u003e \\u0026 é\\t\\n","stream":"stdout",'
        r'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"\}\n',
        text,
    )


def test_lines_wait_until_they_are_complete_and_streams_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path))
    log.write(1, b"half")
    log.write(2, b"other\n")
    assert entries(path) == [("stderr", "other\n")]
    log.write(1, b" whole\n\nprompt> ")
    assert entries(path)[1:] == [("stdout", "half whole\n"), ("stdout", "\n")]
    log.close()
    assert entries(path)[3:] == [("stdout", "prompt> ")]


def test_long_lines_are_written_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path))
    log.write(1, b"x" * (2 * PART_BYTES + 5))
    log.write(1, b"end\n")
    log.close()
    assert [text for _, text in entries(path)] == ["x" * PART_BYTES, "x" * PART_BYTES, "xxxxxend\n"]


def test_a_part_ends_between_characters(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = "x" + "é" * PART_BYTES
    log = JsonFileLog(str(path))
    log.write(1, line.encode() + b"\n")
    log.close()
    parts = [text for _, text in entries(path)]
    assert "".join(parts) == line + "\n"
    assert max(len(part.encode()) for part in parts) <= PART_BYTES


def test_bytes_that_are_no_text_do_not_stop_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path))
    log.write(1, b"\xff\xfe\x80" * PART_BYTES + b"\nok\n")
    log.close()
    assert entries(path)[-1] == ("stdout", "ok\n")


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_whatever_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = JsonFileLog(str(path))
    for piece in pieces:
        log.write(1, piece)
    log.close()
    lines = [part.decode("utf-8", "replace") for part in b"".join(pieces).split(b"\n")]
    assert "".join(text for _, text in entries(path)) == "\n".join(lines)


def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    log = JsonFileLog(str(tmp_path / "log"), max_bytes=200, max_files=3)
    for number in range(30):
        log.write(1, f"line {number}\n".encode())
    log.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    kept = [text for name in ("log.2", "log.1", "log") for _, text in entries(tmp_path / name)]
    assert kept == [f"line {number}\n" for number in range(30 - len(kept), 30)]


def test_one_file_starts_anew_and_a_restart_appends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFileLog(str(path), max_bytes=200, max_files=1)
    for number in range(30):
        log.write(1, f"line {number}\n".encode())
    log.close()
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert path.stat().st_size < 400
    again = JsonFileLog(str(path), max_bytes=100_000)
    again.write(1, b"again\n")
    again.close()
    assert entries(path)[-1] == ("stdout", "again\n")


def test_a_full_disk_does_not_stop_the_writer() -> None:
    log = JsonFileLog("/dev/full")
    log.write(1, b"lost\n")
    log.close()
