from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import DataError, PermissionDenied, SpecError, Unavailable, UsageError
from tuneloop.storage import files, lines, paths


@pytest.fixture(params=["file", "memory"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path)
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket"


def test_what_is_written_is_read(prefix: str) -> None:
    url = paths.join(prefix, "a", "b.txt")
    assert not files.exists(url)
    assert files.size_bytes(url) is None
    files.write(url, b"one")
    files.write(url, b"three")
    assert files.read(url) == b"three"
    assert files.size_bytes(url) == 5
    assert [found.rsplit("/", 2)[-2:] for found in files.list_files(prefix)] == [["a", "b.txt"]]
    files.delete_tree(paths.join(prefix, "a"))
    assert files.list_files(prefix) == []
    files.delete_tree(paths.join(prefix, "never-was"))


def test_create_refuses_what_is_there(prefix: str) -> None:
    url = paths.join(prefix, "once")
    files.create(url, b"first")
    with pytest.raises(FileExistsError):
        files.create(url, b"second")
    assert files.read(url) == b"first"


def test_publish_takes_its_own_repetition_for_success(prefix: str) -> None:
    url = paths.join(prefix, "record.json")
    assert files.publish(url, b"same")
    assert files.publish(url, b"same")
    assert not files.publish(url, b"other")
    assert files.read(url) == b"same"


def test_one_of_many_concurrent_creators_wins(tmp_path: Path) -> None:
    url, won = str(tmp_path / "x"), []

    def attempt(number: int) -> None:
        try:
            files.create(url, str(number).encode() * 100_000)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert files.read(url) == str(won[0]).encode() * 100_000
    assert os.listdir(tmp_path) == ["x"]  # no temporary file is left


def test_writer_counts_and_hashes(prefix: str) -> None:
    url = paths.join(prefix, "attempts", "big")
    writer = files.Writer(url)
    data = b"x" * 700_000
    for _ in range(3):
        writer.write(data)
    written = writer.close()
    assert written == files.Written(2_100_000, hashlib.sha256(data * 3).hexdigest())
    read = files.read_verified(
        url, expected_bytes=written.size_bytes, expected_sha256=written.sha256
    )
    assert read == data * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hellO", "sha256 is"),
        (b"hell", "holds 4 bytes, expected 5"),
        (None, "missing, but a record names it"),
    ],
)
def test_verified_reading_notices(content: bytes | None, message: str, tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    if content is not None:
        Path(url).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        files.read_verified(
            url, expected_bytes=5, expected_sha256=hashlib.sha256(b"hello").hexdigest()
        )
    assert str(caught.value).startswith(url)


def test_missing_object_is_file_not_found(prefix: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.read(paths.join(prefix, "nothing"))
    with pytest.raises(FileNotFoundError):
        list(files.iter_blocks(paths.join(prefix, "nothing")))


@given(st.binary(max_size=200), st.integers(1, 50))
def test_lines_do_not_depend_on_block_boundaries(data: bytes, size: int) -> None:
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    # As a binary file cuts lines: at line feeds alone.
    assert list(lines.iter_lines(iter(blocks), "x.jsonl")) == list(io.BytesIO(data))


def test_absolute_leaves_urls_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.absolute("a/b") == str(tmp_path / "a/b")
    assert paths.absolute("gs://bucket/a") == "gs://bucket/a"


def test_unknown_protocol_is_a_spec_error() -> None:
    with pytest.raises(SpecError, match="nosuch://x: Protocol not known"):
        files.read("nosuch://x")


def test_a_protocol_without_its_package_names_both() -> None:
    with pytest.raises(UsageError) as raised:
        files.read("abfs://läufe 🧪/x")
    assert str(raised.value) == (
        "abfs://läufe 🧪/x: Python package adlfs is not installed; install it, or use an image of"
        " `make image`, which contains the packages of gs:// and s3://"
    )


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = str(tmp_path / "file" / "below")
    with pytest.raises(SpecError, match="use another URL"):
        files.write(url, b"")
    with pytest.raises(SpecError, match="use another URL"):
        files.Writer(url)
    with pytest.raises(SpecError, match="use another URL"):
        files.make_folder(url)


def test_kernel_refusals_are_sentences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root may write anywhere, so the refusals are raised here; test_cli has a real full disk."""

    def refuse(code: int) -> None:
        def link(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", link)

    url = str(tmp_path / "x")
    refuse(28)
    with pytest.raises(Unavailable, match="No space left on device; free some space"):
        files.create(url, b"x")
    refuse(30)
    with pytest.raises(PermissionDenied, match="Read-only file system; grant this user access"):
        files.create(url, b"x")
    refuse(5)
    with pytest.raises(Unavailable, match="fix the storage"):
        files.create(url, b"x")
