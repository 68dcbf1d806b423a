"""Files that are whole or not there at all, lines that a crash has torn, and a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from autotune.core.errors import UserError
from autotune.core.files import append_line, read_json, read_lines, require_space, write_json, write_text


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def crash(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_and_a_torn_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, None, "x"], "path": tmp_path})
    assert read_json(path) == {"a": [1, None, "x"], "path": str(tmp_path)}
    path.write_text('{"a": [1, nu')
    assert read_json(path) is None


@pytest.mark.parametrize("torn", ['{"number": 3, "na', "\0\0\0\0", "{"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_lines(path) == []
    append_line(path, {"number": 1})
    append_line(path, {"number": 2, "name": "ü\n"})
    with path.open("a") as file:
        file.write(torn)
    assert read_lines(path) == [{"number": 1}, {"number": 2, "name": "ü\n"}]


def test_bytes_that_are_no_text_do_not_hide_the_other_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"number": 1})
    with path.open("ab") as file:
        file.write(b'{"name": "\xff\xfe')
    assert read_lines(path) == [{"number": 1}]


def test_a_line_after_a_torn_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"number": 1}\n{"numb')
    append_line(path, {"number": 3})
    assert read_lines(path) == [{"number": 1}, {"number": 3}]


def test_a_full_disk_parks(tmp_path: Path) -> None:
    require_space(tmp_path, 0)
    with pytest.raises(UserError, match=r"GB are left on the disk of .* parked and nothing is lost") as caught:
        require_space(tmp_path, 10**18)
    assert caught.value.exit_code == 3
