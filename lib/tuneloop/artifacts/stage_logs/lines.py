"""Log lines with the timestamps of a kubelet, and a window that recognizes lines read before.

A kubelet returns every line since a whole second. Successive reads therefore overlap, and a line is
identified by its timestamp, its text and its occurrence among equal lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

NANOSECONDS = 10**9
OVERLAP_SECONDS = 2
"""Seconds that a read goes back before the newest line, because the lines of stdout and stderr may
be slightly out of order."""
_STAMP = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)(?: |(?=\r?$))"
)


class Line(NamedTuple):
    """One line of a log."""

    stamp: int
    """Nanoseconds since 1970."""
    text: bytes
    """Bytes of the line without its end; they need not be UTF-8."""


def parse_lines(data: bytes, *, keep_unterminated: bool) -> list[Line]:
    """Parse the log of a container as the kubelet returns it with `timestamps=true`.

    A line without a timestamp gets the one of the line before. At the start of the data, it is the
    rest of a line that began earlier, or a message of the kubelet, and it is dropped.

    Args:
        data: the response.
        keep_unterminated: whether the last line is complete although it has no end.
    """
    lines: list[Line] = []
    seconds = _Seconds()
    pieces = data.split(b"\n")
    unterminated = pieces.pop()
    if unterminated and keep_unterminated:
        pieces.append(unterminated)
    for piece in pieces:
        found = _STAMP.match(piece)
        if found is not None:
            lines.append(Line(seconds.nanoseconds(found), piece[found.end() :]))
        elif lines:
            lines.append(Line(lines[-1].stamp, piece))
    return lines


def dump_lines(lines: Iterable[Line]) -> bytes:
    """Return lines in the format of a kubelet, every one with an end."""
    return b"".join(b"%s %s\n" % (rfc3339(stamp).encode(), text) for stamp, text in lines)


def rfc3339(stamp: int) -> str:
    """Return a timestamp with nine digits, such as 2026-11-28T09:13:34.123456789Z."""
    seconds, fraction = divmod(stamp, NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


class _Seconds:
    """Converts timestamps, and remembers the last second because many lines share it."""

    def __init__(self) -> None:
        self._text, self._value = b"", 0

    def nanoseconds(self, found: re.Match[bytes]) -> int:
        second, fraction, zone = found.groups(b"")
        if second + zone != self._text:
            text = (second + zone).decode()
            try:
                self._value = int(datetime.fromisoformat(text).timestamp()) * NANOSECONDS
            except ValueError:  # such as month 13: the text is not a timestamp after all
                self._value = 0
            self._text = second + zone
        return self._value + int(fraction.ljust(9, b"0") or 0)


class Window:
    """The newest lines that were read, by which a later read recognizes them."""

    def __init__(self) -> None:
        """Start without lines."""
        self._seen: Counter[tuple[int, int]] = Counter()
        self._newest: int | None = None
        self._floor: int | None = None

    @property
    def since(self) -> int | None:
        """Whole second, in seconds since 1970, from which to read; None reads from the start."""
        return None if self._floor is None else self._floor // NANOSECONDS

    @property
    def newest(self) -> int | None:
        """Timestamp of the newest line; None before the first."""
        return self._newest

    def add(self, lines: Iterable[Line]) -> list[Line]:
        """Return the new ones among the lines of one read, and remember them.

        Args:
            lines: every line since `since`, in the order of the log; an interrupted read may end
                early.
        """
        counted: Counter[tuple[int, int]] = Counter()
        new = []
        for line in lines:
            if self._floor is not None and line.stamp < self._floor:
                continue
            key = (line.stamp, hash(line.text))
            counted[key] += 1
            if counted[key] > self._seen[key]:
                new.append(line)
        self._seen |= counted
        self._advance(new)
        return new

    def append(self, lines: Iterable[Line]) -> None:
        """Remember lines that follow the ones remembered so far, equal ones included."""
        kept = list(lines)
        self._seen.update((line.stamp, hash(line.text)) for line in kept)
        self._advance(kept)

    def has_any(self, lines: Iterable[Line]) -> bool:
        """Return whether one of the lines is remembered."""
        return any((line.stamp, hash(line.text)) in self._seen for line in lines)

    def skip_to(self, second: int) -> None:
        """Give up all lines before a second."""
        self._newest = max(self._newest or 0, second * NANOSECONDS)
        self._floor = second * NANOSECONDS

    def _advance(self, lines: list[Line]) -> None:
        if not lines:
            return
        newest = max(line.stamp for line in lines)
        self._newest = newest if self._newest is None else max(newest, self._newest)
        floor = (self._newest // NANOSECONDS - OVERLAP_SECONDS) * NANOSECONDS
        if self._floor is None or floor > self._floor:
            self._floor = floor
            for key in [key for key in self._seen if key[0] < floor]:
                del self._seen[key]


def iter_text_lines(data: bytes, previous: int) -> Iterator[Line]:
    """Yield the lines of a log without timestamps, each with the time that its text begins with.

    Args:
        data: complete lines.
        previous: timestamp for lines before the first one that begins with a time.
    """
    for text in data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n"):
        previous = _logged_at(text) or previous
        yield Line(previous, text)


_LOGGED = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ")


def _logged_at(text: bytes) -> int | None:
    """Return the time that Python's logging writes at the start of a line, in local time."""
    found = _LOGGED.match(text)
    if found is None:
        return None
    try:
        seconds = int(datetime.fromisoformat(found[1].decode()).timestamp())
    except ValueError:
        return None
    return seconds * NANOSECONDS + int(found[2]) * 10**6
