"""Read the log of a stage: all its attempts, archived or live, merged by time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import read_verdict
from tuneloop.artifacts.stage_logs.attempt import FOLDER, LOCAL_POD, Attempt, list_attempts
from tuneloop.artifacts.stage_logs.lines import Line
from tuneloop.artifacts.stage_logs.live import LiveLogs
from tuneloop.errors import Transient
from tuneloop.runs.logs.merge import Merger
from tuneloop.runs.logs.plain import PlainLog
from tuneloop.runs.logs.reader import AttemptReader
from tuneloop.storage import files, paths

POLL_SECONDS = 2.0
"""Seconds between two reads."""
LAST_LINES_SECONDS = 15.0
"""Seconds for which a stage that has ended is still followed, until its logs are complete."""


@dataclass(frozen=True)
class LogLine:
    """One line of a stage's log."""

    attempt: Attempt
    number: int
    """Number of the attempt among those of its rank, from 1."""
    line: Line


class StageLog:
    """The log of one stage of a run."""

    def __init__(
        self,
        artifacts: str,
        run_id: str,
        stage: str,
        live: LiveLogs | None = None,
        *,
        rank: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            artifacts: artifacts URL of the run.
            run_id: id of the run.
            stage: name of the stage.
            live: logs of the cluster; None reads the archive only.
            rank: rank of the only process to read; None reads all.
            sleep: called with the seconds between two reads.
            clock: returns seconds.
        """
        self.stage = stage
        self._artifacts, self._run_id = artifacts, run_id
        self._prefix = layout.stage_prefix(artifacts, run_id, stage)
        self._live, self._rank = live, rank
        self._sleep, self._clock = sleep, clock
        self._readers: dict[Attempt, AttemptReader] = {}
        self._merger = Merger()
        self._plain = PlainLog(self._prefix, rank)

    def exists(self) -> bool:
        """Return whether the archive has a log of the stage, or the stage has written one."""
        return bool(list_attempts(self._prefix)) or self._plain.exists()

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts that were found so far, by rank and then by time."""
        return sorted(self._readers)

    @property
    def ranks(self) -> int:
        """Number of processes that run the stage; without a cluster, those that have a log."""
        known = self._live.processes if self._live is not None else 1
        return max(known, len({attempt.rank for attempt in self._readers}))

    def lines(self) -> Iterator[LogLine]:
        """Yield the lines that there are now."""
        while True:
            if error := self._read_round():
                raise error
            behind = self._behind()
            yield from self._release(behind, hold=False)
            if not self._readers:
                yield from self._plain_lines()
            if not behind:
                return

    def follow(self) -> Iterator[LogLine | None]:
        """Yield lines until the stage has ended; None after each round, when nothing is due."""
        ended_at: float | None = None
        while True:
            has_ended = self._has_ended()  # before reading, so that no later line is missed
            error = self._read_round()
            behind = self._behind()
            growing = sum(not reader.is_done for reader in self._readers.values())
            yield from self._release(behind, hold=growing > 1)
            if not self._readers and self._live is None:
                yield from self._plain_lines()
            if behind and error is None:
                continue
            if has_ended and error is None:
                now = self._clock()
                ended_at = now if ended_at is None else ended_at
                if not growing or now - ended_at >= LAST_LINES_SECONDS:
                    yield from self._release([], hold=False)
                    return
            yield None
            self._sleep(POLL_SECONDS)

    def notices(self) -> list[str]:
        """Return what may be missing, one sentence for each attempt that is concerned."""
        found = []
        for attempt in self.attempts:
            reader = self._readers[attempt]
            where = f"rank {attempt.rank}, pod {attempt.pod}"
            end = reader.end
            own = f"; {end.own_lines} lines come from log.txt" if end and end.own_lines else ""
            if end is not None and not end.complete:
                found.append(f"{where}: was deleted before its last lines were read{own}")
            if reader.may_miss_lines or (end is not None and end.gaps):
                found.append(f"{where}: its node replaced the log file; lines may be missing{own}")
        return found

    def _plain_lines(self) -> Iterator[LogLine]:
        for attempt, line in self._plain.read():
            yield LogLine(attempt, 1, line)

    def _release(self, behind: list[Attempt], *, hold: bool) -> Iterator[LogLine]:
        order: dict[int, list[Attempt]] = {}
        for attempt in self.attempts:
            order.setdefault(attempt.rank, []).append(attempt)
        number = {a: order[a.rank].index(a) + 1 for a in self._readers}
        for attempt, line in self._merger.release(behind, hold=hold):
            yield LogLine(attempt, number[attempt], line)

    def _behind(self) -> list[Attempt]:
        return [a for a, r in self._readers.items() if r.is_behind and not r.is_done]

    def _read_round(self) -> Transient | None:
        """Read the next lines of every attempt.

        Returns:
            The last error if the cluster or the store could not be reached. The next round reads
            what this one has missed.
        """
        error, live, listed, names = None, self._live, set[Attempt](), dict[Attempt, list[str]]()
        try:
            listed = set(live.attempts()) if live is not None else listed
        except Transient as e:
            live, error = None, e
        try:
            names = self._archived_names()
        except Transient as e:
            return e
        for attempt in sorted({*listed, *names, *self._readers}):
            if self._rank is not None and attempt.rank != self._rank:
                continue
            reader = self._readers.get(attempt)
            if reader is None:
                reader = self._readers[attempt] = AttemptReader(self._prefix, attempt)
            source = live if attempt in listed else None
            try:
                self._merger.add(attempt, reader.read(names.get(attempt, []), source))
            except Transient as e:
                error = e
        return error

    def _archived_names(self) -> dict[Attempt, list[str]]:
        """Return the names of the archived files of each attempt, from one list."""
        folder = paths.join(self._prefix, FOLDER)
        found: dict[Attempt, list[str]] = {}
        for url in files.list_files(folder):
            parent, _, name = url.rpartition("/")
            attempt = Attempt.from_folder(parent.rpartition("/")[2])
            if attempt is not None:
                found.setdefault(attempt, []).append(name)
        return found

    def _has_ended(self) -> bool:
        """Return whether the stage has its record, or no further attempt will start."""
        try:
            if files.exists(layout.record_url(self._artifacts, self._run_id, self.stage)):
                return True
            if self._live is not None:
                return self._live.stage_has_ended()
            return self._has_ended_in_archive()
        except Transient:
            return False

    def _has_ended_in_archive(self) -> bool:
        """Return whether every attempt has ended, and a verdict that follows them is stored."""
        readers = list(self._readers.values())
        if not readers or not all(reader.is_done for reader in readers):
            return False
        if all(attempt.pod == LOCAL_POD for attempt in self._readers):
            return True  # a local stage is never started again by itself
        newest = max(attempt.created for attempt in self._readers)
        verdict = read_verdict(self._prefix)
        at = "".join(c for c in (verdict.at or "") if c not in "-:")[:15] if verdict else ""
        return at >= newest[:15]
