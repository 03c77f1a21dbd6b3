"""Compressed files of examples: what expands to gigabytes is refused in one sentence."""

from __future__ import annotations

import hashlib
import resource
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
import pyzstd

from tuneloop.errors import DataError
from tuneloop.settings.limits import InputLimits
from tuneloop.training.export import files
from tuneloop.training.export.index import dump_offsets, index_url


def blocks_of(data: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def test_a_bomb_is_refused_with_little_memory() -> None:
    """98 KB that are 3 GB of spaces; only the beginning is ever expanded."""
    packer = pyzstd.ZstdCompressor()
    piece = b" " * (1 << 24)
    bomb = b"".join(packer.compress(piece) for _ in range(16)) + packer.flush()
    assert len(bomb) < 1 << 16
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 0
    said = r"^x\.jsonl\.zst: [\d,]+ bytes have expanded to more than.*TUNELOOP_LIMIT_EXPANSION$"
    with pytest.raises(DataError, match=said):
        for block in files.text_blocks("x.jsonl.zst", blocks_of(bomb)):
            total += len(block)
    assert total <= InputLimits().expansion * len(bomb) + InputLimits().free_text_bytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_real_text_is_read_whatever_the_blocks_are(size: int) -> None:
    text = b"".join(b'{"prompt":"What is %d?"}\n' % n for n in range(3000))
    packed = pyzstd.compress(text) + pyzstd.compress(b"") + pyzstd.compress(text)
    assert b"".join(files.text_blocks("x.jsonl.zst", blocks_of(packed, size))) == text + text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-3], "is truncated within a zstd frame"),
        (lambda data: b"x" + data, "is not valid zstd"),
        (lambda data: data[:4] + b"\xff" + data[5:], "is not valid zstd"),
    ],
)
def test_damage_is_one_sentence(change: object, words: str) -> None:
    text = hashlib.sha256(b"").digest() * 3000
    assert callable(change)
    with pytest.raises(DataError, match=words):
        list(files.text_blocks("x.jsonl.zst", blocks_of(change(pyzstd.compress(text)))))


def test_an_index_with_a_huge_example_is_refused(tmp_path: Path) -> None:
    url = str(tmp_path / "examples-00000-of-00001.jsonl")
    Path(url).write_bytes(b"{}\n")
    index = Path(index_url(url))
    index.parent.mkdir()
    index.write_bytes(dump_offsets(array("Q", [0, 1 << 40])))
    with pytest.raises(DataError, match="says that row 0 has 1,099,511,627,776 bytes"):
        files.read_line(url, 0)
