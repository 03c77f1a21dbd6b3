from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.errors import DataError, InputMissing
from tuneloop.stages.lifecycle import reuse
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import sealed

FINGERPRINT = "f" * 64


def make(artifacts: str, run_id: str = "run-1", content: bytes = b"data", **changes: Any) -> Record:
    path = f"training_runs/{run_id}/export/attempts/1/x.jsonl"
    files.write(paths.join(artifacts, path), content)
    file = OutputFile(
        name="x.jsonl",
        path=path,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    value = {
        "run_id": run_id,
        "stage": "export",
        "fingerprint": FINGERPRINT,
        "attempt": "1",
        "inputs": {},
        "outputs": (file,),
        "counts": {},
        "started_at": "2026-11-22T00:00:00+00:00",
        "seconds": 1.0,
        "provenance": {},
    }
    return Record(**{**value, **changes})


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return str(tmp_path)


def test_a_published_record_is_found_and_loaded(artifacts: str) -> None:
    record = records.publish(make(artifacts), artifacts)
    assert records.find(artifacts, "run-1", "export") == record
    assert records.load(artifacts, "run-1", "export", FINGERPRINT) == record
    assert records.find_cached(artifacts, FINGERPRINT, "export") == record
    assert records.read_output(record.output("x.jsonl"), artifacts) == b"data"


def test_nothing_is_read_before_the_record(artifacts: str) -> None:
    make(artifacts)
    assert records.find(artifacts, "run-1", "export") is None
    with pytest.raises(InputMissing, match=r"record.json: missing; stage export has to finish"):
        records.load(artifacts, "run-1", "export", FINGERPRINT)


def test_the_first_of_two_attempts_stands(artifacts: str) -> None:
    first = records.publish(make(artifacts, seconds=1.0), artifacts)
    second = records.publish(make(artifacts, seconds=2.0, attempt="2"), artifacts)
    assert second == first


def test_other_bytes_for_one_fingerprint_are_reported(
    artifacts: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = records.publish(make(artifacts), artifacts)
    other = make(artifacts, content=b"atad", attempt="2")
    files.write(paths.join(artifacts, first.outputs[0].path), b"data")
    with caplog.at_level(logging.ERROR):
        assert records.publish(other, artifacts) == first
    assert "wrote other bytes than attempt 1" in caplog.text


def test_timings_may_differ(artifacts: str) -> None:
    record = make(artifacts)
    timed = record.outputs[0].model_copy(update={"has_timings": True})
    assert record.content() == {"x.jsonl": record.outputs[0].sha256}
    assert record.model_copy(update={"outputs": (timed,)}).content() == {}


def test_another_run_takes_the_record_over(artifacts: str) -> None:
    first = records.publish(make(artifacts), artifacts)
    taken = reuse.find_or_adopt(artifacts, "run-2", "export", FINGERPRINT)
    assert taken == first.model_copy(update={"run_id": "run-2"})
    assert records.find(artifacts, "run-2", "export") == taken
    assert reuse.find_or_adopt(artifacts, "run-3", "export", "e" * 64) is None


def test_a_kill_between_record_and_pointer_is_healed(artifacts: str) -> None:
    records.publish(make(artifacts), artifacts)
    files.delete_tree(paths.join(artifacts, "stages"))
    assert reuse.find_or_adopt(artifacts, "run-1", "export", FINGERPRINT)
    assert records.find_cached(artifacts, FINGERPRINT, "export")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncate", "x.jsonl holds 3 bytes, expected 4 bytes; restore it, or delete the record"),
        ("delete", "x.jsonl is missing, expected 4 bytes"),
        ("tear", "record.json: not a stage record"),
    ],
)
def test_damage_is_named(damage: str, message: str, artifacts: str) -> None:
    record = records.publish(make(artifacts), artifacts)
    output = Path(artifacts, record.outputs[0].path)
    url = Path(layout.record_url(artifacts, "run-1", "export"))
    match damage:
        case "truncate":
            output.write_bytes(b"dat")
        case "delete":
            output.unlink()
        case _:
            url.write_bytes(url.read_bytes()[:-20])
    with pytest.raises(DataError, match=message):
        records.find(artifacts, "run-1", "export")


def test_a_changed_byte_is_found_by_the_reader(artifacts: str) -> None:
    record = records.publish(make(artifacts), artifacts)
    Path(artifacts, record.outputs[0].path).write_bytes(b"dat4")
    assert records.find(artifacts, "run-1", "export")  # sizes agree
    with pytest.raises(DataError, match="sha256 is"):
        records.read_output(record.outputs[0], artifacts)


def test_a_record_of_another_plan_is_refused(artifacts: str) -> None:
    records.publish(make(artifacts), artifacts)
    with pytest.raises(DataError, match="fingerprint is ffffffff, expected eeeeeeee"):
        records.load(artifacts, "run-1", "export", "e" * 64)


OTHER_STAGE = "training_runs/run-1/train/record.json"


@pytest.mark.parametrize(
    ("pointer", "words"),
    [
        (b'{"x": 1}', "not a cache pointer"),
        (b"[" * 100_000, "not a cache pointer"),
        (b'{"record": 1}', "not a cache pointer"),
        (b'{"record": "record.json"}', "not a cache pointer"),
        (b'{"record": "../../export/record.json"}', "expected a record of export"),
        (b'{"record": "training_runs/../export/record.json"}', "expected a record of export"),
        (b'{"record": "training_runs/a\\b/train/record.json"}', "expected a record of export"),
        (json.dumps({"record": OTHER_STAGE}).encode(), "expected a record of export"),
        (b'{"record": "training_runs/run-2/export/record.json"}', "fingerprint is eeeeeeee"),
        (b'{"record": "training_runs/run-3/export/record.json"}', "is the record of run-2/export"),
        (b'{"record": "training_runs/gone/export/record.json"}', ""),
    ],
)
def test_a_pointer_to_no_record_of_the_stage_is_not_used_and_written_again(
    pointer: bytes, words: str, artifacts: str, caplog: pytest.LogCaptureFixture
) -> None:
    records.publish(make(artifacts, stage="train"), artifacts)
    other = records.publish(make(artifacts, "run-2", fingerprint="e" * 64), artifacts)
    files.write(layout.record_url(artifacts, "run-3", "export"), records._dump(other))
    url = layout.pointer_url(artifacts, FINGERPRINT)
    files.write(url, pointer)
    assert reuse.find_or_adopt(artifacts, "run-4", "export", FINGERPRINT) is None
    assert words in caplog.text
    record = records.publish(make(artifacts, "run-4"), artifacts)
    assert records.find_cached(artifacts, FINGERPRINT, "export") == record
    assert f"{url}: named no usable record" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run_id": "../../x"}, "is the record of ../../x/export, expected that of run-1/export"),
        ({"stage": "train"}, "is the record of run-1/train"),
        ({"part": "00000-of-00002"}, "is the record of run-1/export/00000-of-00002"),
    ],
)
def test_a_record_of_another_run_or_stage_is_refused(
    change: dict[str, Any], words: str, artifacts: str
) -> None:
    url = layout.record_url(artifacts, "run-1", "export")
    record = make(artifacts).model_copy(update=change)
    files.write(url, records._dump(record))
    with pytest.raises(DataError, match=words):
        reuse.find_or_adopt(artifacts, "run-1", "export", FINGERPRINT)
    assert not Path(artifacts, "..", "x").exists()


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "a/./b",
        "",
        "..\\x",
        "memory://x",
        "a::b",
        "a\nb",
    ],
)
@pytest.mark.parametrize("field", ["name", "path"])
def test_a_path_out_of_the_artifacts_is_refused(field: str, path: str, artifacts: str) -> None:
    record = records.publish(make(artifacts), artifacts)
    url = layout.record_url(artifacts, "run-1", "export")
    value = record.model_dump(mode="json")
    value["outputs"][0][field] = path
    files.write(url, json.dumps(sealed(value)).encode())
    with pytest.raises(DataError, match="leads out of its folder"):
        records.find(artifacts, "run-1", "export")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_artifacts_is_refused(what: str, tmp_path: Path) -> None:
    artifacts = str(tmp_path / "artifacts")
    record = records.publish(make(artifacts), artifacts)
    file = Path(artifacts, record.outputs[0].path)
    linked = file if what == "file" else file.parent
    linked.rename(tmp_path / "secret")
    linked.symlink_to(tmp_path / "secret")
    words = r"x\.jsonl: is reached through a link to .*secret"
    with pytest.raises(DataError, match=words):
        records.find(artifacts, "run-1", "export")
    with pytest.raises(DataError, match=words):
        records.read_output(record.outputs[0], artifacts)


def test_a_link_to_the_artifacts_is_followed(tmp_path: Path) -> None:
    record = records.publish(make(str(tmp_path / "disk")), str(tmp_path / "disk"))
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk")
    assert records.find(str(tmp_path / "artifacts"), "run-1", "export") == record


def test_a_changed_number_of_a_record_is_found(artifacts: str) -> None:
    records.publish(make(artifacts, counts={"traces": 104}), artifacts)
    url = layout.record_url(artifacts, "run-1", "export")
    files.write(url, files.read(url).replace(b"104", b"105"))
    with pytest.raises(DataError, match=r"record\.json: .*its seal is not the digest"):
        records.find(artifacts, "run-1", "export")


def test_a_missing_output_name_is_a_sentence(artifacts: str) -> None:
    with pytest.raises(DataError, match=r"output y is missing, found x\.jsonl"):
        make(artifacts).output("y")
    assert make(artifacts).outputs_like("x")[0].name == "x.jsonl"
