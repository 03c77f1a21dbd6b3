"""The archive of an attempt's log: numbered parts that are created once, then a description.

Object stores cannot append, so each write is a new object. A part is written create-only, by a
process that has seen all earlier ones. Two supervisors at once therefore store each line once, and
a supervisor that starts again continues where the last part ends.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.artifacts.stage_logs.attempt import Attempt
from tuneloop.artifacts.stage_logs.lines import Line, Window, dump_lines, parse_lines
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import Sealed, sealed

OUTPUT = "output.txt"
"""Output of a local process, which it writes itself; its lines have no timestamps."""
END = "end.json"
"""File that exists once an attempt gets no more lines."""


class AttemptEnd(Sealed, BaseModel):
    """end.json: how an attempt ended; its log gets no more lines."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    complete: bool = True
    """Whether the log was read to its end; false if the pod was deleted before."""
    exit_code: int | None = None
    """Exit code of the container; null if it is unknown."""
    reason: str = ""
    """Reason that Kubernetes gives, such as OOMKilled or Evicted."""
    own_lines: int = 0
    """Lines that were taken from the log that the stage writes itself."""
    gaps: list[str] = []
    """Times at which the node had replaced its log file, so that lines before may be missing."""
    output_sha256: str | None = None
    """Digest of the output of a local process; null for pods and in files of older versions."""
    pod: dict[str, Any] | None = None
    """Status of the pod; null if it was gone."""
    events: list[dict[str, Any]] = []
    """Events about the pod."""


class Archive:
    """The archived log of one attempt."""

    def __init__(self, stage_prefix: str, attempt: Attempt) -> None:
        """Store the arguments; nothing is read yet."""
        self.prefix = attempt.prefix(stage_prefix)

    def names(self) -> list[str]:
        """Return the names of the archived files."""
        return files.list_names(self.prefix)

    def read_part(self, name: str) -> list[Line]:
        """Read one part."""
        data = files.read(paths.join(self.prefix, name))
        return parse_lines(data, keep_unterminated=True)

    def end(self) -> AttemptEnd | None:
        """Return how the attempt ended; None while it may get more lines."""
        try:
            return AttemptEnd.model_validate_json(files.read(paths.join(self.prefix, END)))
        except FileNotFoundError:
            return None
        except ValidationError:  # written by another version
            return AttemptEnd(complete=False)

    def write_end(self, end: AttemptEnd) -> None:
        """Describe the end of the attempt; the first description is kept."""
        data = json.dumps(sealed(end.model_dump(mode="json")), indent=1).encode() + b"\n"
        files.publish(paths.join(self.prefix, END), data)

    def output_url(self) -> str:
        """Return the URL of the output of a local process."""
        return paths.join(self.prefix, OUTPUT)


class ArchiveWriter:
    """Appends lines to the archive of one attempt."""

    def __init__(self, archive: Archive) -> None:
        """Prepare; what is archived already is read when the window is first needed."""
        self.archive = archive
        self._window: Window | None = None
        self._next = 0
        self.pending: list[Line] = []
        """Lines that are not stored yet."""
        self.pending_bytes = 0

    @property
    def window(self) -> Window:
        """The newest lines that are archived or pending."""
        if self._window is None:
            self._window = self._restore()
        return self._window

    def add(self, lines: list[Line]) -> None:
        """Hold lines that the window has just received, until the next flush."""
        self.pending += lines
        self.pending_bytes += sum(len(line.text) for line in lines)

    def flush(self) -> None:
        """Store pending lines; leave out those that another process has stored meanwhile."""
        while self.pending:
            url = paths.join(self.archive.prefix, part_name(self._next))
            try:
                files.create(url, dump_lines(self.pending))
            except FileExistsError:
                # Another process wrote the part, or this one did and the answer was lost.
                self._window = self._restore()
                self.pending = self._window.add(self.pending)
                continue
            self._next += 1
            self.pending = []
        self.pending_bytes = 0

    def _restore(self) -> Window:
        """Rebuild the window from the last parts."""
        names = parts_of(self.archive.names())
        self._next = part_number(names[-1]) + 1 if names else 0
        window, read = Window(), list[list[Line]]()
        for name in reversed(names):
            read.append(self.archive.read_part(name))
            window = Window()
            for lines in reversed(read):
                window.append(lines)
            # The part before may hold lines of the same seconds, which count as seen too.
            if window.since is not None and read[-1] and _starts_before(read[-1], window.since):
                break
        return window


def _starts_before(lines: list[Line], second: int) -> bool:
    return lines[0].stamp // 10**9 < second


def part_name(number: int) -> str:
    """Return the name of a part."""
    return f"part-{number:06d}.log"


def part_number(name: str) -> int:
    """Return the number of a part."""
    return int(name.removeprefix("part-").removesuffix(".log"))


def parts_of(names: list[str]) -> list[str]:
    """Return the names of parts among names of files, in order."""
    return [name for name in names if name.startswith("part-") and name.endswith(".log")]
