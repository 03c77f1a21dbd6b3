"""The log files of a node: written as containerd does, and read as a kubelet does.

containerd writes one entry for each line, and splits lines at 16 KiB; a line without an end is
written when the container ends. The kubelet returns the entries of the newest file that are not
older than `sinceTime`, and a timestamp before the first entry of each line.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

from tuneloop.artifacts.stage_logs.lines import NANOSECONDS, rfc3339

CHUNK_BYTES = 16 * 1024


@dataclass
class Container:
    """The log of one container."""

    entries: list[tuple[int, bytes]] = field(default_factory=list)
    """(nanoseconds since 1970, bytes) of the newest file; a complete line ends with a newline."""
    unterminated: bytes = b""

    def write(self, stamp: int, data: bytes) -> None:
        """Write output of the process at this time."""
        *lines, self.unterminated = (self.unterminated + data).split(b"\n")
        for line in lines:
            self._entries_of(stamp, line + b"\n")

    def end(self, stamp: int) -> None:
        """End the process, and write a last line without an end."""
        if self.unterminated:
            self._entries_of(stamp, self.unterminated)
        self.unterminated = b""

    def rotate(self) -> None:
        """Start a new file; the kubelet does not return the lines of the old one."""
        self.entries = []

    def read(self, since: int | None, limit_bytes: int) -> bytes:
        """Return what a kubelet answers with `timestamps=true`."""
        out, is_new_line = [], True
        for stamp, data in list(self.entries):
            if since is None or stamp >= since:
                out.append(f"{rfc3339(stamp)} ".encode() + data if is_new_line else data)
            is_new_line = data.endswith(b"\n")
        return b"".join(out)[:limit_bytes]

    def _entries_of(self, stamp: int, line: bytes) -> None:
        chunks = [line[i : i + CHUNK_BYTES] for i in range(0, len(line), CHUNK_BYTES)]
        self.entries += [(stamp + number, chunk) for number, chunk in enumerate(chunks)]


class Kubelet:
    """The containers of all pods, by name of the pod and number of restarts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.containers: dict[tuple[str, int], Container] = {}
        self.reads = 0

    def container(self, pod: str, restart: int = 0) -> Container:
        """Return the container, started if it is new."""
        return self.containers.setdefault((pod, restart), Container())

    def read(
        self, pod: str, *, since: datetime | None, previous: bool, limit_bytes: int
    ) -> bytes | None:
        """Return the log of the last container of a pod, or of the one before; None if gone."""
        with self.lock:
            self.reads += 1
            restarts = sorted(restart for name, restart in self.containers if name == pod)
            place = -2 if previous else -1
            if len(restarts) < -place:
                return None
            second = None if since is None else int(since.timestamp()) * NANOSECONDS
            return self.containers[pod, restarts[place]].read(second, limit_bytes)
