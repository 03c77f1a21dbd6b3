"""Count the collective operations of a compiled program by its HLO text."""

from __future__ import annotations

import re

from tuneloop.specs.training.compilation import Collective

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "s4": 4, "u4": 4}
_OPERATION = re.compile(
    rf"^\s*(?:ROOT )?%\S+ = (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(",
    re.MULTILINE,
)
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")


def count_collectives(text: str) -> dict[str, Collective]:
    """Count the operations of each kind, and the bytes of their results on one device.

    An operation in a loop counts once.

    Args:
        text: HLO of one device's program.
    """
    counts: dict[str, list[int]] = {}
    for found in _OPERATION.finditer(text):
        counts.setdefault(found["kind"], []).append(_result_bytes(found))
    return {
        kind: Collective(count=len(sizes), size_bytes=sum(sizes))
        for kind, sizes in sorted(counts.items())
    }


def _result_bytes(found: re.Match[str]) -> int:
    """Return the bytes of the result; a `-start` operation returns its operand beside it."""
    sizes = [_array_bytes(*array) for array in _ARRAY.findall(found["type"])]
    if found["start"]:
        return max(sizes, default=0)
    return sum(sizes)


def _array_bytes(dtype: str, shape: str) -> int:
    count = 1
    for size in filter(None, shape.split(",")):
        count *= int(size)
    bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype) or 8)
    return count * bits // 8
