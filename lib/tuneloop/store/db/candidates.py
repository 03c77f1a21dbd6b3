"""Candidates of a selection by rules, as compact rows from the store's tables.

The rows are streamed newest first. The text of traces, and the newest scores and labels of each
trace, are only read if the rules need them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    MetaData,
    RowMapping,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from tuneloop.datasets.pointer import is_index, pointer_tokens
from tuneloop.datasets.selection.candidates import Candidate
from tuneloop.datasets.selection.spec import SelectionSpec, named
from tuneloop.store.db.tables import labels, scores, traces
from tuneloop.traces.fast import StoredPayload
from tuneloop.traces.judgements import SKIP
from tuneloop.traces.schema import utc_text

LIGHT_ROWS, HEAVY_ROWS = 2000, 50
"""Rows that are read at a time, without and with the text of traces, which can have megabytes."""
INSERTED_ROWS = 2000

Members = Iterable[tuple[int, str]]
"""(number of a dataset, id of a trace) of each row of the datasets that a spec names."""

_members = Table(
    "dataset_members",
    MetaData(),
    Column("id", traces.c.id.type, primary_key=True),
    Column("dataset", Integer, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)
INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Insert constructs by dialect, because SQLAlchemy's generic insert has no ON CONFLICT."""
_decode = msgspec.json.Decoder(StoredPayload).decode
_decode_json = msgspec.json.decode


class Found(NamedTuple):
    """A candidate with its number in the store."""

    seq: int
    candidate: Candidate


class Fields:
    """What the rules of a spec read of a trace besides the columns of its own row."""

    def __init__(self, spec: SelectionSpec) -> None:
        """Sort the fields of a spec by where they are stored."""
        names = spec.fields()
        self.paths = {name: pointer_tokens(name) for name in names if name.startswith("/")}
        self.has_digest = "model_digest" in names
        self.has_time = "created_at" in names
        found = {name: kind for name in names if (kind := named(name))}
        self.scores = {field: name for field, (kind, name) in found.items() if kind == "scores"}
        self.labels = {field: name for field, (kind, name) in found.items() if kind == "labels"}
        self.has_texts = spec.near_duplicates is not None
        # Labels that the producer of a trace gave are in its payload.
        self.has_payload = spec.needs_payload() or bool(self.labels)
        self.has_meta = bool(self.paths) or self.has_digest


def add_members(connection: Connection, members: Members) -> int:
    """Store which traces the datasets have, and return their number.

    A trace of several datasets belongs to the one with the smallest number.
    """
    connection.execute(CreateTable(_members))
    add = INSERT[connection.dialect.name](_members).on_conflict_do_nothing()
    rows = iter(members)
    while block := list(islice(rows, INSERTED_ROWS)):
        connection.execute(add, [{"dataset": number, "id": name} for number, name in block])
    return connection.scalar(select(func.count()).select_from(_members)) or 0


def count_members(connection: Connection) -> int:
    """Return how many traces of the datasets are still in the store."""
    joined = select(func.count()).select_from(_members).join(traces, _members.c.id == traces.c.id)
    return connection.scalar(joined) or 0


def candidate_table(spec: SelectionSpec | None) -> FromClause:
    """Return the traces that may be candidates: those of the datasets, or all."""
    if spec is None or not spec.datasets:
        return traces
    return traces.join(_members, _members.c.id == traces.c.id)


def iter_candidates(
    connection: Connection,
    spec: SelectionSpec,
    conditions: Iterable[ColumnElement[bool]],
) -> Iterator[Found]:
    """Yield the candidates, newest first.

    Args:
        connection: a connection in a snapshot; with datasets, after `add_members`.
        spec: the rules, which say what is read.
        conditions: conditions on the table of traces.
    """
    fields = Fields(spec)
    statement, joined = _statement(spec, fields)
    statement = statement.select_from(joined).where(*conditions)
    statement = statement.order_by(traces.c.created_at.desc(), traces.c.seq.desc())
    options = {"yield_per": HEAVY_ROWS if fields.has_payload else LIGHT_ROWS}
    keys = sorted(spec.datasets)
    with connection.execute(statement, execution_options=options) as rows:
        for row in rows:
            yield Found(row.seq, _candidate(row._mapping, fields, keys))


def _statement(spec: SelectionSpec, fields: Fields) -> tuple[Select[Any], FromClause]:
    columns: list[ColumnElement[Any]] = [
        traces.c.seq,
        traces.c.id,
        traces.c.source,
        traces.c.reward,
        traces.c.prompt_key,
    ]
    columns += [traces.c.created_at] if fields.has_time else []
    # jsonb is read as text, so that both databases give the same values.
    columns += [cast(traces.c.meta, Text).label("meta")] if fields.has_meta else []
    columns += [traces.c.payload] if fields.has_payload else []
    columns += [_members.c.dataset] if spec.datasets else []
    joined = candidate_table(spec)
    # A reviewer who skips a trace does not replace the label of another one.
    says = labels.c.value != msgspec.json.encode(SKIP).decode()
    for table, kind, value, wanted, counts in (
        (scores, scores.c.criteria, scores.c.score, fields.scores, true()),
        (labels, labels.c.name, labels.c.value, fields.labels, says),
    ):
        for field, name in wanted.items():
            newest = _newest(table, and_(kind == name, counts), value)
            joined = joined.outerjoin(newest, newest.c.trace_id == traces.c.id)
            columns.append(newest.c.value.label(field))
    return select(*columns), joined


def _newest(table: Table, counts: ColumnElement[bool], value: ColumnElement[Any]) -> Subquery:
    """Select the newest value of each trace among the rows that count."""
    last = select(func.max(table.c.seq)).where(counts).group_by(table.c.trace_id)
    statement = select(table.c.trace_id, value.label("value")).where(table.c.seq.in_(last))
    return statement.subquery()


def _candidate(row: RowMapping, fields: Fields, keys: list[str]) -> Candidate:
    values: dict[str, Any] = {
        field: row[field] for field in fields.scores if row[field] is not None
    }
    digest = length = None
    prompt = response = ""
    if fields.has_meta and (text := row["meta"]) is not None:
        meta = _decode_json(text)
        digest = meta.get("model_digest") if fields.has_digest else None
        values |= {field: _at(meta, tokens) for field, tokens in fields.paths.items()}
    if fields.has_payload:
        payload = _decode(row["payload"])
        length = len(payload.prompt) + len(payload.final_answer)
        length += sum([len(step.content) for step in payload.steps])
        values |= _labels(row, fields, payload)
        if fields.has_texts:
            payload.steps.sort(key=lambda step: step.i)
            prompt = payload.prompt
            response = "\n".join([*(step.content for step in payload.steps), payload.final_answer])
    return Candidate(
        id=row["id"],
        prompt_key=row["prompt_key"],
        reward=row["reward"],
        length=length,
        created_at=utc_text(row["created_at"]) if fields.has_time else None,
        source=row["source"],
        model_digest=digest if isinstance(digest, str) else None,
        values=values,
        dataset=keys[row["dataset"]] if keys else None,
        prompt=prompt,
        response=response,
    )


def _labels(row: RowMapping, fields: Fields, payload: StoredPayload) -> dict[str, Any]:
    """Return the labels: those of reviewers replace those of the producer."""
    if not fields.labels:
        return {}
    given = _decode_json(payload.labels) if isinstance(payload.labels, msgspec.Raw) else {}
    found = {field: given[name] for field, name in fields.labels.items() if name in given}
    newest = {field: row[field] for field in fields.labels if row[field] is not None}
    return found | {field: _decode_json(value) for field, value in newest.items()}


def _at(meta: Any, tokens: tuple[str, ...]) -> Any:
    """Return the value at a path; None if there is none."""
    place = meta
    for token in tokens:
        if isinstance(place, dict):
            place = place.get(token)
        elif isinstance(place, list) and is_index(token) and int(token[:19]) < len(place):
            place = place[int(token)]
        else:
            return None
    return place


def noting(found: Iterable[Found], numbers: array[int]) -> Iterator[Candidate]:
    """Yield the candidates and note their numbers in the store, in order."""
    for one in found:
        numbers.append(one.seq)
        yield one.candidate
