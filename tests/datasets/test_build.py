"""Builds: the content of a key never changes, even with concurrent or interrupted builds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tuneloop.datasets.build import DatasetConflict, DatasetEmpty, Select, build
from tuneloop.datasets.read import find_manifest, iter_rows, load_manifest
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, Selection, TraceRow
from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.store.db.codec import new_trace
from tuneloop.store.db.database import Database
from tuneloop.traces.schema import ReasoningTrace

MakeRow = Callable[..., TraceRow]
SelectOf = Callable[[Sequence[TraceRow]], Select]
Build = Callable[..., tuple[DatasetManifest, bool]]


def request(**fields: Any) -> BuildRequest:
    return BuildRequest(**{"dataset_name": "d", "dataset_version": "v1", **fields})


@pytest.fixture
def publish(tmp_path: Path, now: datetime, select_of: SelectOf) -> Build:
    """Build dataset d-v1 from rows under tmp_path."""

    def call(rows: Sequence[TraceRow], **fields: Any) -> tuple[DatasetManifest, bool]:
        options = {"now": now, "new_seed": lambda: 7} | fields.pop("options", {})
        return build(select_of(rows), request(**fields), str(tmp_path), **options)

    return call


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json*")}


def test_the_manifest_says_what_was_asked_for_and_found(
    publish: Build, make_row: MakeRow, tmp_path: Path
) -> None:
    long = [{"i": n, "type": "t", "content": "abcd"} for n in range(3)]
    manifest, created = publish(
        [make_row(1), make_row(2, steps=long)],
        instruction="Show your work as steps",
        filters={"a": True},
        seed=3,
        session_id="s",
        parent_dataset_id="p",
        training_run_id="r",
    )
    assert created
    assert load_manifest(str(tmp_path), "d-v1") == manifest
    stated = json.loads((tmp_path / "datasets/d-v1/manifest.json").read_bytes())
    assert stated["instruction"] == "Show your work as steps"
    assert (stated["recipe"], stated["seed"], stated["filters"]) == ("trace_sft_v1", 3, {"a": True})
    assert (stated["session_id"], stated["training_run_id"]) == ("s", "r")
    assert stated["created_at"] == "2026-11-22T11:22:10.546379Z"
    assert stated["stats"] == {
        "trace_count": 2,
        "avg_step_count": 2.0,
        "min_step_count": 1,
        "max_step_count": 3,
        "avg_total_chars": (14 + 1 + 7 + 14 + 1 + 12) / 2,
    }


def test_shards_are_canonical_lines_in_order(
    publish: Build, make_row: MakeRow, tmp_path: Path
) -> None:
    rows = [make_row(n) for n in (4, 2, 9, 1, 3)]
    manifest, _ = publish(rows, options={"shard_rows": 2})
    assert [shard.name for shard in manifest.shards] == [
        f"traces-0000{n}-of-00003.jsonl" for n in range(3)
    ]
    assert [shard.rows for shard in manifest.shards] == [2, 2, 1]
    for shard, held in zip(manifest.shards, (rows[:2], rows[2:4], rows[4:]), strict=True):
        data = (tmp_path / "datasets/d-v1" / shard.path).read_bytes()
        expected = [
            json.dumps(json.loads(row.line()), sort_keys=True, ensure_ascii=False,
                       separators=(",", ":")) for row in held
        ]  # fmt: skip
        assert data.decode().splitlines() == expected
        assert shard.sha256 == hashlib.sha256(data).hexdigest()
        assert shard.size_bytes == len(data)
    assert [row for _, row in iter_rows(manifest, str(tmp_path))] == rows


def test_building_again_changes_nothing(
    publish: Build, make_row: MakeRow, tmp_path: Path, now: datetime
) -> None:
    rows = [make_row(n) for n in range(3)]
    first, _ = publish(rows, seed=None)
    before = contents_of(tmp_path)
    again = publish(rows, seed=None, options={"now": now + timedelta(1), "new_seed": lambda: 99})
    assert again == (first, False)
    assert publish(rows, seed=7) == (first, False)
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"limit": 5}, "limit is 5, but it was built with 100"),
        ({"seed": 8}, "seed is 8, but it was built with 7"),
        ({"filters": {"a": 1}}, "filters is {'a': 1}, but it was built with {'a': True}"),
        ({"recipe": "other"}, "recipe is 'other'"),
        ({"instruction": "x"}, "instruction is 'x', but it was built with None"),
        ({"selection_strategy": "random"}, "selection_strategy is 'random'"),
        ({"parent_dataset_id": "x"}, "parent_dataset_id is 'x'"),
    ],
)
def test_another_request_for_a_taken_key_is_refused(
    publish: Build, make_row: MakeRow, tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    publish([make_row()], filters={"a": True})
    before = contents_of(tmp_path)
    with pytest.raises(DatasetConflict, match="use another dataset_version") as caught:
        publish([make_row()], **{"filters": {"a": True}, **fields})
    assert text in str(caught.value)
    assert contents_of(tmp_path) == before


def test_other_traces_for_a_taken_key_are_refused(
    publish: Build, make_row: MakeRow, tmp_path: Path
) -> None:
    publish([make_row(1)])
    before = contents_of(tmp_path)
    for rows in ([make_row(2)], [make_row(1), make_row(2)], [make_row(1, prompt="p")]):
        with pytest.raises(DatasetConflict, match="differ from the 1 it was built with"):
            publish(rows)
    assert contents_of(tmp_path) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a b", "c"), ("a_b", "c")),
        (("a", "b-c"), ("a-b", "c")),
        (("ä" * 120, "v1"), ("ö" * 120, "v1")),
        (("a/b", "c"), ("a\\b", "c")),
    ],
)
def test_names_that_share_a_key_do_not_share_a_dataset(
    publish: Build, make_row: MakeRow, one: tuple[str, str], other: tuple[str, str]
) -> None:
    publish([make_row()], dataset_name=one[0], dataset_version=one[1])
    with pytest.raises(DatasetConflict, match="dataset_name is"):
        publish([make_row()], dataset_name=other[0], dataset_version=other[1])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("..", "..-v"),
        ("../../etc", ".._.._etc-v"),
        ("a\nb", "a_b-v"),
        ("数据", "__-v"),
        ("n" * 128, "n" * 128 + "-v"),
    ],
)
def test_a_name_never_leads_out_of_its_folder(
    publish: Build, make_row: MakeRow, tmp_path: Path, name: str, key: str
) -> None:
    manifest, _ = publish([make_row()], dataset_name=name, dataset_version="v")
    assert manifest.dataset_key == key
    assert (tmp_path / "datasets" / key / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["datasets"]


@pytest.mark.parametrize("name", ["", "a\x00", "a\ud800", "n" * 129])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        request(dataset_name=name)


def test_an_empty_selection_leaves_nothing(publish: Build, tmp_path: Path) -> None:
    with pytest.raises(DatasetEmpty, match=r"^Dataset is empty\. No traces matched the filters\.$"):
        publish([])
    assert not files.list_files(str(tmp_path))


def test_the_same_traces_in_two_stores_make_the_same_dataset(tmp_path: Path, now: datetime) -> None:
    built = []
    for name, start in (("one", now), ("two", now + timedelta(days=3))):
        database = Database(f"sqlite:///{tmp_path / name}.db")
        for number in range(2):
            step = {"i": 0, "type": "t", "content": "c"}
            trace = {"trace_version": "1", "prompt": "p", "final_answer": "a", "steps": [step]}
            batch = [new_trace(ReasoningTrace.model_validate(trace))] * 3
            database.insert_batch(batch, now=start, key=f"batch/{number}")
        manifest, _ = build(
            lambda seed: database.selection(request(), seed),  # noqa: B023
            request(seed=1),
            str(tmp_path / name),
            now=start,
            new_seed=lambda: 1,
        )
        database.close()
        built.append(manifest)
    assert built[0].build_id == built[1].build_id
    assert built[0].content_sha256 == built[1].content_sha256
    # The traces differ in their times only.
    assert built[0].shards[0].sha256 != built[1].shards[0].sha256


def test_the_build_id_follows_the_request_and_the_content(
    make_row: MakeRow, select_of: SelectOf, now: datetime, tmp_path: Path
) -> None:
    names = set()
    asked: list[dict[str, Any]] = [
        {}, {"seed": 2}, {"instruction": "i"}, {"recipe": "r"}, {"limit": 9},
        {"filters": {"a": 1}}, {"dataset_name": "e"}, {"selection_strategy": "random"},
    ]  # fmt: skip
    for number, fields in enumerate(asked):
        manifest, _ = build(
            select_of([make_row()]),
            request(**{"seed": 1, **fields}),
            str(tmp_path / str(number)),
            now=now,
            new_seed=lambda: 1,
        )
        names.add(manifest.build_id)
    assert len(names) == len(asked)


def test_an_interrupted_build_leaves_nothing_to_read(
    publish: Build, make_row: MakeRow, tmp_path: Path, now: datetime
) -> None:
    @contextlib.contextmanager
    def breaking(seed: int) -> Iterator[Selection]:
        def rows() -> Iterator[TraceRow]:
            yield make_row(1)
            raise KeyboardInterrupt

        yield Selection(3, rows())

    with pytest.raises(KeyboardInterrupt):
        build(breaking, request(), str(tmp_path), now=now, new_seed=lambda: 1)
    assert not files.list_files(str(tmp_path))
    manifest, created = publish([make_row(n) for n in range(3)])
    assert created
    assert manifest.trace_count == 3


KILLED = """
import contextlib, datetime, os, signal, sys
from tuneloop.datasets.build import build
from tuneloop.datasets.schema import BuildRequest, Selection, TraceRow

def rows():
    for number in range(3):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield TraceRow(id=str(number), created_at="2026-11-22T11:22:10.546379Z", trace_version="1",
                       prompt="p", final_answer="a", steps=[], meta=None)

build(lambda seed: contextlib.nullcontext(Selection(3, rows())),
      BuildRequest(dataset_name="d", dataset_version="v1"), sys.argv[1],
      now=datetime.datetime.now(datetime.UTC), new_seed=lambda: 1, shard_rows=1)
"""


def test_a_killed_build_leaves_nothing_to_read(
    publish: Build, make_row: MakeRow, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=dict(os.environ), timeout=30, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    left = files.list_files(str(tmp_path))
    assert left
    assert find_manifest(str(tmp_path), "d-v1") is None
    manifest, created = publish([make_row(n) for n in range(3)])
    assert created
    assert [row for _, row in iter_rows(manifest, str(tmp_path))] == [make_row(n) for n in range(3)]
    assert set(left) < set(files.list_files(str(tmp_path)))


@pytest.mark.parametrize("seed", [None, 5])
def test_concurrent_builds_publish_once(
    make_row: MakeRow, select_of: SelectOf, tmp_path: Path, now: datetime, seed: int | None
) -> None:
    rows = [make_row(n) for n in range(3)]
    together = threading.Barrier(4)
    results: list[tuple[DatasetManifest, bool]] = []

    def run(number: int) -> None:
        waited = False

        def select(chosen: int) -> Any:
            nonlocal waited
            if not waited:
                waited = True
                together.wait(10)
            return select_of(rows)(chosen)

        asked = request(seed=seed)
        results.append(build(select, asked, str(tmp_path), now=now, new_seed=lambda: number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [created for _, created in results].count(True) == 1
    assert len({manifest.model_dump_json() for manifest, _ in results}) == 1
    # The builds that lost the race have deleted their shards: one shard, manifest, description.
    assert len(contents_of(tmp_path)) == 3
    assert len(list(iter_rows(results[0][0], str(tmp_path)))) == 3


def test_a_lost_acknowledgement_is_success(
    publish: Build, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = files.create

    def twice(url: str, data: bytes) -> None:
        create(url, data)
        raise FileExistsError(url)

    monkeypatch.setattr(files, "create", twice)
    manifest, created = publish([make_row()])
    assert created
    assert publish([make_row()]) == (manifest, False)


def test_a_failed_publication_keeps_the_shards_it_may_have_named(
    publish: Build, make_row: MakeRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = files.create

    def unsure(url: str, data: bytes) -> None:
        create(url, data)
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(files, "create", unsure)
        with pytest.raises(ConnectionResetError):
            publish([make_row()])
    assert len(list(iter_rows(load_manifest(str(tmp_path), "d-v1"), str(tmp_path)))) == 1


def test_a_damaged_dataset_is_not_taken_for_a_built_one(
    publish: Build, make_row: MakeRow, tmp_path: Path
) -> None:
    manifest, _ = publish([make_row()])
    shard = tmp_path / "datasets/d-v1" / manifest.shards[0].path
    shard.unlink()
    with pytest.raises(DataError, match=r"is missing, expected \d+ bytes; delete the folder"):
        publish([make_row()])


def test_earlier_datasets_keep_their_build_id_and_their_manifest(
    publish: Build, make_row: MakeRow
) -> None:
    manifest, _ = publish([make_row(1)], seed=7)
    assert manifest.build_id == "af47af42-8e17-5bdc-96a0-e57161df4fd0"
    assert not {"selection", "account", "include_evaluation"} & manifest.model_dump().keys()
    # Whether answers of evaluations could be selected changes the content, or else nothing.
    again, created = publish([make_row(1)], seed=7, include_evaluation=True)
    assert (again, created) == (manifest, False)


def test_rules_are_a_part_of_the_request(publish: Build, make_row: MakeRow) -> None:
    rules = {"where": {"reward": {"min": 0}}, "best_of": {"count": 4}}
    manifest, _ = publish([make_row(1)], seed=7, selection=rules)
    # A default that is written out is the same request.
    rules = {**rules, "best_of": {"count": 4, "by": "reward"}, "caps": {}}
    assert publish([make_row(1)], seed=7, selection=rules) == (manifest, False)
    with pytest.raises(DatasetConflict, match="selection is None, but it was built with"):
        publish([make_row(1)], seed=7)
