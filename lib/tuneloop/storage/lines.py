"""Split streams of bytes into lines, or into blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator

from tuneloop.errors import DataError
from tuneloop.settings.limits import input_limits, raise_with


def _with_line_ends(blocks: Iterator[bytes], place: str) -> Iterator[bytes]:
    """Join blocks until they hold a line end, so that a long line takes linear time."""
    most = input_limits().line_bytes  # else a file without line ends would have to fit into memory
    parts: list[bytes] = []
    held = 0
    for block in blocks:
        parts.append(block)
        held += len(block)
        if b"\n" in block:
            yield b"".join(parts)
            parts, held = [], 0
        elif held > most:
            raise DataError(
                f"{place}: has a line of more than {most:,} bytes, expected one JSON object per"
                " line; check that the file is JSON Lines, split the object,"
                f" {raise_with('line_bytes')}"
            )
    if parts:
        yield b"".join(parts)


def iter_line_blocks(
    blocks: Iterator[bytes], size: int = 1 << 16, place: str = "input"
) -> Iterator[bytes]:
    r"""Split a stream of blocks into smaller blocks of whole lines; the last may lack its `\n`.

    Args:
        blocks: the stream.
        size: maximum bytes per block; a line that is longer becomes a block of its own. With small
            blocks, the data derived from a block is still in the processor's cache when it is used.
        place: path or URL of the file, for the error.

    Raises:
        DataError: a line is longer than the limit `line_bytes`.
    """
    rest = b""
    for block in _with_line_ends(blocks, place):
        block, at = rest + block, 0
        while (end := block.rfind(b"\n", at, at + size) + 1) or (
            end := block.find(b"\n", at + size) + 1
        ):
            yield block[at:end]
            at = end
        rest = block[at:]
    if rest:
        yield rest


def iter_lines(blocks: Iterator[bytes], place: str) -> Iterator[bytes]:
    r"""Split a stream of blocks into lines, each with its `\n`; the last line may lack it.

    Args:
        blocks: the stream.
        place: path or URL of the file, for the error.

    Raises:
        DataError: a line is longer than the limit `line_bytes`.
    """
    rest = b""
    for block in _with_line_ends(blocks, place):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
