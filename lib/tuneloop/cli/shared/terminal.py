r"""Streams of the command line: stdout and stderr never end a verb, and show no control characters.

`main` puts a `Screen` in front of both. It does three things:

- Characters that the encoding of a stream lacks are written as JSON escapes such as `\u00e9`, so
  that JSON keeps its value and no text ends a verb.
- A write that fails (a full disk, a closed pipe) is remembered, and later output is dropped. The
  verb finishes its work; `finish` then turns the failure into a sentence and an exit code. A verb
  that prints data without end calls `write_data`, which stops it.
- On a terminal, control characters of stored text are spelled out. Names, traces, logs and error
  messages can hold escape sequences that recolour the screen, rename the window or type commands.
  Files and pipes receive them unchanged. Consoles of rich, which need sequences of their own, come
  from `live/console.py`.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import re
import select
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO, TextIO, cast

from tuneloop.errors import EXIT_OK, VERB_EXIT_CODES, Unavailable

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but the tab and the line feed."""
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
READER_GONE = 141
"""Exit code of a verb that could not print all of its output because the reader has left.

Shells give it to programs that SIGPIPE ends.
"""
_ESCAPE = "tuneloop.escape"
"""Error handler of encodings."""


class OutputLost(Exception):
    """Standard output takes no more data."""


def protect() -> None:
    """Put a screen in front of stdout and stderr, unless a test has replaced them by memory."""
    codecs.register_error(_ESCAPE, _escaped)
    _occupy_standard_files()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell, as with `>&-`
            setattr(sys, name, Screen(_text_of(_Output(number, is_open=False), "utf-8")))
        elif not isinstance(stream, Screen) and (found := _file_of(stream)) is not None:
            setattr(sys, name, Screen(_text_of(found, stream.encoding)))


def finish(code: int) -> int:
    """Flush the streams and return the exit code of the process.

    Args:
        code: exit code of the verb's own work.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    failure = _failure()
    if code != EXIT_OK or failure is None:
        return code
    if failure.errno == errno.EPIPE:
        return READER_GONE
    sys.stderr.write(
        f"tuneloop: standard output: cannot be written ({failure.strerror}), so that output is"
        " lost; what the command stored is kept; free some space or name another file, then run"
        " again\n"
    )
    sys.stderr.flush()
    return VERB_EXIT_CODES[Unavailable.exit_code]


def write_data(data: bytes) -> None:
    """Write data to stdout as it is; every verb that prints many lines does it through this.

    Raises:
        OutputLost: a write has failed.
    """
    sys.stdout.buffer.write(data)
    stop_if_lost()


def stop_if_lost() -> None:
    """Raise OutputLost if a write to stdout has failed; a verb that prints for ever asks this."""
    if _failure() is not None:
        raise OutputLost


def visible_controls(text: str) -> str:
    r"""Spell control characters as `\u001b`, which leaves the value of JSON unchanged."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Screen:
    """A text stream that spells control characters if it is a terminal; the rest is the stream's.

    Attributes:
        terminal: the stream, to which all control characters pass.
        encoding: typer would not use a stream that says `ascii`.
    """

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        """Wrap a stream."""
        self.terminal = stream
        self._is_terminal = stream.isatty()
        self.buffer = cast("BinaryIO", _ByteScreen(stream)) if self._is_terminal else stream.buffer

    def write(self, text: str) -> int:
        """Write text."""
        self.terminal.write(visible_controls(text) if self._is_terminal else text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


class _ByteScreen:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._encoding = stream.buffer, stream.encoding

    def write(self, data: bytes) -> int:
        shown = _CONTROL_BYTES.sub(lambda found: rb"\u%04x" % ord(found[0].decode()), data)
        if codecs.lookup(self._encoding).name != "utf-8":
            shown = shown.decode("utf-8", "replace").encode(self._encoding, _ESCAPE)
        self._stream.write(shown)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output(io.FileIO):
    """The file of an output stream. After a write has failed, it drops what it is given.

    The interpreter flushes the streams when it ends, so that an error would come up again there.
    """

    def __init__(self, number: int, *, is_open: bool = True) -> None:
        super().__init__(number, "w", closefd=False)
        self._is_open = is_open
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return self._write(data)
            except OSError as e:
                self.failure = e
        return len(data)

    def _write(self, data: Any) -> int:
        if not self._is_open:
            raise OSError(errno.EBADF, "it is closed")
        # None: another process has made the pipe non-blocking, and it is full.
        while (count := super().write(data)) is None:
            select.select([], [self], [])
        return count


def _file_of(stream: TextIO) -> _Output | None:
    """Return the file of a stream for writing; None if there is none."""
    try:
        number = stream.fileno()
        stream.flush()
    except (AttributeError, OSError, ValueError):
        return None
    return _Output(number)


def _text_of(file: _Output, encoding: str) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, _ESCAPE, line_buffering=file.isatty()
    )


def _failure() -> OSError | None:
    """Return why output to stdout is lost; None if it is not."""
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file.failure if isinstance(file, _Output) else None


def _occupy_standard_files() -> None:
    """Let /dev/null take closed standard files, or the next opened file would receive output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
