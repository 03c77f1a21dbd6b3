"""Import of trace files into a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuneloop.errors import DataError, UsageError
from tuneloop.jsonl import dump_line
from tuneloop.storage.rows.source import Source
from tuneloop.store.db.database import Database
from tuneloop.traces import files
from tuneloop.traces.client import TraceClient
from tuneloop.traces.files import ImportOptions, import_file

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


def test_what_is_nested_too_deeply_is_refused_with_the_others(tmp_path: Path) -> None:
    file, refused = tmp_path / "a.jsonl", tmp_path / "refused.jsonl"
    for levels in (450, 900, 9999):
        deep = b'{"a":' * levels + b"1" + b"}" * levels
        file.write_bytes(b'{"prompt": "p", "completion": "c", "x": %b}\n' % deep)
        options = ImportOptions("prompt_completion")
        with TraceClient("http://127.0.0.1:9") as client:
            with pytest.raises(
                DataError, match=r"^[^ ]*a\.jsonl: the file has no traces \(1 record"
            ):
                import_file(Source(str(file)), client, lambda n, m: None, options, str(refused))
        assert b"nested" in refused.read_bytes()


def test_refused_records_do_not_replace_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"{}\n")
    with TraceClient("http://127.0.0.1:9") as client:
        with pytest.raises(UsageError, match=r"--refused .*: is the imported file"):
            import_file(Source(str(file)), client, lambda n, m: None, None, f"{tmp_path}/./a.jsonl")
    assert file.read_bytes() == b"{}\n"
