"""Selection of a dataset's traces, in SQL over the whole store.

A selection depends only on the request, the seed and the stored traces. It is the same on SQLite
and PostgreSQL, and its memory use does not depend on the number of traces. `latest` returns the
newest traces, newest first. `random` returns a uniform sample without replacement, ordered by the
digest of seed and trace id, so two stores with equal ids give the same sample in the same order.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.schema import Column, CreateTable

from tuneloop.datasets.pointer import is_index, pointer_tokens
from tuneloop.datasets.schema import (
    EVALUATION,
    BuildRequest,
    Selection,
    TraceRow,
    row_of_payload,
)
from tuneloop.datasets.selection.account import SelectionAccount, Tally
from tuneloop.datasets.selection.spec import SelectionSpec
from tuneloop.store.db.candidates import (
    INSERTED_ROWS,
    Members,
    add_members,
    candidate_table,
    count_members,
    iter_candidates,
    noting,
)
from tuneloop.store.db.kept import Kept
from tuneloop.store.db.tables import traces
from tuneloop.traces.schema import utc_text

_PAGE_ROWS = 1000

# The selected positions are stored first and the payloads are read later, so that sorting and
# counting only handle integers. The temporary table disappears with the transaction.
_chosen = Table(
    "dataset_selection",
    MetaData(),
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


def register_functions(connection: sqlite3.Connection) -> None:
    """Register the two SQL functions that selections need on a new SQLite connection."""
    connection.create_function("tuneloop_rank", 2, _rank, deterministic=True)
    connection.create_function("tuneloop_json_has", 3, _json_has, deterministic=True)


def run_selection(
    connection: Connection,
    request: BuildRequest,
    seed: int,
    members: Members = (),
    kept: Kept | None = None,
) -> Selection:
    """Select traces and stream them.

    Args:
        connection: a connection in a transaction of its own, so that count and rows come from the
            same snapshot. The caller rolls it back after reading the rows.
        request: filters, strategy, limit and rules.
        seed: seed of a random selection; ignored by `latest`.
        members: the rows of the datasets that the rules name.
        kept: what a preview of the request has selected; None selects now. If one of its traces
            was deleted since, traces are selected anew.
    """
    connection.execute(CreateTable(_chosen))
    if kept is not None and _choose_again(connection, kept):
        account = kept.account
    else:
        account = _choose_now(connection, request, seed, members)
    rows = _rows(connection, account.selected)
    return Selection(account.selected, rows, account, lambda: _numbers(connection))


def _choose_again(connection: Connection, kept: Kept) -> bool:
    """Choose what was selected before; returns whether all of it is still there."""
    _insert(connection, kept.numbers)
    there = select(func.count()).select_from(_chosen).join(traces, _chosen.c.seq == traces.c.seq)
    if connection.scalar(there) == len(kept.numbers):
        return True
    connection.execute(delete(_chosen))
    return False


def _numbers(connection: Connection) -> array[int]:
    chosen = select(_chosen.c.seq).order_by(_chosen.c.position)
    with connection.execute(chosen, execution_options={"yield_per": INSERTED_ROWS}) as found:
        return array("q", found.scalars())


def _choose_now(
    connection: Connection, request: BuildRequest, seed: int, members: Members
) -> SelectionAccount:
    dialect = connection.dialect.name
    conditions = [has_value(traces, key, value, dialect) for key, value in request.filters.items()]
    rules = request.selection
    tally = Tally(_count(connection))
    if rules is not None and rules.datasets:
        total = add_members(connection, members)
        found = count_members(connection)
        tally.add("datasets", found, not_in_store=total - found)
    within = candidate_table(rules)
    if not request.wants_evaluation:
        conditions.insert(0, traces.c.source.is_distinct_from(EVALUATION))
        tally.add("evaluation", _count(connection, within, conditions[0]))
    if request.filters:
        tally.add("filters", _count(connection, within, *conditions))
    if rules is None:
        return _choose(connection, request, seed, conditions, tally)
    return _choose_by_rules(connection, request, rules, seed, conditions, tally)


def _count(
    connection: Connection, within: FromClause = traces, *conditions: ColumnElement[bool]
) -> int:
    statement = select(func.count()).select_from(within).where(*conditions)
    return connection.scalar(statement) or 0


def _choose(
    connection: Connection,
    request: BuildRequest,
    seed: int,
    conditions: Sequence[ColumnElement[bool]],
    tally: Tally,
) -> SelectionAccount:
    """Choose traces in SQL, for a request without rules."""
    order = (traces.c.created_at.desc(), traces.c.seq.desc())
    if request.selection_strategy == "random":
        order = (_rank_of(traces, seed, connection.dialect.name).asc(), traces.c.seq.asc())
    chosen = select(traces.c.seq).where(*conditions).order_by(*order).limit(request.limit)
    connection.execute(insert(_chosen).from_select(["seq"], chosen))  # Positions keep the order.
    tally.add("limit", _count(connection, _chosen))
    return tally.account()


def _choose_by_rules(
    connection: Connection,
    request: BuildRequest,
    rules: SelectionSpec,
    seed: int,
    conditions: Sequence[ColumnElement[bool]],
    tally: Tally,
) -> SelectionAccount:
    """Choose traces by the rules, of which only numbers are in memory."""
    from tuneloop.datasets.selection.pipeline import select_positions  # needs NumPy

    numbers = array("q")
    found = select_positions(
        noting(iter_candidates(connection, rules, conditions), numbers),
        rules,
        seed,
        strategy=request.selection_strategy,
        limit=request.limit,
    )
    _insert(connection, (numbers[number] for number in found.positions))
    return found.account.after(tally.account())


def _insert(connection: Connection, numbers: Iterable[int]) -> None:
    chosen = enumerate(numbers, start=1)
    while block := list(islice(chosen, INSERTED_ROWS)):
        rows = [{"position": position, "seq": seq} for position, seq in block]
        connection.execute(insert(_chosen), rows)


def _rows(connection: Connection, count: int) -> Iterator[TraceRow]:
    """Yield rows page by page, because PostgreSQL's driver loads a whole result into memory."""
    statement = (
        select(traces.c.id, traces.c.created_at, traces.c.payload)
        .join_from(_chosen, traces, _chosen.c.seq == traces.c.seq)
        .order_by(_chosen.c.position)
    )
    for start in range(0, count, _PAGE_ROWS):
        page = _chosen.c.position.between(start + 1, start + _PAGE_ROWS)
        for row in connection.execute(statement.where(page)):
            yield row_of_payload(row.id, utc_text(row.created_at), row.payload)


def has_value(traces: Table, path: str, value: Any, dialect: str) -> ColumnElement[bool]:
    """Build the condition that a trace's meta has a value at a path.

    Args:
        traces: the table, with its column meta.
        path: a path as in `BuildRequest.filters`.
        value: the JSON value, compared as in `json_equal`.
        dialect: SQLAlchemy's name of the database.
    """
    tokens = pointer_tokens(path)
    wanted = json.dumps(value, ensure_ascii=False)
    if dialect == "postgresql":
        return _postgres_has(traces, tokens, value, wanted)
    found = func.tuneloop_json_has(traces.c.meta, json.dumps(tokens), wanted)
    return and_(func.instr(traces.c.meta, _needle(tokens, value, wanted)) > 0, found)


def _needle(tokens: tuple[str, ...], value: Any, wanted: str) -> str:
    """Return text that the JSON of every match contains, so that SQLite can skip other rows."""
    last = max(n for n, token in enumerate(tokens) if n == 0 or not is_index(token))
    needle = json.dumps(tokens[last], ensure_ascii=False) + ":"
    if last == len(tokens) - 1 and isinstance(value, str | bool | None):
        needle += wanted  # Numbers and containers have several spellings; these types have one.
    return needle


def _postgres_has(
    traces: Table, tokens: tuple[str, ...], value: Any, wanted: str
) -> ColumnElement[bool]:
    place: ColumnElement[Any] = traces.c.meta
    # `->` with a text operand finds keys only; `#>` finds both a list index and a key.
    for token in tokens:
        step = "#>" if is_index(token) else "->"
        operand = cast([token], ARRAY(Text)) if is_index(token) else cast(token, Text)
        place = place.op(step, return_type=JSONB())(operand)
    equal: ColumnElement[bool] = place == literal(wanted, JSONB)
    if any(is_index(token) for token in tokens[1:]) or is_index(tokens[0]):
        return equal
    for token in reversed(tokens):
        value = {token: value}
    holder = literal(json.dumps(value, ensure_ascii=False), JSONB)
    return and_(traces.c.meta.op("@>")(holder), equal)  # The index supports only `@>`.


def _rank_of(traces: Table, seed: int, dialect: str) -> ColumnElement[Any]:
    if dialect != "postgresql":
        return func.tuneloop_rank(seed, traces.c.id)
    named = literal(f"{seed}/", Text).concat(cast(traces.c.id, Text))
    return func.sha256(func.convert_to(named, "UTF8"))


def _rank(seed: int, trace_id: str) -> bytes:
    """Compute a uniform rank, equal to PostgreSQL's sha256 of the same text."""
    return hashlib.sha256(f"{seed}/{trace_id}".encode()).digest()


def _json_has(meta: str, tokens: str, wanted: str) -> bool:
    place = json.loads(meta, parse_float=Decimal)
    for token in _loaded(tokens):
        if isinstance(place, dict) and token in place:
            place = place[token]
        elif isinstance(place, list) and is_index(token) and int(token[:19]) < len(place):
            place = place[int(token)]
        else:
            return False
    return json_equal(place, _loaded(wanted))


@lru_cache(maxsize=512)  # A selection has up to a hundred filters, with two texts each.
def _loaded(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def json_equal(left: Any, right: Any) -> bool:
    """Return whether two JSON values are equal under the rules of PostgreSQL's jsonb.

    Numbers are compared by their exact decimal value, so floats must be read as `Decimal`.
    """
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_equal, left, right))
    return bool(left == right)
