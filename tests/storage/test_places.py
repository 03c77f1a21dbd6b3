"""Pipes are kept in temporary files, within limits."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuneloop.errors import DataError, Unavailable
from tuneloop.storage import files
from tuneloop.storage.places import given

MIB = 1 << 20
Pipe = Callable[[bytes], None]


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Return a function that puts bytes on standard input; temporary files are in `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return put


def test_a_pipe_up_to_the_limit_is_read(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_SPOOL_BYTES", "1000")
    for size in (0, 1, 1000):
        pipe(b"x" * size)
        assert files.read(given("-")) == b"x" * size
    assert files.read("-") == files.read("-")


def test_a_longer_pipe_is_refused_and_leaves_no_file(
    pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_SPOOL_BYTES", str(3 * MIB))
    pipe(b"x" * (4 * MIB))
    with pytest.raises(DataError, match=r"^-: holds more than 3,145,728 bytes.*SPOOL_BYTES$"):
        given("-")
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_is_refused_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    monkeypatch.setenv("TUNELOOP_LIMIT_SPOOL_FREE_BYTES", str(2 * free))
    place = tmp_path / "pipe"
    os.mkfifo(place)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), open(place, "wb", buffering=0) as end:
            end.write(b"x" * (4 * MIB))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    said = rf"^{re.escape(str(place))}: .* has [\d,]+ free bytes left.*LIMIT_SPOOL_FREE_BYTES$"
    with pytest.raises(Unavailable, match=said):
        given(str(place))
    writer.join(10)
    assert not writer.is_alive()


def test_a_small_pipe_is_read_whatever_is_free(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_SPOOL_FREE_BYTES", str(2**49))
    pipe(b"x" * MIB)
    assert len(files.read(given("-"))) == MIB
