from __future__ import annotations

import datetime

import pytest

from tests.builders import TinyRun
from tuneloop.artifacts import records
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.errors import InputMissing
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, paths


def train_stage(run: TinyRun) -> Stage:
    """The context of the train stage, as its process makes it."""
    spec = run.plan().stages[1]
    return Stage(spec, started_at=datetime.datetime.now(datetime.UTC), attempt="a")


def publish_export(run: TinyRun, files_written: int) -> None:
    """Publish a record of the export stage with this number of outputs."""
    spec = run.plan().stages[0]
    outputs = []
    for number in range(files_written):
        path = f"training_runs/{spec.run_id}/export/attempts/a/examples-{number}.jsonl"
        files.write(paths.join(run.artifacts, path), b"{}\n")
        outputs.append(
            OutputFile(name=f"examples-{number}.jsonl", path=path, size_bytes=3, sha256="0" * 64)
        )
    record = Record(
        run_id=spec.run_id,
        stage="export",
        fingerprint=spec.fingerprint,
        attempt="a",
        inputs={},
        outputs=tuple(outputs),
        counts={},
        started_at="2026-11-22T11:22:33+00:00",
        seconds=0.1,
        provenance={},
    )
    records.publish(record, run.artifacts)


def test_the_outputs_of_an_upstream_stage_are_checked_once(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_export(tiny_run, files_written=3)
    checked: list[str] = []
    size_bytes = files.size_bytes

    def counted(url: str) -> int | None:
        checked.append(url)
        return size_bytes(url)

    monkeypatch.setattr(files, "size_bytes", counted)
    stage = train_stage(tiny_run)
    first = stage.upstream("export")
    assert [stage.upstream("export") for _ in range(5)] == [first] * 5
    assert len(checked) == 3


def test_an_upstream_stage_without_a_record_is_asked_for_again(tiny_run: TinyRun) -> None:
    stage = train_stage(tiny_run)
    with pytest.raises(InputMissing, match="stage export has to finish first"):
        stage.upstream("export")
    publish_export(tiny_run, files_written=1)
    assert stage.upstream("export").stage == "export"
