"""Decide whether the loop has to run on new traces, and build the dataset of the run.

The dataset of the run spec is the pattern: the new dataset has the same filters, recipe,
instruction, limit and seed, and holds the traces that the store has now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tuneloop.artifacts.rounds.store import is_rounds_id
from tuneloop.artifacts.rounds.store import is_unfinished as rounds_are_unfinished
from tuneloop.artifacts.runs import triggers
from tuneloop.artifacts.runs.triggers import LastStart, Start
from tuneloop.datasets.schema import BuildRequest, DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import DataError, InputMissing, UsageError
from tuneloop.runs.outcome import load_outcome
from tuneloop.runs.triggers.new_traces import count_new
from tuneloop.specs.run import RunSpec
from tuneloop.storage import paths
from tuneloop.traces.client import TraceClient

_OWN_FIELDS = {"dataset_name", "dataset_version", "training_run_id", "provenance"}
"""Fields of a build request that a new dataset does not take from the pattern."""


@dataclass(frozen=True)
class Condition:
    """When the loop runs."""

    needed: int
    """Number of new traces."""
    source: str | None = None
    """Count only traces with this `meta.source`; None counts all but the loop's own."""


@dataclass(frozen=True)
class Decision:
    """What a trigger does."""

    action: Literal["nothing", "start", "continue"]
    """`continue`: an earlier start was interrupted, or its run may be unfinished."""
    new_traces: int
    needed: int
    start: Start | None
    """The start to run; for `nothing`, the newest one, or None if there was none."""
    run_id: str | None = None
    """For `continue`, the run or the rounds of the start; None if it was interrupted before."""

    def as_json(self) -> dict[str, Any]:
        """Return the decision for `--json`."""
        start = self.start
        return {
            "action": self.action,
            "new_traces": self.new_traces,
            "needed": self.needed,
            "since": start.position if start and self.action == "nothing" else None,
            "dataset_key": start.dataset_key if start and self.action != "nothing" else None,
        }


def decide(
    spec: RunSpec, condition: Condition, client: TraceClient, *, now: datetime, claim: bool = True
) -> Decision:
    """Decide what a trigger does.

    Args:
        spec: the run spec; its name is that of the trigger.
        condition: when the loop runs.
        client: client of the spec's trace store.
        now: the current time.
        claim: whether to write the start, so that no other trigger starts the same; False writes
            nothing.

    Raises:
        UsageError: another trigger has started the run at the same time.
        DataError: the history of the trigger or the pattern is broken.
        Unavailable: the store does not answer.
    """
    artifacts = paths.absolute(spec.execution.artifacts)
    last = triggers.read_last(artifacts, spec.name)
    if last is not None and _is_open(artifacts, last):
        found = last.start.new_traces
        return Decision("continue", found, condition.needed, last.start, last.run_id)
    return count(spec, condition, client, now=now, claim=claim)


def count(
    spec: RunSpec, condition: Condition, client: TraceClient, *, now: datetime, claim: bool = True
) -> Decision:
    """Decide from the number of new traces alone; arguments and errors as for `decide`."""
    artifacts = paths.absolute(spec.execution.artifacts)
    last = triggers.read_last(artifacts, spec.name)
    before = last.start if last else None
    found = count_new(
        client,
        since=before.position if before else None,
        needed=condition.needed,
        source=condition.source,
    )
    if found.position is None or found.count < condition.needed:
        return Decision("nothing", found.count, condition.needed, before)
    number = before.number + 1 if before else 1
    start = Start(
        trigger=spec.name,
        number=number,
        position=found.position,
        new_traces=found.count,
        pattern=spec.dataset,
        dataset_key=_request(spec, number).dataset_key,
        at=now.isoformat(timespec="seconds"),
    )
    if claim and not triggers.publish_start(start, artifacts):
        raise UsageError(
            f"trigger {spec.name}: another process has made start {number} at the same time,"
            " expected one; look at it and trigger again"
        )
    return Decision("start", found.count, condition.needed, start)


def _is_open(artifacts: str, last: LastStart) -> bool:
    """Whether a start was interrupted, or its run or rounds have neither ended nor failed."""
    if last.run_id is None:
        return True
    if last.has_failed:
        return False
    if is_rounds_id(last.run_id):
        return rounds_are_unfinished(artifacts, last.run_id)
    try:
        outcome = load_outcome(artifacts, last.run_id)
    except InputMissing:  # somebody has deleted the run
        return False
    return bool(outcome.missing) and outcome.failure is None


def build_dataset(spec: RunSpec, start: Start, client: TraceClient) -> str:
    """Build the dataset of a start, unless it exists; returns its key.

    Raises:
        DataError: the store refuses the request.
        Unavailable: the store does not answer.
    """
    with DatasetSource(spec.execution.datasets) as source:
        if _exists(source, start.dataset_key):
            return start.dataset_key
    request = _request(spec, start.number)
    built = client.build_dataset(request.model_dump(mode="json", exclude_unset=True))
    key = str(built["dataset_key"])
    if key != start.dataset_key:
        raise DataError(
            f"{client.place}: built the dataset {key}, expected {start.dataset_key}; check that"
            " execution.store_url is a trace store of this version"
        )
    return key


def _exists(source: DatasetSource, key: str) -> bool:
    try:
        source.load_manifest(key)
    except DataError:
        return False
    return True


def _request(spec: RunSpec, number: int) -> BuildRequest:
    """Return the request of a new dataset, from the dataset that the spec names."""
    with DatasetSource(spec.execution.datasets) as source:
        pattern = source.load_manifest(spec.dataset)
    provenance = {"trigger": spec.name, "start": number, "pattern": pattern.dataset_key}
    return BuildRequest(
        dataset_name=pattern.dataset_name,
        dataset_version=f"{spec.name}-{number}",
        provenance=provenance,
        **_shared(pattern),
    )


def _shared(pattern: DatasetManifest) -> Mapping[str, Any]:
    """Return the values of all fields that a request shares with a manifest."""
    names = (set(BuildRequest.model_fields) & set(DatasetManifest.model_fields)) - _OWN_FIELDS
    return {name: getattr(pattern, name) for name in sorted(names)}
