"""Read the log of one attempt from its live source and from the archive, each line once."""

from __future__ import annotations

from tuneloop.artifacts.stage_logs.archive import END, Archive, AttemptEnd, parts_of
from tuneloop.artifacts.stage_logs.attempt import LOCAL_POD, Attempt
from tuneloop.artifacts.stage_logs.lines import Line, Window, iter_text_lines
from tuneloop.artifacts.stage_logs.live import LiveLogs
from tuneloop.storage import files

PARTS = 16
"""Maximum archived parts that one call reads, so that a long log is never in memory as a whole."""
BLOCK_BYTES = 8_000_000
"""Maximum bytes of a local process's output that one call reads."""


class AttemptReader:
    """Reads one attempt piece by piece.

    The archived parts come first. If the pod still exists, its kubelet is asked for what follows
    them. When the pod is gone, the rest comes from the archive again.
    """

    def __init__(self, stage_prefix: str, attempt: Attempt) -> None:
        """Store the arguments; nothing is read yet."""
        self.attempt = attempt
        self.is_done = False
        """Whether no more lines can come."""
        self.is_behind = True
        """Whether another call would return more lines at once."""
        self.end: AttemptEnd | None = None
        """How the attempt ended, once its archive has been read to the end."""
        self.may_miss_lines = False
        """Whether the node replaced its log file between two reads."""
        self._archive = Archive(stage_prefix, attempt)
        self._window = Window()
        self._parts_read = 0
        self._last_part: list[Line] = []
        self._was_live = False
        self._offset = 0
        self._unterminated = b""
        self._stamp = 0

    def read(self, names: list[str], live: LiveLogs | None) -> list[Line]:
        """Return the next lines; empty if there are none at the moment.

        Args:
            names: names of the archived files of this attempt.
            live: logs of the backend, which has listed this attempt; None reads the archive only.

        Raises:
            Transient: store or cluster cannot be reached; no line is lost, call again.
        """
        if self.is_done:
            return []
        if self.attempt.pod == LOCAL_POD:
            return self._read_output(is_ended=END in names)
        if live is None or END in names:
            lines = self._read_archive(names)
            if END in names and not self.is_behind:
                self.is_done, self.end = True, self._archive.end()
            return lines
        if not self._was_live:
            lines = self._read_archive(names)
            if lines:
                self.is_behind = True  # the next call asks the kubelet
                return lines
        return self._read_live(names, live)

    def _read_live(self, names: list[str], live: LiveLogs) -> list[Line]:
        has_ended = live.has_ended(self.attempt)
        piece = live.read(self.attempt, self._window)
        if piece.is_gone:  # the archive may have been completed before the pod was deleted
            return self._read_archive(names)
        self._was_live = True
        self.is_behind = not piece.is_whole
        self.may_miss_lines |= piece.may_miss_lines
        self.is_done = piece.is_whole and has_ended
        return piece.lines

    def _read_archive(self, names: list[str]) -> list[Line]:
        parts = parts_of(names)
        wanted = parts[self._parts_read : self._parts_read + PARTS]
        lines = [line for name in wanted for line in self._archive.read_part(name)]
        self._parts_read += len(wanted)
        self.is_behind = self._parts_read < len(parts)
        if not wanted:
            return []
        if self._was_live:
            # Live lines that are archived now are in the window. The part before tells occurrences
            # of a line apart that the border between two parts divides.
            overlapping, self._last_part = self._last_part + lines, lines
            return self._window.add(overlapping)
        self._window.append(lines)
        self._last_part = lines
        return lines

    def _read_output(self, *, is_ended: bool) -> list[Line]:
        """Read the output of a local process, whose last line may still be written."""
        url = self._archive.output_url()
        size = files.size_bytes(url) or 0
        stop = min(size, self._offset + BLOCK_BYTES)
        new = files.read_range(url, self._offset, stop) if stop > self._offset else b""
        data = self._unterminated + new
        is_last = stop == size and is_ended
        end = len(data) if is_last else data.rfind(b"\n") + 1
        complete, self._unterminated = data[:end], data[end:]
        self._offset = stop
        self.is_behind = stop < size
        if is_last:
            self.is_done, self.end = True, self._archive.end()
        lines = list(iter_text_lines(complete, self._stamp)) if complete else []
        self._stamp = lines[-1].stamp if lines else self._stamp
        return lines
