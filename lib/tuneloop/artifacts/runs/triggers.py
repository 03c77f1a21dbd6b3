"""The history of a trigger: which new traces started which run.

`triggers/<name>/` holds create-only objects for each start: `<number>.json`, written before the
dataset is built, `<number>-run.json`, written when the run has started, and `<number>-failed.json`,
written if the run has failed for good on this machine. A start without a run was interrupted, and
the next trigger finishes it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ConfigDict, ValidationError

from tuneloop.artifacts.layout import trigger_prefix
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import Sealed, sealed
from tuneloop.validation import first_error

_FILE = re.compile(r"(\d{6,})\.json")
S = TypeVar("S", bound=Sealed)


class Start(Sealed):
    """A start of the loop on new traces."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    trigger: str
    """Name of the run spec."""
    number: int
    """Number of the start, from 1."""
    position: str
    """Time at which the store received the newest trace, as the store states it; later triggers
    count the traces after it."""
    new_traces: int
    """Number of new traces that were needed and found."""
    pattern: str
    """Dataset of the run spec, from which the new one has its filters and rules."""
    dataset_key: str
    """Dataset that is built for this start."""
    at: str
    """Time of the start on the clock of the machine that made it, ISO 8601 in UTC."""


class StartedRun(Sealed):
    """The run or the rounds of a start."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    run_id: str
    """Id of the run or of the rounds."""


class FailedRun(Sealed):
    """Why the run of a start has failed for good."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    cause: str


@dataclass(frozen=True)
class LastStart:
    """The newest start of a trigger."""

    start: Start
    run_id: str | None
    """Run or rounds of the start; None if the start was interrupted before."""
    has_failed: bool
    """Whether the run has failed for good on the machine that ran it."""


def read_last(artifacts: str, name: str) -> LastStart | None:
    """Read the newest start of a trigger; None if it has started nothing yet.

    Raises:
        DataError: an object is broken.
    """
    names = files.list_names(trigger_prefix(artifacts, name))
    numbers = [int(found[1]) for each in names if (found := _FILE.fullmatch(each))]
    start = _read(Start, _url(artifacts, name, max(numbers))) if numbers else None
    if start is None:
        return None
    run = _read(StartedRun, _url(artifacts, name, start.number, "-run"))
    failed = _read(FailedRun, _url(artifacts, name, start.number, "-failed"))
    return LastStart(start, run.run_id if run else None, failed is not None)


def parse_start(data: bytes, url: str) -> Start:
    """Parse one start.

    Raises:
        DataError: it is not one.
    """
    return _parse(Start, data, url)


def publish_start(start: Start, artifacts: str) -> bool:
    """Create the object of a start; False if another process has created this number."""
    return files.publish(_url(artifacts, start.trigger, start.number), _dump(start))


def publish_run(start: Start, run_id: str, artifacts: str) -> None:
    """Create the object that names the run of a start, unless there is one."""
    url = _url(artifacts, start.trigger, start.number, "-run")
    files.publish(url, _dump(StartedRun(run_id=run_id)))


def publish_failure(start: Start, cause: str, artifacts: str) -> None:
    """Create the object which says that the run of a start has failed, unless there is one."""
    url = _url(artifacts, start.trigger, start.number, "-failed")
    files.publish(url, _dump(FailedRun(cause=cause)))


def _url(artifacts: str, name: str, number: int, suffix: str = "") -> str:
    return paths.join(trigger_prefix(artifacts, name), f"{number:06d}{suffix}.json")


def _dump(value: Sealed) -> bytes:
    return json.dumps(sealed(value.model_dump(mode="json")), indent=1).encode() + b"\n"


def _read(kind: type[S], url: str) -> S | None:
    try:
        return _parse(kind, files.read(url), url)
    except FileNotFoundError:
        return None


def _parse(kind: type[S], data: bytes, url: str) -> S:
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        raise DataError(
            f"{url}: not a start of a trigger ({first_error(e)}); restore the object, or delete the"
            " objects of this number, after which the traces since the start before are counted"
        ) from e
