"""Files are written whole or not at all."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from rlgrad.files import check_writable, replacing


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def half(file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError), replacing(tmp_path / "a.txt") as file:
        half(file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_permissions_are_those_of_the_old_file_or_of_the_user(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with replacing(tmp_path / "new") as file:
            file.write(b"mine")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    (tmp_path / "new").chmod(0o640)
    with replacing(tmp_path / "new") as file:
        file.write(b"ours")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_place_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"^needed a folder to write a.json in, got the file .*file; name"):
        check_writable(tmp_path / "file" / "a.json")
    with pytest.raises(OSError, match=r"^needed a folder to write a.json in, got .*new \(.*\); name another$"):
        check_writable(tmp_path / "file" / "new" / "a.json")
    with pytest.raises(IsADirectoryError, match=r"^needed a file to write, got the folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
