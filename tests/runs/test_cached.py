"""A cached stage is verified, and what `run` can write again is repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import TinyRun
from tests.history import trees
from tuneloop.artifacts import layout
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.errors import DataError
from tuneloop.runs.local import LocalBackend
from tuneloop.runs.planning.plan import Plan, write_run_manifest
from tuneloop.runs.sequence import Sequence
from tuneloop.storage import files

COPY = "export_report.md"


@pytest.fixture
def plan(tiny_run: TinyRun) -> Plan:
    """A real plan of which every stage has a record."""
    made = tiny_run.plan()
    write_run_manifest(made)
    for stage in made.stages:
        trees.finish(made.artifacts, made.run_id, stage.stage, stage.fingerprint)
    return made


def run(plan: Plan, **options: int) -> list[str]:
    write_run_manifest(plan)
    results = Sequence(LocalBackend(plan), **options).run(  # type: ignore[arg-type]
        retry_failed=True, stop_on_interrupt=True
    )
    return [result.state for result in results]


def output_of(plan: Plan, name: str) -> Path:
    return next(Path(plan.artifacts, "training_runs", plan.run_id).glob(f"*/attempts/*/{name}"))


def test_a_changed_output_is_refused_by_its_name(plan: Plan) -> None:
    assert run(plan) == ["cached"] * 4
    path = output_of(plan, "model/model.safetensors")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(DataError, match=r"model/model\.safetensors: sha256 is"):
        run(plan)
    assert run(plan, verify_file_bytes=len(data) - 1) == ["cached"] * 4  # a larger file
    with pytest.raises(DataError, match=r"model/model\.safetensors: sha256 is"):
        run(plan, verify_file_bytes=0, verify_all=True)
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"model\.safetensors holds .* expected .* bytes"):
        run(plan, verify_file_bytes=0)


@pytest.mark.parametrize("damage", ["flip", "delete", "link"])
def test_a_changed_copy_is_written_again(damage: str, plan: Plan) -> None:
    path = Path(layout.run_prefix(plan.artifacts, plan.run_id), COPY)
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:-1] + b"?")
    else:
        path.unlink()
    if damage == "link":
        path.symlink_to("/etc/passwd")
    assert run(plan) == ["cached"] * 4
    assert path.read_bytes() == data
    assert not path.is_symlink()


def test_a_damaged_run_manifest_is_written_again(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    url = layout.run_manifest_url(plan.artifacts, plan.run_id)
    whole = read_run_manifest(plan.artifacts, plan.run_id)
    data = files.read(url)
    other = trees.write_manifest(plan.artifacts, "other-1")
    for damaged in (
        data[:-9],
        data.replace(b'"seed":', b'"seed":1', 1),
        files.read(layout.run_manifest_url(plan.artifacts, other.run_id)),
    ):
        files.write(url, damaged)
        assert run(plan) == ["cached"] * 4
        assert read_run_manifest(plan.artifacts, plan.run_id) == whole
        assert "written again" in caplog.text


def test_a_pointer_to_nothing_is_written_again(plan: Plan) -> None:
    url = layout.pointer_url(plan.artifacts, plan.stages[0].fingerprint)
    data = files.read(url)
    files.write(url, data[:-20])
    assert run(plan) == ["cached"] * 4
    assert files.read(url) == data
