"""Archive the logs of a stage's pods while they run and as they end.

Kubernetes deletes a pod's log with the pod, and JobSet deletes the pods of a gang when it restarts
it. The supervisor therefore stores new lines every few seconds, and pod status and events when a
pod ends.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime, timedelta
from typing import Any

from tuneloop.artifacts.stage_logs.archive import (
    END,
    Archive,
    ArchiveWriter,
    AttemptEnd,
    parts_of,
)
from tuneloop.artifacts.stage_logs.attempt import Attempt, list_attempts
from tuneloop.artifacts.stage_logs.lines import Line, rfc3339
from tuneloop.artifacts.stage_logs.own import attempt_in, missing_lines, read_own_log
from tuneloop.errors import TuneloopError
from tuneloop.k8s.api import ClusterApi
from tuneloop.k8s.logs.attempts import PodAttempt, pod_attempts
from tuneloop.k8s.logs.tail import read_new

log = logging.getLogger(__name__)

READ_SECONDS = 10.0
"""Seconds between two reads of a running container; each read with new lines stores an object."""
EARLY_SECONDS = 30.0
"""Seconds after the first read of a container in which every poll reads it; a container that has
written nothing is read at every poll for longer. A gang that fails at its start is deleted within
seconds, and a stage's own log can fill a gap only if the archive has the first line."""
CHATTY_BYTES = 500_000
"""Bytes of one read, above which the next poll reads again: a node keeps 10 MiB in its file."""
TRIES = 5
"""Failed reads of an ended pod before its log is given up, for example on a lost node; the time
between two of them doubles."""


class LogArchiver:
    """Archives the logs of one stage."""

    def __init__(self, cluster: ClusterApi, stage_prefix: str, workload: dict[str, Any]) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            cluster: the namespace of the pods.
            stage_prefix: URL that the stage writes below.
            workload: the Job or JobSet as it was rendered.
        """
        self._cluster, self._prefix, self._workload = cluster, stage_prefix, workload
        self._logs: dict[Attempt, _AttemptLog] = {}
        self._earlier: list[Attempt] | None = None

    def archive(self, pods: list[dict[str, Any]], *, at_once: bool = False) -> bool:
        """Store what is new in the logs of these pods.

        A failure is logged and not raised: the next call tries again, and a run does not fail
        because of its logs.

        Args:
            pods: all pods of the workload at this time.
            at_once: whether to read running containers although they were read a moment ago.

        Returns:
            Whether every log is stored to its end.
        """
        try:
            return self._archive(pods, at_once=at_once)
        except TuneloopError as e:
            log.warning("logs of %s are not archived: %s", self._prefix, e)
            return False

    def _archive(self, pods: list[dict[str, Any]], *, at_once: bool) -> bool:
        sources = pod_attempts(pods, self._workload)
        for source in sources:
            if source.has_started or source.has_ended:
                self._log_of(source.attempt).look(source, at_once=at_once)
        present = {source.attempt for source in sources}
        for attempt in {*self._logs, *(self._earlier or ())} - present:
            self._log_of(attempt).lose()
        if self._earlier is None:
            # An earlier supervisor may have archived pods that are gone by now. They are compared
            # with the next list of pods: this one may be older than a pod of another supervisor.
            self._earlier = list_attempts(self._prefix)
        return present <= self._logs.keys() and all(each.is_done for each in self._logs.values())

    def _log_of(self, attempt: Attempt) -> _AttemptLog:
        if attempt not in self._logs:
            self._logs[attempt] = _AttemptLog(self._cluster, self._prefix, attempt)
        return self._logs[attempt]


class _AttemptLog:
    """The log of one attempt, from its kubelet to the archive."""

    def __init__(self, cluster: ClusterApi, stage_prefix: str, attempt: Attempt) -> None:
        archive = Archive(stage_prefix, attempt)
        self._prefix = stage_prefix
        self.is_done = END in archive.names()
        self._cluster, self._archive = cluster, archive
        self._writer = ArchiveWriter(archive)
        self._read_at: datetime | None = None
        self._first_read_at: datetime | None = None
        self._is_chatty = False
        self._failures = 0
        self._gaps: list[str] = []
        self._own_lines = 0

    def look(self, source: PodAttempt, *, at_once: bool) -> None:
        """Store new lines if they are due; store the end too if the container has ended."""
        now = self._cluster.now()
        is_urgent = at_once or self._is_chatty or source.has_ended or self._is_early(now)
        # A request to a node that is gone takes long, and the supervisor waits for it.
        wait = READ_SECONDS / 4 * 2**self._failures if self._failures else READ_SECONDS
        due = self._read_at is None or now - self._read_at >= timedelta(seconds=wait)
        if self.is_done or not (due or (is_urgent and not self._failures)):
            return
        self._read_at, self._first_read_at = now, self._first_read_at or now
        is_read = self._read(source)
        if source.has_ended and (is_read or self._failures >= TRIES or not source.has_started):
            self._end(source, is_complete=is_read or not source.has_started)

    def _is_early(self, now: datetime) -> bool:
        """Return whether the container has just started, or has not written a line yet."""
        if self._first_read_at is None or now - self._first_read_at < timedelta(
            seconds=EARLY_SECONDS
        ):
            return True
        return self._writer.window.since is None

    def lose(self) -> None:
        """Close the archive of a pod that is gone."""
        if not self.is_done:
            self._writer.flush()
            self._fill([])
            self._writer.flush()
            end = AttemptEnd(complete=False, own_lines=self._own_lines, gaps=self._gaps)
            self._archive.write_end(end)
            self.is_done = True

    def _fill(self, following: list[Line]) -> None:
        """Add what could not be read and is in the log that the stage writes itself.

        Args:
            following: lines that were read after the gap; empty if the pod is gone.
        """
        names = parts_of(self._archive.names())
        if not names:
            return
        first, last = (self._archive.read_part(names[place]) for place in (0, -1))
        attempt = attempt_in(line.text for line in first)
        own = read_own_log(self._prefix, attempt) if attempt else []
        seen = [*last, *self._writer.pending]
        found = missing_lines(own, [x.text for x in seen], [x.text for x in following])
        self._own_lines += len(found)
        lines = [Line(seen[-1].stamp, text) for text in found]
        self._writer.window.append(lines)
        self._writer.add(lines)

    def _read(self, source: PodAttempt) -> bool:
        """Store new lines; return whether they reach the end of the log."""
        if not source.has_started:
            return False
        piece = read_new(self._cluster, source, self._writer.window)
        self._failures = self._failures + 1 if piece.is_gone else 0
        if piece.may_miss_lines and piece.lines:
            self._gaps.append(rfc3339(piece.lines[0].stamp))
            with contextlib.suppress(TuneloopError):  # the lines after the gap must be kept
                self._fill(piece.lines)
        self._writer.add(piece.lines)
        self._is_chatty = self._writer.pending_bytes > CHATTY_BYTES
        self._writer.flush()
        return piece.is_whole

    def _end(self, source: PodAttempt, *, is_complete: bool) -> None:
        code = source.terminated.get("exitCode")
        status = source.pod.get("status", {})
        end = AttemptEnd(
            complete=is_complete,
            exit_code=code if isinstance(code, int) else None,
            reason=str(status.get("reason") or source.terminated.get("reason") or ""),
            own_lines=self._own_lines,
            gaps=self._gaps,
            pod=status,
            events=self._cluster.events({source.pod["metadata"]["uid"]}),
        )
        self._archive.write_end(end)
        self.is_done = True
