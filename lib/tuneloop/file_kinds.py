"""Name what a file is that should have been text: compressed data, a database, an archive."""

from __future__ import annotations

_KINDS = {
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"\xfd7zXZ\x00": "xz data",
    b"BZh": "bzip2 data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"SQLite format 3\x00": "a SQLite database",
    b"%PDF-": "a PDF document",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def not_text(data: bytes) -> str | None:
    """Return what a file is, by its first bytes, if it is not UTF-8 text; None if it may be."""
    for magic, kind in _KINDS.items():
        if data.startswith(magic):
            return kind
    return "binary data" if b"\x00" in data[:4096] else None
