"""What a notification says: how a stage or a run has ended, and where its results are.

Events are built without a request to the storage or the cluster, so building one cannot fail a run.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.records import Record
from tuneloop.history import stored
from tuneloop.runs.outcome import REPORT_TEXT
from tuneloop.runs.results import StageResult
from tuneloop.specs.integrations.notifications import EventName
from tuneloop.storage import paths

CAUSE_CHARACTERS = 4000
"""Maximum length of a cause or fix: events should stay below 64 KiB, and a local stage's cause
holds its last lines."""
LAST_EVENTS: tuple[EventName, ...] = ("run_finished", "run_failed")
"""Events that end a run."""
_NAMESPACE = uuid.UUID("6a1f0d2c-4f0e-5c0b-9a55-0d7b3f1f6f41")


@dataclass(frozen=True)
class NotifiedRun:
    """The run that notifications are about."""

    run_id: str
    name: str
    artifacts: str
    store_url: str

    @property
    def prefix(self) -> str:
        """URL of the run's folder."""
        return layout.run_prefix(self.artifacts, self.run_id)


class Accuracy(BaseModel):
    """Accuracy before and after training, 0 to 1."""

    model_config = ConfigDict(frozen=True)

    base: float
    tuned: float


class EventData(BaseModel):
    """The content of an event; keys may be added, and none changes its meaning."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    name: str
    """Name of the run spec."""
    stage: str | None
    """Stage that has ended; null if the event is about no single stage."""
    state: str
    """`Succeeded`, or the state of the verdict, as in the runbook."""
    cause: str = ""
    """Why it has failed; empty after a success."""
    fix: str = ""
    """What to do; empty if the cause says it."""
    exit_code: int
    """Exit code of `run` and `wait`; 0 after a success."""
    reused: bool = False
    """Whether the stage's result comes from another run."""
    seconds: float
    """Seconds of the stage's process, or of all stages that this run has not reused; after a
    failure, seconds that the sender has waited for the stage."""
    accuracy: Accuracy | None = None
    """Result of the evaluation; null before it."""
    links: dict[str, str]
    """Name -> URL: `artifacts`, `page` in the trace store, `record` of a finished stage, `stage`
    (the folder with verdict and logs) of a failed one, and `report` after the evaluation."""


@dataclass(frozen=True)
class Event:
    """One notification."""

    id: str
    """The same when it is sent again, also by another supervisor."""
    type: EventName
    at: datetime
    data: EventData


def stage_finished(run: NotifiedRun, result: StageResult) -> Event:
    """Return the event of a stage that has its record."""
    record = result.record
    links = {"record": layout.record_url(run.artifacts, run.run_id, record.stage)}
    data = _succeeded(run, [record], record.stage, links)
    data = data.model_copy(update={"reused": not stored.is_own(record)})
    return Event(
        _event_id(run, "stage_finished", record.stage, record.attempt),
        "stage_finished",
        _ended_at(record),
        data,
    )


def run_finished(run: NotifiedRun, results: Sequence[StageResult]) -> Event:
    """Return the event of a run whose stages all have their records."""
    found = [result.record for result in results]
    last = found[-1]
    return Event(
        _event_id(run, "run_finished", last.stage, last.fingerprint),
        "run_finished",
        _ended_at(last),
        _succeeded(run, found, None, {}),
    )


def run_failed(
    run: NotifiedRun, stage: str, found: Verdict, attempt: str, *, seconds: float, now: datetime
) -> Event:
    """Return the event of a run that has failed.

    Args:
        run: the run.
        stage: the stage without a record; empty if the run failed between two stages.
        found: the final verdict on it.
        attempt: id of the failed attempt, the same in every supervisor.
        seconds: seconds that this supervisor has waited for the stage.
        now: the current time.
    """
    links = {"stage": layout.stage_prefix(run.artifacts, run.run_id, stage)} if stage else {}
    data = EventData(
        run_id=run.run_id,
        name=run.name,
        stage=stage or None,
        state=found.state,
        cause=_text(found.cause),
        fix=_text(found.fix),
        exit_code=found.exit_code or 20,
        seconds=round(seconds, 3),
        links=_links(run) | links,
    )
    return Event(_event_id(run, "run_failed", stage, attempt), "run_failed", now, data)


def _succeeded(
    run: NotifiedRun, found: Sequence[Record], stage: str | None, links: dict[str, str]
) -> EventData:
    accuracy = next((a for a in map(_accuracy, found) if a), None)
    if accuracy is not None:
        links = {**links, "report": paths.join(run.prefix, REPORT_TEXT)}
    return EventData(
        run_id=run.run_id,
        name=run.name,
        stage=stage,
        state="Succeeded",
        exit_code=0,
        seconds=round(sum(_seconds(each) for each in found if stage or stored.is_own(each)), 3),
        accuracy=accuracy,
        links=_links(run) | links,
    )


def _accuracy(record: Record) -> Accuracy | None:
    base, tuned = (record.results.get(f"accuracy_{which}") for which in ("base", "tuned"))
    if isinstance(base, float | int) and isinstance(tuned, float | int):
        return Accuracy(base=base, tuned=tuned)
    return None


def _links(run: NotifiedRun) -> dict[str, str]:
    page = paths.join(run.store_url, "runs", quote(run.run_id, safe=""))
    return {"artifacts": run.prefix, "page": page}


def _event_id(run: NotifiedRun, kind: EventName, *parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\n".join([run.run_id, kind, *parts])))


def _ended_at(record: Record) -> datetime:
    """Return when a record was written; the epoch if its time cannot be read."""
    started = stored.parse_time(record.started_at) or datetime.fromtimestamp(0, UTC)
    return started + timedelta(seconds=_seconds(record))


def _seconds(record: Record) -> float:
    """Return the seconds of a stage; 0 if its record holds no possible value."""
    return record.seconds if 0 <= record.seconds < 1e9 else 0.0


def _text(text: str) -> str:
    """Return a text that any receiver can decode, cut to its maximum length."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= CAUSE_CHARACTERS else text[: CAUSE_CHARACTERS - 1] + "…"


def cloudevent(event: Event, run: NotifiedRun) -> dict[str, Any]:
    """Return an event as a CloudEvents 1.0 event in JSON."""
    subject = {} if event.data.stage is None else {"subject": event.data.stage}
    return {
        "specversion": "1.0",
        "id": event.id,
        # Relative, because two supervisors may reach the artifacts at different URLs.
        "source": f"/training_runs/{quote(run.run_id, safe='')}",
        "type": f"dev.tuneloop.{event.type.replace('_', '.')}",
        **subject,
        "time": event.at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "data": event.data.model_dump(mode="json"),
    }
