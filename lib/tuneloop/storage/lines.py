"""Split streams of bytes into lines, or into blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator


def iter_line_blocks(blocks: Iterator[bytes], size: int = 1 << 16) -> Iterator[bytes]:
    r"""Split a stream of blocks into smaller blocks of whole lines; the last may lack its `\n`.

    Args:
        blocks: the stream.
        size: maximum bytes per block; a line that is longer becomes a block of its own. With small
            blocks, the data derived from a block is still in the processor's cache when it is used.
    """
    rest = b""
    for block in blocks:
        block, at = rest + block, 0
        while (end := block.rfind(b"\n", at, at + size) + 1) or (
            end := block.find(b"\n", at + size) + 1
        ):
            yield block[at:end]
            at = end
        rest = block[at:]
    if rest:
        yield rest


def iter_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    r"""Split a stream of blocks into lines, each with its `\n`; the last line may lack it."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
