"""Cut streams of bytes into lines, or into blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator


def iter_line_blocks(blocks: Iterator[bytes], size: int = 1 << 16) -> Iterator[bytes]:
    r"""Cut a stream of blocks into smaller ones of whole lines; the last one may lack its `\n`.

    Args:
        blocks: the stream.
        size: bytes of a piece at most, or one longer line; what is made of a small piece is still
            in the processor's cache when it is used.
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
    r"""Cut a stream of blocks into lines, each with its `\n`; the last one may lack it."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest
