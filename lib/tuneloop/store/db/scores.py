"""Scores of traces. The newest score of a criterion counts; earlier ones are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, insert, select

from tuneloop.store.db import engine
from tuneloop.store.db.idempotency import remember
from tuneloop.store.db.locked import missing_traces, unknown_traces
from tuneloop.store.db.tables import scores

_MICROSECOND = timedelta(microseconds=1)


class NewScore(NamedTuple):
    """One score, ready to be stored."""

    trace_id: str
    criteria: str
    """What was judged, such as the name of a scorer."""
    score: float
    details: str
    """A JSON object."""


class StoredScore(NamedTuple):
    """One score of a trace."""

    criteria: str
    score: float
    details: str
    created_at: datetime


class Scores:
    """Statements on the table of scores."""

    def __init__(self, pool: Engine, place: str) -> None:
        """Use an open database; `place` names it in messages."""
        self._engine, self._place = pool, place

    def add(
        self,
        batch: Sequence[NewScore],
        *,
        now: datetime,
        key: str | None = None,
        skip_unknown: bool = False,
    ) -> int:
        """Store scores, all or none.

        Args:
            batch: at least one score.
            now: time of the first score; each further score is one microsecond later.
            key: idempotency key; the same key and scores store nothing again.
            skip_unknown: leave out scores of traces that do not exist, instead of refusing all.

        Returns:
            The number of scores of traces that do not exist.

        Raises:
            UnknownTraces: at least one of the traces does not exist.
            IdempotencyConflict: the key was used for other scores.
        """
        with engine.sentences(self._place), engine.writing(self._engine) as connection:
            missing = missing_traces(connection, (each.trace_id for each in batch))
            if missing and not skip_unknown:
                raise unknown_traces(missing)
            known = [each for each in batch if each.trace_id not in missing]
            if key is not None:
                digest = hashlib.sha256(repr([tuple(each) for each in batch]).encode()).hexdigest()
                if remember(connection, key, digest, len(batch), now, kind="scores") is not None:
                    return len(batch) - len(known)
            rows = [
                {**each._asdict(), "created_at": now + n * _MICROSECOND}
                for n, each in enumerate(known)
            ]
            if rows:
                connection.execute(insert(scores), rows)
            return len(batch) - len(known)

    def of_trace(self, trace_id: str, limit: int) -> list[StoredScore]:
        """Return the newest scores of a trace, oldest first."""
        columns = (scores.c.criteria, scores.c.score, scores.c.details, scores.c.created_at)
        statement = select(*columns).where(scores.c.trace_id == trace_id)
        statement = statement.order_by(scores.c.seq.desc()).limit(limit)
        with engine.sentences(self._place), self._engine.begin() as connection:
            return [StoredScore(*row) for row in connection.execute(statement)][::-1]
