"""Labels of reviewers, which are only added. The newest of a name and reviewer counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Engine,
    Subquery,
    and_,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
)

from tuneloop.store.db import engine
from tuneloop.store.db.cursor import Cursor
from tuneloop.store.db.idempotency import remember
from tuneloop.store.db.locked import missing_traces, unknown_traces
from tuneloop.store.db.source import has_source
from tuneloop.store.db.tables import labels, traces

QueueKind = Literal["unlabeled", "disagreement", "all"]
"""Traces to review: without a label of this reviewer, with different labels, or all."""
_MICROSECOND = timedelta(microseconds=1)
_PLACE_COLUMNS = (traces.c.created_at, traces.c.seq)
_PLACE = tuple_(*_PLACE_COLUMNS)


class NewLabel(NamedTuple):
    """One label, ready to be stored."""

    trace_id: str
    name: str
    value: str
    """The value as JSON."""
    who: str
    """Name of the reviewer."""
    reason: str
    """Why the reviewer gave it; empty without a reason."""


class StoredLabel(NamedTuple):
    """One label of a trace."""

    seq: int
    trace_id: str
    name: str
    value: str
    who: str
    reason: str
    created_at: datetime


class Queue(NamedTuple):
    """The traces that a reviewer goes through, newest first."""

    kind: QueueKind
    name: str
    """Name of the label that the reviewer gives."""
    who: str
    """Name of the reviewer."""
    ignored: str
    """Value, as JSON, that neither agrees nor disagrees with others."""
    source: str | None = None
    """Only traces with this `meta.source`; None takes all."""


class Place(NamedTuple):
    """Position of a trace in the list."""

    id: str
    cursor: Cursor


def current_labels(*conditions: ColumnElement[bool]) -> Subquery:
    """Select the newest label of each trace, name and reviewer.

    Args:
        conditions: conditions on the table of labels.

    Returns:
        A subquery with the columns of the table, and `rank`, which is always 1 outside of it.
    """
    one = (labels.c.trace_id, labels.c.name, labels.c.who)
    rank = func.row_number().over(partition_by=one, order_by=labels.c.seq.desc())
    ranked = select(labels, rank.label("rank")).where(*conditions).subquery()
    return select(ranked).where(ranked.c.rank == 1).subquery()


class Labels:
    """Statements on the table of labels."""

    def __init__(self, pool: Engine, place: str) -> None:
        """Use an open database; `place` names it in messages."""
        self._engine, self._place = pool, place

    def add(
        self, batch: Sequence[NewLabel], *, now: datetime, key: str | None = None
    ) -> list[datetime]:
        """Store labels, all or none.

        Args:
            batch: at least one label.
            now: time of the first label; each further label is one microsecond later.
            key: idempotency key; the same key and labels store nothing again.

        Returns:
            The time of each label, in order; those of the first request if it is repeated.

        Raises:
            UnknownTraces: at least one of the traces does not exist.
            IdempotencyConflict: the key was used for other labels.
        """
        with engine.sentences(self._place), engine.writing(self._engine) as connection:
            if missing := missing_traces(connection, (each.trace_id for each in batch)):
                raise unknown_traces(missing)
            earlier = None
            if key is not None:
                digest = hashlib.sha256(repr([tuple(each) for each in batch]).encode()).hexdigest()
                earlier = remember(connection, key, digest, len(batch), now, kind="labels")
            times = [(earlier or now) + n * _MICROSECOND for n in range(len(batch))]
            if earlier is None:
                rows = [
                    {**each._asdict(), "created_at": time}
                    for each, time in zip(batch, times, strict=True)
                ]
                connection.execute(insert(labels), rows)
        return times

    def find(
        self,
        limit: int,
        after: int = 0,
        *,
        trace_id: str | None = None,
        name: str | None = None,
        who: str | None = None,
    ) -> list[StoredLabel]:
        """List labels in the order of arrival.

        Args:
            limit: maximum number of labels.
            after: `seq` of the label before the first one.
            trace_id: list only labels of this trace.
            name: list only labels with this name.
            who: list only labels of this reviewer.
        """
        wanted = ((labels.c.trace_id, trace_id), (labels.c.name, name), (labels.c.who, who))
        conditions = [column == value for column, value in wanted if value is not None]
        statement = select(*(labels.c[field] for field in StoredLabel._fields))
        statement = statement.where(labels.c.seq > after, *conditions)
        statement = statement.order_by(labels.c.seq).limit(limit)
        with engine.sentences(self._place), self._engine.begin() as connection:
            return [StoredLabel(*row) for row in connection.execute(statement)]

    def current(self, name: str, limit: int) -> list[StoredLabel]:
        """Return the newest label of each trace and reviewer, newest first.

        Args:
            name: name of the labels.
            limit: maximum number of labels.
        """
        found = current_labels(labels.c.name == name)
        statement = select(*(found.c[field] for field in StoredLabel._fields))
        statement = statement.order_by(found.c.seq.desc()).limit(limit)
        with engine.sentences(self._place), self._engine.begin() as connection:
            return [StoredLabel(*row) for row in connection.execute(statement)]

    def names(self, limit: int) -> list[str]:
        """Return the names that labels have, in alphabetical order."""
        statement = select(labels.c.name).distinct().order_by(labels.c.name).limit(limit)
        with engine.sentences(self._place), self._engine.begin() as connection:
            return list(connection.scalars(statement))

    def place_of(self, trace_id: str) -> Place | None:
        """Return the position of a trace, or None if it does not exist."""
        return self._first(select(*_COLUMNS).where(traces.c.id == trace_id))

    def next_of(self, queue: Queue, before: Cursor | None) -> Place | None:
        """Return the next trace of a queue; None at its end.

        Args:
            queue: the queue.
            before: position of the trace before it; None starts at the newest trace.
        """
        conditions = self._conditions(queue)
        if before is not None:
            conditions.append(_PLACE < before)
        return self._first(
            select(*_COLUMNS).where(*conditions).order_by(*(each.desc() for each in _PLACE_COLUMNS))
        )

    def previous_of(self, queue: Queue, after: Cursor) -> Place | None:
        """Return the trace before a position, whether or not it has labels; None at the newest.

        A reviewer goes back to a trace that has just got a label and left the queue.
        """
        everything = queue._replace(kind="all")
        conditions = [*self._conditions(everything), _PLACE > after]
        return self._first(
            select(*_COLUMNS).where(*conditions).order_by(*(each.asc() for each in _PLACE_COLUMNS))
        )

    def count_of(self, queue: Queue, limit: int) -> int:
        """Count the traces of a queue, at most `limit`."""
        some = select(literal(1)).select_from(traces).where(*self._conditions(queue)).limit(limit)
        with engine.sentences(self._place), self._engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(some.subquery())) or 0

    def _first(self, statement: Any) -> Place | None:
        with engine.sentences(self._place), self._engine.begin() as connection:
            row = connection.execute(statement.limit(1)).first()
            return None if row is None else Place(row.id, (row.created_at, row.seq))

    def _conditions(self, queue: Queue) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if queue.source is not None:
            found.append(has_source(queue.source, self._engine.dialect.name))
        if queue.kind == "unlabeled":
            mine = and_(
                labels.c.trace_id == traces.c.id,
                labels.c.name == queue.name,
                labels.c.who == queue.who,
            )
            found.append(~exists().where(mine))
        if queue.kind == "disagreement":
            all_labels = current_labels(labels.c.name == queue.name)
            differing = (
                select(all_labels.c.trace_id)
                .where(all_labels.c.value != queue.ignored)
                .group_by(all_labels.c.trace_id)
                .having(func.count(all_labels.c.value.distinct()) > 1)
            )
            found.append(traces.c.id.in_(differing))
        return found


_COLUMNS = (traces.c.id, traces.c.created_at, traces.c.seq)
