"""List runs: their indexes are read together, and repaired if they are missing or old."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from tuneloop.artifacts import layout
from tuneloop.artifacts.progress import Progress
from tuneloop.artifacts.runs.run_index import RunIndex, write_run_index
from tuneloop.errors import TuneloopError, UsageError
from tuneloop.history.grouping.membership import Membership, belongs_to, memberships_of, read_groups
from tuneloop.history.index import read_further, read_index
from tuneloop.history.index_cache import read_indexes
from tuneloop.history.stored import parse_time, read_unfinished
from tuneloop.storage import files
from tuneloop.storage.objects import in_parallel

FINISHED, NO_MANIFEST, UNREADABLE = "finished", "no manifest", "unreadable"
WAITING = ("running", "stopped", "started")
"""Last words of the states of an unfinished stage that has not failed."""
_ATTEMPT_TIME = re.compile(r"\d{8}T\d{6}(?=-)")
_AGE = re.compile(r"(\d+) *(m|h|d|w)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class StageState:
    """The state of one stage of a listed run."""

    name: str
    state: str
    """As in `StoredStage.state`."""
    note: str = ""
    """A sentence about the state; may be empty."""


@dataclass(frozen=True)
class ListedRun:
    """One run of a list."""

    run_id: str
    state: str
    """`finished`, the first unfinished stage with its state, `no manifest` or `unreadable`."""
    name: str = ""
    dataset: str = ""
    model: str = ""
    stages: tuple[StageState, ...] = ()
    started_at: datetime | None = None
    """Start of the first stage that the run has worked on; None if none has started."""
    seconds: float = 0.0
    """Seconds of all stages that the run has finished itself."""
    accuracy_base: float | None = None
    accuracy_tuned: float | None = None
    problem: str = ""
    """What is wrong with the files of the run; empty if nothing is."""
    member_of: tuple[Membership, ...] = ()
    """The sweeps and rounds that it belongs to."""

    def as_json(self) -> dict[str, Any]:
        """Return the run for `--json`."""
        started = self.started_at.isoformat() if self.started_at else None
        return {**asdict(self), "started_at": started, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class RunQuery:
    """Which runs to list, and in which order."""

    name: str | None = None
    """Pattern of the run id or the spec's name, with * and ?."""
    state: str | None = None
    """`finished`, `unfinished`, `failed`, or a word of the state, such as `running`."""
    dataset: str | None = None
    """Pattern of the dataset key."""
    since: datetime | None = None
    """Earliest start."""
    limit: int | None = None
    """Maximum number of runs; None lists all."""
    sort: str = "started"
    """A key of `SORT_KEYS`."""
    reverse: bool = False
    group: str | None = None
    """Pattern of the id of a sweep or of rounds that the runs belong to; `none` chooses the runs
    that belong to none."""


_LONG_AGO = datetime.min.replace(tzinfo=UTC)
SORT_KEYS: dict[str, tuple[Callable[[ListedRun], Any], bool]] = {
    "started": (lambda run: run.started_at or _LONG_AGO, True),
    "name": (lambda run: run.run_id, False),
    "state": (lambda run: run.state, False),
    "dataset": (lambda run: run.dataset, False),
    "model": (lambda run: run.model, False),
    "duration": (lambda run: run.seconds, True),
    "accuracy": (lambda run: -1.0 if run.accuracy_tuned is None else run.accuracy_tuned, True),
}
"""Name of an order -> (key, whether the largest key comes first)."""


def list_runs(
    artifacts: str, query: RunQuery | None = None, *, now: datetime, rebuild: bool = False
) -> list[ListedRun]:
    """List the runs below an artifacts prefix.

    One request lists the folders, and a few read the indexes of the finished runs. An unfinished
    run, a sweep and rounds need requests of their own. An index that is missing, broken or old is
    written again, if that is permitted.

    Args:
        artifacts: URL of the artifacts prefix.
        query: which runs, in which order; None lists all, the newest first.
        now: the current time, which tells a running stage from a stopped one.
        rebuild: ignore all indexes and read the records again.
    """
    query = query or RunQuery()
    ids = files.list_folders(layout.runs_prefix(artifacts))
    groups = memberships_of(read_groups(artifacts)) if ids else {}
    if query.group is not None:
        ids = [each for each in ids if belongs_to(groups.get(each, ()), query.group)]
    indexes = [None] * len(ids) if rebuild else read_indexes(artifacts, ids)
    done = [_row(index) for index in indexes if index and index.is_complete]
    others = [
        (run_id, index)
        for run_id, index in zip(ids, indexes, strict=True)
        if index is None or (not index.is_complete and _may_match(query, index))
    ]
    read = in_parallel(lambda each: _read(artifacts, *each, now), others)
    found = [replace(run, member_of=groups.get(run.run_id, ())) for run in done + read]
    return _select(query, found)


def _read(artifacts: str, run_id: str, stored: RunIndex | None, now: datetime) -> ListedRun:
    """Read a run whose index may be missing or old, and repair the index."""
    try:
        index = read_further(artifacts, stored) if stored else read_index(artifacts, run_id)
        if index is None:
            said = (
                "The folder has no run_manifest.json: it is no run, or a deleted run with files"
                " that other runs use."
            )
            return ListedRun(run_id, NO_MANIFEST, problem=said)
        if index != stored:
            with contextlib.suppress(TuneloopError):  # the reader may not be allowed to write
                write_run_index(index, artifacts)
        return _unfinished_row(artifacts, index, now)
    except TuneloopError as e:
        known = stored or RunIndex(
            run_id=run_id, name="", dataset="", model="", planned=(), finished=()
        )
        return ListedRun(run_id, UNREADABLE, known.name, known.dataset, known.model, problem=str(e))


def _unfinished_row(artifacts: str, index: RunIndex, now: datetime) -> ListedRun:
    if index.is_complete:
        return _row(index)
    found = read_unfinished(artifacts, index.run_id, index.planned[len(index.finished)], now)
    state = StageState(found.name, found.state, found.note)
    return _row(index, state, found.progress)


def _row(
    index: RunIndex, current: StageState | None = None, progress: Progress | None = None
) -> ListedRun:
    """Build the row of a run from its index and the state of its first unfinished stage."""
    own = [stage for stage in index.finished if not stage.reused]
    times = [time for stage in own if (time := parse_time(stage.started_at))]
    if not own and progress and (began := _ATTEMPT_TIME.match(progress.attempt)):
        with contextlib.suppress(ValueError):
            times = [datetime.strptime(began[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)]
    if not times and index.is_complete:  # every result comes from other runs
        times = [time for stage in index.finished if (time := parse_time(stage.started_at))]
    stages = [StageState(s.name, "reused" if s.reused else "done") for s in index.finished]
    stages += [current] if current else []
    stages += [StageState(name, "not started") for name in index.planned[len(stages) :]]
    return ListedRun(
        index.run_id,
        f"{current.name} {current.state}" if current else FINISHED,
        index.name,
        index.dataset,
        index.model,
        tuple(stages),
        min(times, default=None),
        sum(stage.seconds for stage in own),
        index.accuracy_base,
        index.accuracy_tuned,
    )


def _may_match(query: RunQuery, index: RunIndex) -> bool:
    """Return whether a run can be in the list, as far as its index tells."""
    return (query.name is None or _is_named(query.name, index.run_id, index.name)) and (
        query.dataset is None or fnmatchcase(index.dataset, query.dataset)
    )


def _is_named(pattern: str, run_id: str, name: str) -> bool:
    return fnmatchcase(run_id, pattern) or fnmatchcase(name, pattern)


def _select(query: RunQuery, runs: Sequence[ListedRun]) -> list[ListedRun]:
    found = [
        run
        for run in runs
        if (query.name is None or _is_named(query.name, run.run_id, run.name))
        and (query.dataset is None or fnmatchcase(run.dataset, query.dataset))
        and (query.state is None or has_state(run.state, query.state))
        and (query.since is None or (run.started_at or _LONG_AGO) >= query.since)
    ]
    key, descending = SORT_KEYS[query.sort]
    found.sort(key=lambda run: run.run_id)
    found.sort(key=key, reverse=descending != query.reverse)
    return found[: query.limit]


def has_state(state: str, wanted: str) -> bool:
    """Return whether the state of a run is a wanted one, as `RunQuery.state` names it."""
    wanted = wanted.casefold()
    if wanted == "unfinished":
        return state != FINISHED
    if wanted == "failed":
        return state != FINISHED and not state.endswith((*WAITING, NO_MANIFEST))
    return wanted in (state.casefold(), *state.casefold().split())


def parse_since(text: str, now: datetime) -> datetime:
    """Parse an age, such as `12h` or `7d`, or a date with or without a time.

    Raises:
        UsageError: the text is neither.
    """
    try:
        if age := _AGE.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        found = datetime.fromisoformat(text.strip())
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as e:
        raise UsageError(
            f"{text!r}: expected an age such as 90m, 12h, 7d or 2w, or a date such as 2026-11-22"
        ) from e
