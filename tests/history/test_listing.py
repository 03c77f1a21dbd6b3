"""Lists of runs: what they show, and that an index is never more than a copy of the records."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.history.trees import fingerprint, finish, heartbeat, write_manifest, write_run
from tuneloop.artifacts import layout
from tuneloop.artifacts.evaluation.verdict import ArchivedVerdict, write_verdict
from tuneloop.artifacts.runs.run_index import parse_run_index
from tuneloop.errors import UsageError
from tuneloop.history.index import update_index
from tuneloop.history.listing import ListedRun, RunQuery, list_runs, parse_since
from tuneloop.storage import files

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ODD_IDS = ("ünïcode 🟡", "a[b]*?", "per%20cent#1", "-rf", "line\u2028", "x" * 200)


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    """Runs in every state."""
    root = str(tmp_path)
    write_run(root, "done-00000001")
    write_run(root, "reuses-00000002", like={"export": "done-00000001"}, dataset="other-v2")
    write_run(root, "runs-00000003", ["export"])
    heartbeat(root, "runs-00000003", "train", NOW, "20261128T115900-aaaaaa", step=12, total=50)
    write_run(root, "fails-00000004", ["export"])
    verdict = ArchivedVerdict("OutOfMemory", "the host ran out", "use less", exit_code=11)
    write_verdict(verdict, layout.stage_prefix(root, "fails-00000004", "train"))
    write_run(root, "stops-00000005", ["export", "train"])
    heartbeat(root, "stops-00000005", "eval", NOW - timedelta(hours=1))
    write_manifest(root, "new-00000006")
    files.write(f"{root}/training_runs/notes/hello.txt", b"hello")
    return root


def states(runs: list[ListedRun]) -> dict[str, str]:
    return {run.run_id: run.state for run in runs}


STATES = {
    "done-00000001": "finished",
    "reuses-00000002": "finished",
    "runs-00000003": "train running",
    "fails-00000004": "train OutOfMemory",
    "stops-00000005": "eval stopped",
    "new-00000006": "export not started",
    "notes": "no manifest",
}


def test_every_state(artifacts: str) -> None:
    found = {run.run_id: run for run in list_runs(artifacts, now=NOW)}
    assert states(list(found.values())) == STATES
    reuses = found["reuses-00000002"]
    assert [stage.state for stage in reuses.stages] == ["reused", "done", "done", "done"]
    assert (reuses.name, reuses.dataset, reuses.model) == ("reuses", "other-v2", "random gemma3")
    assert (reuses.seconds, reuses.accuracy_base, reuses.accuracy_tuned) == (7.5, 0.25, 0.75)
    assert found["runs-00000003"].stages[1].note == "Step 12 of 50."
    assert found["new-00000006"].started_at is None


def test_without_indexes_the_list_is_the_same(artifacts: str) -> None:
    first = list_runs(artifacts, now=NOW)
    urls = [layout.run_index_url(artifacts, run_id) for run_id in STATES]
    kept = {url: files.read(url) for url in urls if files.exists(url)}
    assert len(kept) == len(STATES) - 1  # a folder without a manifest gets no index
    assert list_runs(artifacts, now=NOW) == first
    for url in kept:
        files.delete_tree(url)
    assert list_runs(artifacts, now=NOW) == first
    assert {url: files.read(url) for url in kept} == kept


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe{}",
        b"\x00" * 100,
        b'{"schema_version": "2"}',
        b'{"run_id": "other"}',
        b"[" * 100_000,
    ],
)
def test_a_broken_index_is_built_again(artifacts: str, broken: bytes) -> None:
    first = list_runs(artifacts, now=NOW)
    url = layout.run_index_url(artifacts, "done-00000001")
    good = files.read(url)
    files.write(url, broken)
    assert list_runs(artifacts, now=NOW) == first
    assert files.read(url) == good


@pytest.mark.parametrize("change", ["half", "bom", "swapped", "other run", "more stages"])
def test_a_changed_index_is_built_again(artifacts: str, change: str) -> None:
    first = list_runs(artifacts, now=NOW)
    url = layout.run_index_url(artifacts, "done-00000001")
    good = files.read(url)
    value = json.loads(good)
    stages = value["finished"]
    changed = {
        "half": good[: len(good) // 2],
        "bom": b"\xef\xbb\xbf" + good,
        "swapped": json.dumps({**value, "finished": stages[::-1]}).encode(),
        "other run": files.read(layout.run_index_url(artifacts, "reuses-00000002")),
        "more stages": json.dumps({**value, "finished": stages * 2}).encode(),
    }
    files.write(url, changed[change])
    assert list_runs(artifacts, now=NOW) == first
    if change != "bom":  # a byte order mark changes nothing of the content
        assert files.read(url) == good


def test_an_old_index_is_brought_up_to_date(artifacts: str) -> None:
    list_runs(artifacts, now=NOW)
    finish(artifacts, "runs-00000003", "train", fingerprint("runs-00000003", "train"))
    assert states(list_runs(artifacts, now=NOW))["runs-00000003"] == "eval not started"
    index = parse_run_index(
        files.read(layout.run_index_url(artifacts, "runs-00000003")), "runs-00000003"
    )
    assert index is not None
    assert [stage.name for stage in index.finished] == ["export", "train"]


def test_rebuild_sees_a_record_that_was_deleted_by_hand(artifacts: str) -> None:
    list_runs(artifacts, now=NOW)
    files.delete_tree(layout.record_url(artifacts, "done-00000001", "train"))
    found = list_runs(artifacts, now=NOW, rebuild=True)
    assert states(found)["done-00000001"] == "train not started"
    assert states(list_runs(artifacts, now=NOW))["done-00000001"] == "train not started"


def test_a_broken_record_is_one_row_with_its_reason(artifacts: str) -> None:
    files.write(layout.record_url(artifacts, "runs-00000003", "train"), b"{")
    files.write(layout.run_manifest_url(artifacts, "new-00000006"), b"\x00")
    found = {run.run_id: run for run in list_runs(artifacts, now=NOW)}
    assert found["runs-00000003"].state == found["new-00000006"].state == "unreadable"
    assert "train/record.json" in found["runs-00000003"].problem
    assert found["done-00000001"].state == "finished"


def test_odd_values_of_a_record_do_not_break_the_list(tmp_path: Path) -> None:
    root = str(tmp_path)
    made = write_run(root, "odd-00000001", ["export", "train"])
    results = {"accuracy_base": float("nan"), "accuracy_tuned": True}
    odd = {"results": results, "seconds": float("inf"), "started_at": "yesterday"}
    finish(root, "odd-00000001", "eval", made.stages["eval"], **odd)
    (first,) = list_runs(root, now=NOW)
    assert (first.accuracy_base, first.accuracy_tuned, first.seconds) == (None, None, 5.0)
    assert list_runs(root, now=NOW) == [first]


def test_odd_run_ids(tmp_path: Path) -> None:
    root = str(tmp_path)
    for run_id in ODD_IDS:
        write_run(root, run_id)
    for _ in range(2):
        found = list_runs(root, now=NOW)
        assert states(found) == dict.fromkeys(ODD_IDS, "finished")
    assert [run.run_id for run in list_runs(root, RunQuery(name="a[[]b]*"), now=NOW)] == ["a[b]*?"]


def test_no_runs(tmp_path: Path) -> None:
    assert list_runs(str(tmp_path), now=NOW) == []
    assert list_runs(str(tmp_path / "never was"), now=NOW) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (RunQuery(name="done*"), ["done-00000001"]),
        (RunQuery(name="fails"), ["fails-00000004"]),
        (RunQuery(dataset="other-*"), ["reuses-00000002"]),
        (RunQuery(state="failed"), ["fails-00000004"]),
        (RunQuery(state="running"), ["runs-00000003"]),
        (RunQuery(state="outofmemory"), ["fails-00000004"]),
        (RunQuery(state="no manifest"), ["notes"]),
        (RunQuery(state="finished", sort="name"), ["done-00000001", "reuses-00000002"]),
        (RunQuery(since=NOW - timedelta(hours=1)), []),
        (RunQuery(sort="name", limit=2), ["done-00000001", "fails-00000004"]),
        (RunQuery(sort="name", limit=1, reverse=True), ["stops-00000005"]),
        (RunQuery(sort="duration", limit=1), ["done-00000001"]),
        (RunQuery(sort="accuracy", limit=1), ["done-00000001"]),
    ],
)
def test_queries(artifacts: str, query: RunQuery, expected: list[str]) -> None:
    for _ in range(2):
        assert [run.run_id for run in list_runs(artifacts, query, now=NOW)] == expected


def test_the_first_stage_of_a_run_tells_its_start_while_it_works(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_manifest(root, "young-00000001")
    heartbeat(root, "young-00000001", "export", NOW, "20261128T115900-aaaaaa")
    (found,) = list_runs(root, RunQuery(since=NOW - timedelta(minutes=2)), now=NOW)
    assert found.started_at == datetime(2026, 11, 28, 11, 59, tzinfo=UTC)
    heartbeat(root, "young-00000001", "export", NOW, "99999999T999999-aaaaaa")
    (found,) = list_runs(root, now=NOW)
    assert found.started_at is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T01:00:00+01:00", datetime(2026, 11, 22, tzinfo=UTC)),
    ],
)
def test_since(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "-3d", "7 years", "9" * 30 + "d"])
def test_since_that_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="expected an age"):
        parse_since(text, NOW)


def test_a_stage_that_ends_updates_the_index(tmp_path: Path) -> None:
    root = str(tmp_path)
    update_index(root, "never-was")
    write_run(root, "one-00000001", ["export"])
    update_index(root, "one-00000001")
    index = parse_run_index(files.read(layout.run_index_url(root, "one-00000001")), "one-00000001")
    assert index is not None
    assert not index.is_complete
    files.write(layout.record_url(root, "one-00000001", "train"), b"{")
    update_index(root, "one-00000001")  # a broken record is no reason to stop


def without_seal(data: bytes) -> bytes:
    value = json.loads(data)
    del value["seal"]
    return json.dumps(value).encode()


def test_a_thousand_runs(tmp_path: Path) -> None:
    """A loose bound; bench/runs_list.py measures."""
    root = str(tmp_path)
    write_run(root, "first-00000000")
    record = {
        stage: files.read(layout.record_url(root, "first-00000000", stage))
        for stage in ("export", "train", "eval", "import")
    }
    manifest = files.read(layout.run_manifest_url(root, "first-00000000"))
    # Without their seals, which would have to be computed for each id.
    record = {stage: without_seal(data) for stage, data in record.items()}
    manifest = without_seal(manifest)
    for number in range(1, 1000):
        run_id = f"first-{number:08d}"
        folder = tmp_path / "training_runs" / run_id
        folder.mkdir()
        (folder / "run_manifest.json").write_bytes(
            manifest.replace(b"first-00000000", run_id.encode())
        )
        for stage, data in record.items():
            (folder / stage).mkdir()
            own = data.replace(b'"run_id": "first-00000000"', f'"run_id": "{run_id}"'.encode())
            (folder / stage / "record.json").write_bytes(own)
    assert len(list_runs(root, now=NOW)) == 1000
    since = time.perf_counter()
    found = list_runs(root, now=NOW)
    assert time.perf_counter() - since < 15
    assert {run.state for run in found} == {"finished"}
