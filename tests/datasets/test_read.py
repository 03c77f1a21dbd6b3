"""Reading: only files that the manifest names are read, and every byte is verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneloop.datasets.build import Select, build
from tuneloop.datasets.read import (
    dataset_prefix,
    find_damage,
    find_manifest,
    iter_rows,
    iter_shard_bytes,
    list_manifest_keys,
    load_manifest,
)
from tuneloop.datasets.schema import BuildRequest, DatasetManifest, TraceRow, trace_record
from tuneloop.errors import DataError
from tuneloop.jsonl import encode_line

MakeRow = Callable[..., TraceRow]


@pytest.fixture
def rows(make_row: MakeRow) -> list[TraceRow]:
    return [make_row(n) for n in range(5)]


@pytest.fixture
def manifest(
    rows: Sequence[TraceRow],
    select_of: Callable[[Sequence[TraceRow]], Select],
    tmp_path: Path,
    now: datetime,
) -> DatasetManifest:
    """Publish five rows in shards of two, as dataset d-v1."""
    request = BuildRequest(dataset_name="d", dataset_version="v1")
    options: dict[str, Any] = {"now": now, "new_seed": lambda: 7, "shard_rows": 2}
    return build(select_of(rows), request, str(tmp_path), **options)[0]


@pytest.fixture
def manifest_path(manifest: DatasetManifest, tmp_path: Path) -> Path:
    return tmp_path / "datasets/d-v1/manifest.json"


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def test_rows_come_in_order_with_their_place(
    manifest: DatasetManifest, rows: list[TraceRow], tmp_path: Path
) -> None:
    found = list(iter_rows(manifest, str(tmp_path)))
    assert [row for _, row in found] == rows
    prefix = f"{tmp_path}/datasets/d-v1/"
    assert found[3][0] == f"{prefix}{manifest.shards[1].path}:2"
    assert [row for _, row in iter_rows(manifest, str(tmp_path), shard=2)] == rows[4:]


@pytest.mark.parametrize("key", ["..", ".", "", "a/b", "../d-v1", "a\x00", "é", "k" * 201])
def test_keys_that_no_dataset_has(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=r"^dataset key .*: expected up to 200 letters"):
        dataset_prefix(str(tmp_path), key)


def test_a_missing_dataset_is_a_sentence_and_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_manifest(str(tmp_path / "a"), "d-v1")
    assert str(caught.value) == (
        f"{tmp_path}/a/datasets/d-v1/manifest.json: no such file; build the dataset first"
    )
    assert find_manifest(str(tmp_path / "a"), "d-v1") is None
    assert not (tmp_path / "a").exists()


def test_a_torn_manifest(manifest_path: Path, tmp_path: Path) -> None:
    whole = manifest_path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 3):
        manifest_path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"manifest\.json: .*; rebuild the dataset$"):
            load_manifest(str(tmp_path), "d-v1")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"seed": 8}, "build_id is .* expected .* for its content; the manifest was edited"),
        ({"instruction": "x"}, "build_id is"),
        ({"filters": {"a": 1}}, "build_id is"),
        ({"dataset_key": "e-v1"}, "dataset_key is e-v1, expected d-v1"),
        ({"trace_count": 6}, "trace_count is 6 but its 3 shards have 5 rows; rebuild"),
        ({"schema_version": "2"}, "schema_version is '2', expected '1'; rebuild"),
        ({"more": 1}, "more is an unknown key"),
        ({"created_at": "2026-13-22T11:22:10.546379Z"}, "created_at is"),
        ({"shards": []}, "shards is"),
    ],
)
def test_an_edited_manifest(
    manifest_path: Path, tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    edit(manifest_path, **fields)
    with pytest.raises(DataError, match=text):
        load_manifest(str(tmp_path), "d-v1")


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "attempts/../x.jsonl"])
def test_a_shard_path_never_leads_out(manifest_path: Path, tmp_path: Path, path: str) -> None:
    shards = json.loads(manifest_path.read_bytes())["shards"]
    edit(manifest_path, shards=[{**shards[0], "path": path}, *shards[1:]])
    with pytest.raises(DataError, match=r"shards\.0\.path is"):
        load_manifest(str(tmp_path), "d-v1")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_one_changed_byte_is_found(
    manifest: DatasetManifest, tmp_path: Path, data: st.DataObject
) -> None:
    shard = data.draw(st.sampled_from(manifest.shards))
    path = tmp_path / "datasets/d-v1" / shard.path
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ other]) + whole[at + 1 :])
    try:
        with pytest.raises(DataError, match=shard.name):
            list(iter_rows(manifest, str(tmp_path)))
    finally:
        path.write_bytes(whole)


def test_a_shard_that_is_a_link_is_refused_before_its_first_byte(
    manifest: DatasetManifest, tmp_path: Path
) -> None:
    shard = manifest.shards[0]
    path = Path(dataset_prefix(str(tmp_path), manifest.dataset_key), shard.path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    blocks = iter_shard_bytes(manifest, str(tmp_path), shard)
    with pytest.raises(DataError, match="is reached through a link to /etc/passwd"):
        next(blocks)
    with pytest.raises(DataError, match="is reached through a link"):
        next(iter_rows(manifest, str(tmp_path)))
    assert "is reached through a link" in str(find_damage(manifest, str(tmp_path)))


def test_a_lost_or_shortened_shard_is_found(manifest: DatasetManifest, tmp_path: Path) -> None:
    path = tmp_path / "datasets/d-v1" / manifest.shards[1].path
    assert find_damage(manifest, str(tmp_path)) is None
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert "traces-00001-of-00003.jsonl has" in str(find_damage(manifest, str(tmp_path)))
    with pytest.raises(DataError, match=r"traces-00001-of-00003\.jsonl: (has|holds) \d+ bytes"):
        list(iter_rows(manifest, str(tmp_path)))
    path.unlink()
    assert "is missing" in str(find_damage(manifest, str(tmp_path)))
    with pytest.raises(DataError, match=r"traces-00001-of-00003\.jsonl: (is )?missing"):
        list(iter_rows(manifest, str(tmp_path)))


def test_a_row_count_that_is_not_the_shards(manifest: DatasetManifest, tmp_path: Path) -> None:
    last = manifest.shards[2]
    shards = (*manifest.shards[:2], last.model_copy(update={"rows": 2}))
    with pytest.raises(DataError, match=r"manifest\.json: rows is 2 but .* has 1 rows; rebuild"):
        list(iter_rows(manifest.model_copy(update={"shards": shards}), str(tmp_path)))
    one = manifest.model_copy(update={"shards": shards[2:], "trace_count": 2})
    with pytest.raises(DataError, match="trace_count is 2 but traces-00002-of-00003"):
        list(iter_rows(one, str(tmp_path)))


def test_lists_published_datasets_only(manifest: DatasetManifest, tmp_path: Path) -> None:
    stray = tmp_path / "datasets/unfinished-v1/attempts/x/manifest.json"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}")
    assert list_manifest_keys(str(tmp_path)) == ["d-v1"]
    assert list_manifest_keys(str(tmp_path / "none")) == []


def test_provenance_wins_in_the_trace_record(manifest: DatasetManifest, make_row: MakeRow) -> None:
    steps = [{"i": 0, "type": "t", "content": "a"}, {"i": 4, "type": "t", "content": "b"}]
    row = make_row(3, steps=steps, meta={"created_at": 1, "trace_version": 2, "id": 3})
    assert json.loads(encode_line(trace_record(row, manifest))) == {
        "id": row.id,
        "prompts": row.prompt,
        "trace_steps": ["a", "b"],
        "final_answer": "4",
        "metadata": {"created_at": row.created_at, "trace_version": "1.0", "id": 3},
    }
    calls = [{"i": 0, "type": "tool_call", "content": "{}", "name": "look"}]
    chat: dict[str, Any] = {
        "labels": {"good": True},
        "messages": [{"role": "user", "content": "a"}],
        "reward": 0.5,
        "system": "s",
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    for trace, more in (({}, {}), ({"steps": calls, "final_answer": ""}, {"steps": calls})):
        row = make_row(3, **{"trace_version": "1.1", **chat, **trace})
        shown = json.loads(encode_line(trace_record(row, manifest)))
        usual = {"id", "prompts", "trace_steps", "final_answer", "metadata"}
        assert {key: shown[key] for key in shown.keys() - usual} == chat | more
    bare = trace_record(make_row(3, meta=None), manifest)
    assert set(bare["metadata"]) == {"created_at", "trace_version"}
