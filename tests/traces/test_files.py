"""Import of trace files into a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneloop.errors import DataError
from tuneloop.jsonl import dump_line
from tuneloop.storage.rows.source import Source
from tuneloop.store.db.database import Database
from tuneloop.traces import files
from tuneloop.traces.client import TraceClient
from tuneloop.traces.files import import_file

Make = Callable[..., dict[str, Any]]
ON_SQLITE = pytest.mark.parametrize("new_database_url", ["sqlite"], indirect=True)


def imported(file: Path, client: TraceClient) -> int:
    return import_file(Source(str(file)), client, lambda done, total: None).traces


@pytest.fixture
def file(tmp_path: Path, make_trace: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "BATCH_TRACES", 10)
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b"".join(dump_line(make_trace(n, prompt=f"p{n} 😀")) for n in range(25)))
    return path


@ON_SQLITE
def test_an_import_after_a_deletion_stores_the_traces_again(
    store_url: str, database: Database, file: Path
) -> None:
    with TraceClient(store_url) as client:
        assert imported(file, client) == 25
        assert imported(file, client) == database.count() == 25
        for listed in list(client.iter_traces()):
            assert database.delete(listed["id"])
        assert database.count() == 0
        assert imported(file, client) == database.count() == 25


@ON_SQLITE
def test_a_store_that_lost_what_it_acknowledged_is_found_out(
    store_url: str, database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = database.insert_batch

    def lose(*args: Any, **keywords: Any) -> Any:
        made = insert(*args, **keywords)
        for one in made:
            database.delete(one.id)
        return made

    monkeypatch.setattr(database, "insert_batch", lose)
    with TraceClient(store_url) as client:
        with pytest.raises(DataError, match=r"was posted and is not in the store.*import the file"):
            imported(file, client)


@ON_SQLITE
def test_another_trace_under_the_id_is_found_out(
    store_url: str, make_trace: Make, database: Database
) -> None:
    with TraceClient(store_url) as client:
        (one,) = client.post_batch([make_trace()], "k")
        client.check_stored(one, make_trace())
        with pytest.raises(DataError, match="is not the one that was posted"):
            client.check_stored(one, make_trace(prompt="another"))
