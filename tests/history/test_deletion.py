"""Deleting a run: what refers to it, what stays, and that it can be interrupted anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.history.random_trees import OLD, RANDOM_RUNS, grow
from tests.history.trees import (
    ATTEMPT,
    fingerprint,
    finish,
    heartbeat,
    name_by_alias,
    put,
    set_age,
    snapshot,
    write_manifest,
    write_run,
)
from tests.model_manifests import make_manifest
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.model_manifest import ModelFile, dump_model_manifest
from tuneloop.errors import DataError, InputMissing, TuneloopError, UsageError
from tuneloop.evaluation.gates.baselines import promote
from tuneloop.history import deletion as module
from tuneloop.history.deletion import check_deletion, delete_run, plan_deletion
from tuneloop.history.inventory import read_inventory
from tuneloop.history.listing import list_runs
from tuneloop.stages.lifecycle import reuse
from tuneloop.storage import files
from tuneloop.storage.objects import delete_objects

NOW = datetime.now(UTC)


def delete(artifacts: str, run_id: str, *, force: bool = False) -> None:
    inventory = read_inventory(artifacts)
    plan = plan_deletion(inventory, run_id)
    check_deletion(inventory, plan, force=force, now=NOW, storage_now=NOW)
    delete_run(inventory, plan)


def test_nothing_is_left_of_a_run_and_other_runs_are_as_before(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(root, "a-1")
    others = snapshot(root)
    write_run(root, "a[1]*")
    put(root, "training_runs/a[1]*/train/resume/checkpoints/5/manifest.json", "datasets/d/m")
    Path(root, "training_runs/a[1]*/import/attempts/empty").mkdir(parents=True)
    list_runs(root, now=NOW)
    others |= {"datasets/d/m", "run_index/a-1.json"}
    delete(root, "a[1]*")
    assert snapshot(root) == others
    assert [run.run_id for run in list_runs(root, now=NOW)] == ["a-1"]
    with pytest.raises(InputMissing, match=r"a\[1\]\*: missing, expected a run"):
        delete(root, "a[1]*")


@pytest.mark.parametrize("run_id", ["..", ".", "never-was", "a-1/train", ""])
def test_only_a_folder_of_a_run_can_be_deleted(tmp_path: Path, run_id: str) -> None:
    root = str(tmp_path)
    write_run(root, "a-1")
    before = snapshot(root)
    with pytest.raises(InputMissing):
        delete(root, run_id, force=True)
    assert snapshot(root) == before


def test_an_adopted_result_stays_and_so_does_the_cache(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(root, "first-1")
    second = write_run(root, "second-2", like={"export": "first-1", "train": "first-1"})
    with pytest.raises(UsageError, match=r"run second-2 has adopted its results of export, train"):
        delete(root, "first-1")
    delete(root, "first-1", force=True)
    for stage in ("export", "train"):
        mark = second.stages[stage]
        record = records.load(root, "second-2", stage, mark)  # which verifies the outputs
        for file in record.outputs:
            assert file.path.startswith("training_runs/first-1/")
            records.read_output(file, root)
        found = records.find_cached(root, mark, stage)
        assert found is not None
        assert found.run_id == "second-2"
    # What nobody has adopted is gone, with its pointer, so that a new run can publish it.
    assert records.find_cached(root, fingerprint("first-1", "eval"), "eval") is None
    third = write_manifest(root, "third-3", like={"eval": "first-1"})
    finish(root, "third-3", "eval", third.stages["eval"])
    cached = records.find_cached(root, third.stages["eval"], "eval")
    assert cached is not None
    assert cached.run_id == "third-3"
    assert {run.run_id: run.state for run in list_runs(root, now=NOW)} == {
        "first-1": "no manifest",
        "second-2": "finished",
        "third-3": "export not started",
    }
    delete(root, "second-2", force=True)
    delete(root, "first-1")  # nothing refers to the files that have stayed any more
    assert not Path(root, "training_runs/first-1").exists()


@pytest.mark.parametrize(
    ("train", "fields", "said"),
    [
        ({"continue_from": "first-1"}, {}, "run other-2 continues its training"),
        ({"model": {"kind": "pretrained", "run": "first-1"}}, {}, "run other-2 starts from"),
        ({"continue_from": "between-3"}, {}, "continues run between-3, which has adopted"),
    ],
)
def test_what_refers_to_a_run(
    tmp_path: Path, train: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    root = str(tmp_path)
    write_run(root, "first-1")
    write_run(root, "between-3", like={"train": "first-1"})
    write_manifest(root, "other-2", train=train, **fields)
    with pytest.raises(UsageError, match=said):
        delete(root, "first-1")
    delete(root, "other-2")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_model_that_was_added_in_place_keeps_its_files(tmp_path: Path, scheme: str) -> None:
    root = str(tmp_path)
    write_run(root, "first-1")
    folder = f"training_runs/first-1/train/attempts/{ATTEMPT}/model"
    file = ModelFile(name="model.safetensors", size_bytes=1, sha256="0" * 64)
    manifest = make_manifest(place=f"{scheme}{root}/{folder}", files=(file,))
    files.write(f"{root}/models/mine/manifest.json", dump_model_manifest(manifest))
    with pytest.raises(UsageError, match="model mine was added in place"):
        delete(root, "first-1")
    delete(root, "first-1", force=True)
    left = {name for name in snapshot(root) if name.startswith("training_runs/")}
    assert left == {f"{folder}/model.safetensors", f"{folder}/manifest.json"}


def test_a_running_stage_is_never_deleted(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(root, "runs-1", ["export"])
    heartbeat(root, "runs-1", "train", NOW)
    with pytest.raises(UsageError, match="stage train is running"):
        delete(root, "runs-1", force=True)
    # The clock of the stage's host is an hour slow; the time of the file is right.
    heartbeat(root, "runs-1", "train", NOW - timedelta(hours=1))
    set_age(root, NOW, 0)
    with pytest.raises(UsageError, match="stage train is running"):
        delete(root, "runs-1", force=True)
    # The clock of the storage is a day slow; the time in the file is right.
    heartbeat(root, "runs-1", "train", NOW)
    set_age(root, NOW, 1)
    with pytest.raises(UsageError, match="stage train is running"):
        delete(root, "runs-1", force=True)
    heartbeat(root, "runs-1", "train", NOW + timedelta(days=300))  # long ago, by a wrong clock
    set_age(root, NOW, 1)
    delete(root, "runs-1")
    assert not any(name.startswith("training_runs") for name in snapshot(root))


def test_a_broken_record_of_the_run_itself_does_not_matter_but_one_of_another_does(
    tmp_path: Path,
) -> None:
    root = str(tmp_path)
    write_run(root, "bad-1")
    write_run(root, "bad-2")
    for run_id in ("bad-1", "bad-2"):
        files.write(layout.record_url(root, run_id, "train"), b"{")
    with pytest.raises(DataError, match=r"bad-2/train/record\.json: .*nothing was deleted"):
        delete(root, "bad-1", force=True)
    files.write(layout.run_manifest_url(root, "bad-1"), b"\x00")
    Path(root, "training_runs/bad-2/train/record.json").unlink()
    delete(root, "bad-1")
    assert not Path(root, "training_runs/bad-1").exists()


class Killed(Exception):
    """Stands for SIGKILL between two requests."""


@pytest.mark.parametrize("calls", range(0, 16, 3))
def test_killed_anywhere_it_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    root = str(tmp_path)
    write_run(root, "keeps-1", like={})
    kept = snapshot(root)
    write_run(root, "goes-2", like={"export": "keeps-1"})
    left = calls

    def one_by_one(prefix: str, names: Any) -> None:
        nonlocal left
        for name in names:
            if not left:
                raise Killed
            left -= 1
            delete_objects(prefix, [name])

    monkeypatch.setattr(module, "delete_objects", one_by_one)
    with pytest.raises(Killed):
        delete(root, "goes-2")
    monkeypatch.undo()
    # Whatever is left, no run adopts half a result, and the run is still in the list.
    for stage in ("export", "train", "eval"):
        found = reuse.find_finished(root, "new-3", stage, fingerprint("goes-2", stage))
        assert found is None or found.run_id == "goes-2"
    assert "goes-2" in {run.run_id for run in list_runs(root, now=NOW)}
    delete(root, "goes-2")
    assert snapshot(root) - {"run_index/keeps-1.json"} == kept


@given(runs=RANDOM_RUNS, chosen=st.integers(0, 4))
def test_what_another_record_names_is_never_deleted(
    tmp_path_factory: pytest.TempPathFactory, runs: list[dict[str, Any]], chosen: int
) -> None:
    root = str(tmp_path_factory.mktemp("tree"))
    grow(root, runs, NOW)
    set_age(root, NOW, OLD)
    run_id = f"run-{chosen % len(runs)}"
    others = [f"run-{number}" for number in range(len(runs)) if f"run-{number}" != run_id]
    before = snapshot(root)
    foreign = {name for name in before if not name.startswith(f"training_runs/{run_id}/")}
    try:
        delete(root, run_id)
    except UsageError:
        assert snapshot(root) == before
        delete(root, run_id, force=True)
    left = snapshot(root)
    assert {name for name in foreign if not name.startswith("stages/")} <= left
    for other in others:
        for stage in ("export", "train", "eval", "import"):
            records.find(root, other, stage)  # which raises DataError if an output is missing
    for name in left:
        if name.startswith("stages/"):
            record = json.loads(Path(root, name).read_bytes())["record"]
            assert record in left
    named = read_inventory(root).named()
    own = {name for name in left if name.startswith(f"training_runs/{run_id}/")}
    assert own <= named


def test_an_error_of_the_storage_leaves_a_run_that_can_be_deleted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    write_run(root, "a-1")
    folder = Path(root, "training_runs/a-1/train/attempts", ATTEMPT)

    def refuse(prefix: str, names: Any) -> None:
        chosen = list(names)
        delete_objects(prefix, [name for name in chosen if ATTEMPT not in name])
        if any(ATTEMPT in name for name in chosen):
            raise TuneloopError("denied")

    monkeypatch.setattr(module, "delete_objects", refuse)
    with pytest.raises(TuneloopError, match="denied"):
        delete(root, "a-1")
    assert folder.exists()
    assert Path(root, "training_runs/a-1/run_manifest.json").exists()
    monkeypatch.undo()
    delete(root, "a-1")
    assert snapshot(root) == set()


def test_a_promoted_run_and_the_baseline_of_the_gate_stay(tmp_path: Path) -> None:
    root = str(tmp_path)
    for run_id in ("old-1", "now-2", "gate-3", "before-4"):
        write_run(root, run_id)
    name_by_alias(root, ("run", "old-1"), ("run", "now-2"))
    for run_id in ("before-4", "gate-3"):
        promote(root, "main", run_id=run_id, digest=run_id)
    for run_id, said in (
        ("now-2", r"alias production names its tuned model \(change 2\); change or delete these"),
        ("old-1", r"alias production has named its tuned model \(change 1\), which a rollback"),
        ("gate-3", "baseline main is this run, with which the gate compares later ones"),
    ):
        with pytest.raises(UsageError, match=said):
            delete(root, run_id)
    delete(root, "before-4")
    delete(root, "now-2", force=True)
    assert set(read_inventory(root).runs) == {"old-1", "gate-3"}


def test_nothing_is_deleted_if_an_alias_or_a_baseline_cannot_be_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    write_run(root, "a-1")
    for name in ("models/production/history/000001.json", "baselines/main/000001.json"):
        files.write(f"{root}/{name}", b"{")
        with pytest.raises(DataError, match=f"{name}: not a .*nothing was deleted"):
            delete(root, "a-1")
        files.delete(f"{root}/{name}")
    delete(root, "a-1")
