"""Keep control characters of stored text away from the terminal.

Names, traces, logs and error messages can hold escape sequences that recolour the screen, rename
the window or type commands. `main` puts a `Screen` in front of stdout and stderr when they are
terminals; files and pipes receive every byte unchanged. Consoles of rich, which need sequences of
their own, come from `live/console.py`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO, TextIO, cast

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but the tab and the line feed."""
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


def protect() -> None:
    """Put a screen in front of stdout and stderr, if they are terminals."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Screen) and stream.isatty():
            setattr(sys, name, Screen(stream))


def visible_controls(text: str) -> str:
    r"""Spell control characters as `\u001b`, which leaves the value of JSON unchanged."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Screen:
    """A text stream of a terminal that spells control characters; the rest is the stream's."""

    def __init__(self, stream: TextIO) -> None:
        """Wrap a stream."""
        self.terminal = stream
        self.buffer = cast("BinaryIO", _ByteScreen(stream.buffer))

    def write(self, text: str) -> int:
        """Write text."""
        self.terminal.write(visible_controls(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


class _ByteScreen:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        self._stream.write(
            _CONTROL_BYTES.sub(lambda found: rb"\u%04x" % ord(found[0].decode()), data)
        )
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
