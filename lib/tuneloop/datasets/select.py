"""Which traces go into a dataset, decided in SQL over the whole store.

One rule: a selection is a function of request, seed and stored traces alone, and its size in memory
does not depend on theirs. `latest` gives the newest traces, newest first. `random` gives a uniform
sample without replacement, ordered by the digest of seed and trace id; ids that are equal in two
stores therefore give the same sample in the same order.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pydantic_core import from_json
from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    select,
)
from sqlalchemy.schema import Column, CreateTable

from tuneloop.datasets.schema import BuildRequest, Selection, TraceRow, utc_text

_BATCH_ROWS = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Positions first, payloads later: sorting and counting then move integers instead of texts. The
# table lives in the connection's temporary database and goes with the transaction.
_chosen = Table(
    "dataset_selection",
    MetaData(),
    Column("position", Integer, primary_key=True),
    Column("seq", Integer, nullable=False),
    prefixes=["TEMPORARY"],
)


def register_functions(connection: sqlite3.Connection) -> None:
    """Teach a new SQLite connection the two functions that selections use."""
    connection.create_function("tuneloop_rank", 2, _rank, deterministic=True)
    connection.create_function("tuneloop_json_has", 3, _json_has, deterministic=True)


def moment(micros: int) -> datetime:
    """A stored time: microseconds since 1970, exactly."""
    return _EPOCH + timedelta(microseconds=micros)


def micros(time: datetime) -> int:
    """How a time is stored."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def run_selection(
    connection: Connection, traces: Table, request: BuildRequest, seed: int
) -> Selection:
    """Choose traces and stream them.

    Args:
        connection: in a transaction of its own, rolled back by the caller when the rows are read;
            the transaction is what keeps count and rows of one moment.
        traces: the table, with columns seq, id, created_at, payload and meta.
        request: filters, strategy and limit.
        seed: orders a random selection; without meaning for `latest`.
    """
    newest_first = (traces.c.created_at.desc(), traces.c.seq.desc())
    order = newest_first
    if request.selection_strategy == "random":
        order = (func.tuneloop_rank(seed, traces.c.id).asc(), traces.c.seq.asc())
    chosen = (
        select(traces.c.seq)
        .where(*(has_value(traces.c.meta, key, value) for key, value in request.filters.items()))
        .order_by(*order)
        .limit(request.limit)
    )
    connection.execute(CreateTable(_chosen))
    connection.execute(insert(_chosen).from_select(["seq"], chosen))
    count = connection.scalar(select(func.count()).select_from(_chosen)) or 0
    return Selection(count, _rows(connection, traces))


def _rows(connection: Connection, traces: Table) -> Iterator[TraceRow]:
    statement = (
        select(traces.c.id, traces.c.created_at, traces.c.payload)
        .join_from(_chosen, traces, _chosen.c.seq == traces.c.seq)
        .order_by(_chosen.c.position)
    )
    for row in connection.execute(statement, execution_options={"yield_per": _BATCH_ROWS}):
        yield _trace_row(row.id, row.created_at, row.payload)


def _trace_row(trace_id: str, created_at: int, text: str) -> TraceRow:
    payload = from_json(text)
    payload["steps"].sort(key=itemgetter("i"))
    return TraceRow(id=trace_id, created_at=utc_text(moment(created_at)), **payload)


def has_value(meta: ColumnElement[Any], key: str, value: Any) -> ColumnElement[bool]:
    """Whether the JSON text in a column has this value under a key of its top level.

    `instr` leaves out in C nearly every row that cannot match; the function then decides.
    """
    wanted = json.dumps(value, ensure_ascii=False)
    needle = json.dumps(key, ensure_ascii=False) + ":"
    if isinstance(value, str | bool | None):
        needle += wanted  # numbers and containers have several spellings, these have one
    found: ColumnElement[bool] = func.instr(meta, needle) > 0
    return found & func.tuneloop_json_has(meta, key, wanted)


def _rank(seed: int, trace_id: str) -> bytes:
    """Uniform, and the same in PostgreSQL: sha256(convert_to(seed || '/' || id, 'UTF8'))."""
    return hashlib.sha256(f"{seed}/{trace_id}".encode()).digest()


def _json_has(meta: str, key: str, wanted: str) -> bool:
    found = json.loads(meta)
    return key in found and json_equal(found[key], _loaded(wanted))


@lru_cache(maxsize=64)
def _loaded(text: str) -> Any:
    return json.loads(text)


def json_equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same value, as PostgreSQL's jsonb has it."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_equal, left, right))
    return bool(left == right)
