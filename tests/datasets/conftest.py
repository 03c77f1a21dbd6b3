"""Hand-made rows and selections, and a store to select from."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.builders import make_row as build_row
from tuneloop.datasets.build import Select
from tuneloop.datasets.schema import Selection, TraceRow

NOW = datetime(2026, 11, 22, 11, 22, 10, 546379, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    """Return the time of row `n`."""
    return NOW


@pytest.fixture
def make_row() -> Callable[..., TraceRow]:
    """Build a row; its id follows from its number, and keywords replace its fields."""

    def make(number: int = 0, **fields: Any) -> TraceRow:
        row = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
            "created_at": f"2026-11-22T11:22:10.{number:06d}Z",
            "trace_version": "1.0",
            "prompt": f"What is {number} + 1?",
            "final_answer": str(number + 1),
            "steps": [{"i": 0, "type": "reason", "content": "add one"}],
            "meta": {"number": number, "who": "אב 🟡"},
        }
        return build_row({**row, **fields})

    return make


@pytest.fixture
def select_of() -> Callable[[Sequence[TraceRow]], Select]:
    """Build a selection that returns these rows for any seed."""

    def make(rows: Sequence[TraceRow]) -> Select:
        return lambda seed: contextlib.nullcontext(Selection(len(rows), iter(rows)))

    return make
