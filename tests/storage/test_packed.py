"""Unpacking never yields more than its limit, and every other input is one error."""

from __future__ import annotations

import gzip
import lzma

import pytest

from tuneloop.storage.packed import unpack

HUGE = r"holds more than 1,000,000 bytes, .*TUNELOOP_LIMIT_UNPACKED_BYTES$"


def test_what_gzip_packs_is_unpacked() -> None:
    assert unpack(gzip.compress("größe".encode() * 100, mtime=0)) == "größe".encode() * 100
    assert unpack(gzip.compress(b"x" * 10, mtime=0)) == b"x" * 10

    assert unpack(lzma.compress(b"x" * 10)) == b"x" * 10


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            lzma.compress(b" " * 5_000_000),
            HUGE,
        ),
        (lzma.compress(b"x" * 100)[:-9], "is truncated"),
        (lzma.compress(b"x" * 100)[:20] + b"x" * 30, "Corrupt input data"),
        (b"", "is truncated"),
        (b"no gzip", "incorrect header check"),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], "is truncated"),
        (
            gzip.compress(b" " * 5_000_000, mtime=0),
            HUGE,
        ),
        (gzip.compress(b"x" * 100, mtime=0)[:-5] + b"abcde", "incorrect data check"),
    ],
)
def test_anything_else_is_refused(data: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELOOP_LIMIT_UNPACKED_BYTES", "1000000")
    with pytest.raises(ValueError, match=words):
        unpack(data)
