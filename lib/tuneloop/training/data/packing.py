"""Packing: several examples in one row, so that little of a row is padding.

It works on lengths alone. The result is a function of the lengths and the capacity, the same in
every epoch; the seed decides only the order in which rows are read.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PackedRows:
    """Which examples each row holds."""

    members: np.ndarray
    """int32 (examples,): numbers of the examples, those of a row next to each other."""
    starts: np.ndarray
    """int64 (rows + 1,): row r holds members[starts[r]:starts[r + 1]]."""


def pack(lengths: np.ndarray, capacity: int) -> PackedRows:
    """Pack examples into rows, best fit decreasing.

    The longest examples are placed first, each in the fullest row that has room for it. All
    examples of one length are placed together, so the time depends on the number of different
    lengths more than on the number of examples.

    Args:
        lengths: int (examples,): tokens of each example, from 1 to `capacity`.
        capacity: tokens of a row.
    """
    by_length = np.argsort(-lengths.astype(np.int64), kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    free = _FreeRows(capacity)
    different, counts = np.unique(lengths, return_counts=True)
    start = 0
    for length, count in zip(different[::-1].tolist(), counts[::-1].tolist(), strict=True):
        row_of[by_length[start : start + count]] = free.place(length, count)
        start += count
    by_row = np.argsort(row_of, kind="stable")
    per_row = np.bincount(row_of, minlength=free.rows)
    starts = np.concatenate([[0], np.cumsum(per_row)]).astype(np.int64)
    return PackedRows(by_row.astype(np.int32), starts)


class _FreeRows:
    """The rows so far, by the tokens that still fit in them."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self.rows = capacity, 0
        self._by_room: dict[int, list[np.ndarray]] = defaultdict(list)
        self._rooms: list[int] = []
        """Sorted keys of `_by_room`."""

    def place(self, length: int, count: int) -> np.ndarray:
        """Place examples of one length; returns the row of each."""
        found: list[np.ndarray] = []
        while count:
            room = self._smallest_room(length)
            per_row = room // length
            needed = -(-count // per_row)
            rows = self._take(room, needed)
            placed = min(count, per_row * len(rows))
            found.append(np.repeat(rows, per_row)[:placed])
            count -= placed
            last = placed - per_row * (len(rows) - 1)  # examples in the last of the rows
            self._put_back(room - per_row * length, rows[:-1])
            self._put_back(room - last * length, rows[-1:])
        return np.concatenate(found)

    def _smallest_room(self, length: int) -> int:
        at = bisect_left(self._rooms, length)
        return self._rooms[at] if at < len(self._rooms) else self._capacity

    def _take(self, room: int, needed: int) -> np.ndarray:
        """Take at most `needed` rows with exactly this room; empty ones are without limit."""
        if room not in self._by_room:
            self.rows += needed
            return np.arange(self.rows - needed, self.rows)
        waiting = self._by_room[room]
        rows = waiting.pop()
        if len(rows) > needed:
            waiting.append(rows[needed:])
            rows = rows[:needed]
        if not waiting:
            del self._by_room[room]
            self._rooms.remove(room)
        return rows

    def _put_back(self, room: int, rows: np.ndarray) -> None:
        if room and len(rows):
            if room not in self._by_room:
                insort(self._rooms, room)
            self._by_room[room].append(rows)
