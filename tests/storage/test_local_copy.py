from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest

from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.storage.local_copy import verified_path

DATA = b"some bytes"
SHA256 = hashlib.sha256(DATA).hexdigest()


def path_of(url: str) -> Path:
    return verified_path(url, size_bytes=len(DATA), sha256=SHA256)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_local_file_is_used_where_it_is(temporary: Path) -> None:
    path = temporary / "a.bin"
    path.write_bytes(DATA)
    assert path_of(str(path)) == path_of(path.as_uri()) == path
    assert list(temporary.iterdir()) == [path]


def test_a_stored_file_is_copied_once(temporary: Path) -> None:
    files.write("memory://copied/a.bin", DATA)
    copy = path_of("memory://copied/a.bin")
    assert copy.is_relative_to(temporary)
    assert copy.read_bytes() == DATA
    inode = copy.stat().st_ino
    files.delete_tree("memory://copied")
    assert path_of("memory://copied/a.bin").stat().st_ino == inode


@pytest.mark.parametrize("data", [b"other byte", DATA[:-1]])
def test_a_changed_file_is_refused_and_leaves_no_copy(data: bytes, temporary: Path) -> None:
    files.write("memory://changed/a.bin", data)
    with pytest.raises(DataError, match=r"memory://changed/a\.bin: .* expected"):
        path_of("memory://changed/a.bin")
    assert {path.suffix for path in temporary.rglob("*") if path.is_file()} <= {".lock"}
