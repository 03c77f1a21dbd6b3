"""What is garbage, and what never is."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.history.random_trees import OLD, RANDOM_RUNS, grow
from tests.history.trees import (
    ATTEMPT,
    finish,
    heartbeat,
    name_by_alias,
    put,
    set_age,
    snapshot,
    write_manifest,
    write_output,
    write_run,
)
from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.rounds.store import RoundsManifest, RoundsMember, save_rounds
from tuneloop.artifacts.runs.triggers import Start, publish_start
from tuneloop.artifacts.sweeps.store import Member, SweepManifest, save_sweep
from tuneloop.errors import DataError
from tuneloop.history.garbage import KINDS, SAFE_KINDS, find_garbage, run_gc
from tuneloop.history.inventory import Inventory, read_inventory
from tuneloop.history.references import references_to
from tuneloop.history.usage import measure
from tuneloop.storage import files
from tuneloop.storage.objects import StoredObject
from tuneloop.storage.sealed import sealed

NOW = datetime.now(UTC)


def found(artifacts: str, *kinds: str, days: float = 14) -> list[str]:
    kinds = kinds or tuple(KINDS)
    inventory = read_inventory(artifacts)
    return [each.path for each in find_garbage(inventory, now=NOW, days=days, kinds=kinds)]


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    """A finished run with everything that a run leaves, all of it old."""
    root = str(tmp_path)
    write_run(root, "done-1")
    put(root, "datasets/letters-v1/manifest.json", "datasets/unused-v1/manifest.json")
    put(root, "training_runs/done-1/train/resume/checkpoints/50/manifest.json")
    put(root, "training_runs/done-1/train/attempts/killed/model/model.safetensors")
    put(root, "tokens/abc/manifest.json", "tokens/abc/attempts/a/ids.u32")
    put(root, "jax_cache/module", "compiled/f.json", "models/half/model.safetensors")
    put(root, "stages/broken.json")
    files.write(f"{root}/stages/gone.json", b'{"record": "training_runs/gone/x/record.json"}')
    set_age(root, NOW, OLD)
    return root


def test_every_kind(artifacts: str) -> None:
    assert found(artifacts) == [
        "training_runs/done-1/train/attempts/killed",
        "training_runs/done-1/train/resume",
        "tokens/abc",
        "stages/broken.json",
        "stages/gone.json",
        "datasets/unused-v1",
        "models/half",
    ]
    before = snapshot(artifacts)
    deleted = run_gc(artifacts, now=NOW, days=14, kinds=KINDS)
    after = snapshot(artifacts)
    assert before - after == {each.name for garbage in deleted for each in garbage.objects}
    assert not Path(artifacts, "training_runs/done-1/train/resume").exists()
    assert not Path(artifacts, "tokens").exists()
    assert found(artifacts) == []
    assert run_gc(artifacts, now=NOW, days=14, kinds=KINDS) == []


def test_nothing_is_garbage_before_it_is_old(artifacts: str) -> None:
    assert found(artifacts, days=OLD + 1) == []
    set_age(artifacts, NOW, -3)  # a clock that is three days ahead
    assert found(artifacts, days=0) == []
    set_age(artifacts, NOW, 0.02)
    assert found(artifacts, days=0) == []  # half an hour is less than the least age


def test_a_clock_that_is_ahead_deletes_nothing(artifacts: str) -> None:
    """The machine's clock says that everything is old; the storage's says that it is new."""
    set_age(artifacts, datetime.now(UTC), 1)
    before = snapshot(artifacts)
    assert run_gc(artifacts, now=NOW + timedelta(days=1000), days=14, kinds=KINDS) == []
    assert snapshot(artifacts) == before


def test_an_unknown_time_is_not_old(artifacts: str) -> None:
    inventory = read_inventory(artifacts)
    timeless = tuple(replace(each, modified=None) for each in inventory.objects)
    unknown = replace(inventory, objects=timeless)
    assert find_garbage(unknown, now=NOW, days=1, kinds=KINDS) == []


@pytest.mark.parametrize("name", ["progress.json", "log.txt", "resume/checkpoints/51/m", "lock"])
def test_a_stage_that_works_keeps_its_attempts(artifacts: str, name: str) -> None:
    """One new object of the stage is enough, whatever the age of the attempt's files."""
    write_manifest(artifacts, "works-1")
    put(artifacts, f"training_runs/works-1/train/attempts/{ATTEMPT}/model/model.safetensors")
    set_age(artifacts, NOW, OLD)
    attempt = f"training_runs/works-1/train/attempts/{ATTEMPT}"
    assert attempt in found(artifacts)
    put(artifacts, f"training_runs/works-1/train/{name}")
    assert attempt not in found(artifacts)
    assert "tokens/abc" not in found(artifacts)  # it may read them
    set_age(artifacts, NOW, OLD)
    heartbeat(artifacts, "works-1", "eval", NOW)
    assert attempt in found(artifacts)


def test_kept_answers_are_garbage_if_no_record_names_them(artifacts: str) -> None:
    put(artifacts, "eval_answers/k1.jsonl", "eval_answers/k2.jsonl", "eval_sets/sums/1.json")
    inputs = {f"{records.KEPT_INPUT}base, sums": "k1", "eval_set sums": "k2"}
    write_manifest(artifacts, "asks-1")
    finish(artifacts, "asks-1", "eval", "f" * 64, inputs=inputs)
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "answers") == ["eval_answers/k2.jsonl"]
    set_age(artifacts, NOW, 1)
    assert found(artifacts, "answers") == []


def test_a_model_that_a_run_asks_as_a_baseline_is_needed(artifacts: str) -> None:
    assert found(artifacts, "models") == ["models/half"]
    made = write_manifest(artifacts, "asks-1", train={})
    changed = made.model_copy(
        update={"spec": {**made.spec, "eval": {"baselines": ["half", "done-1"]}}}
    )
    url = layout.run_manifest_url(artifacts, "asks-1")
    files.write(url, jsonl.dump_line(sealed(changed.model_dump(mode="json"))))
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "models") == []
    (reference,) = references_to(read_inventory(artifacts), "done-1")
    assert reference.sentence == "run asks-1 asks its tuned model as a baseline"


def test_tokens_stay_while_a_run_is_young(artifacts: str) -> None:
    write_run(artifacts, "young-1", ["export"])
    set_age(artifacts, NOW, OLD, snapshot(artifacts) - {"training_runs/young-1/run_manifest.json"})
    assert found(artifacts, "tokens") == []
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "tokens") == ["tokens/abc"]


def test_shards_name_the_files_of_an_unfinished_stage(artifacts: str) -> None:
    write_manifest(artifacts, "shards-1")
    output = write_output(artifacts, "shards-1", "export", "examples-00000-of-00002.jsonl")
    record = json.loads(files.read(layout.record_url(artifacts, "done-1", "export")))
    del record["seal"]
    record |= {"run_id": "shards-1", "part": "00000-of-00002"}
    record["outputs"] = [output.model_dump()]
    url = layout.record_url(artifacts, "shards-1", "export", "00000-of-00002")
    files.write(url, json.dumps(record).encode())
    set_age(artifacts, NOW, OLD)
    assert not any("shards-1" in path for path in found(artifacts))


def test_checkpoints_stay_if_a_run_continues_from_them(artifacts: str) -> None:
    resume = "training_runs/done-1/train/resume"
    write_manifest(artifacts, "more-1", train={"continue_from": "done-1"})
    set_age(artifacts, NOW, OLD)
    assert resume not in found(artifacts)


def test_checkpoints_stay_if_a_run_continues_from_an_adopted_training(artifacts: str) -> None:
    """The run that is continued has no checkpoints of its own; those of the trainer are read."""
    write_run(artifacts, "adopts-1", like={"train": "done-1"})
    write_manifest(artifacts, "more-1", train={"continue_from": "adopts-1"})
    set_age(artifacts, NOW, OLD)
    assert "training_runs/done-1/train/resume" not in found(artifacts)


def test_checkpoints_of_an_unfinished_run_stay(artifacts: str) -> None:
    write_run(artifacts, "half-1", ["export", "train"])
    put(artifacts, "training_runs/half-1/train/resume/checkpoints/50/manifest.json")
    set_age(artifacts, NOW, OLD)
    assert "training_runs/half-1/train/resume" not in found(artifacts)


def test_the_datasets_of_a_trigger_stay(artifacts: str) -> None:
    put(artifacts, "datasets/pattern-v1/manifest.json", "datasets/pattern-a-1/manifest.json")
    start = Start(
        trigger="a",
        number=1,
        position="p",
        new_traces=2,
        pattern="pattern-v1",
        dataset_key="pattern-a-1",
        at="2026-11-28T22:40:00+00:00",
    )
    assert publish_start(start, artifacts)
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "datasets") == ["datasets/unused-v1"]


def test_an_alias_and_its_models_stay(artifacts: str) -> None:
    for name in ("now", "before", "unused"):
        put(artifacts, f"models/{name}/model.safetensors")
    name_by_alias(artifacts, ("stored", "before"), ("stored", "now"))
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "models") == ["models/half", "models/unused"]


@pytest.mark.parametrize(
    "train",
    [{"model": {"kind": "pretrained", "model": "half"}}, {"model": {"kind": "pretrained"}}],
)
def test_a_model_that_a_run_names_stays(artifacts: str, train: dict[str, Any]) -> None:
    model = {"name": "half", "family": "gemma3", "random_weights": False}
    fields: dict[str, Any] = {} if "model" in train["model"] else {"model": model}
    write_manifest(artifacts, "uses-1", train=train, **fields)
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "models") == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("training_runs/done-1/train/record.json", b"{"),
        ("training_runs/done-1/run_manifest.json", b"\xef\xbb\xbf"),
        ("training_runs/other-1/export/record.json", None),
        ("models/m/manifest.json", b"[]"),
    ],
)
def test_what_cannot_be_read_may_name_anything(
    artifacts: str, name: str, data: bytes | None
) -> None:
    if data is None:  # another run's record, and no manifest
        data = files.read(layout.record_url(artifacts, "done-1", "export"))
    files.write(f"{artifacts}/{name}", data)
    before = snapshot(artifacts)
    with pytest.raises(DataError, match=f"{name.split('/')[1]}.*nothing was deleted"):
        run_gc(artifacts, now=NOW, days=1, kinds=KINDS)
    assert snapshot(artifacts) == before


def write_rounds(artifacts: str, rounds_id: str, *run_ids: str) -> None:
    members = tuple(
        RoundsMember(seed=0, round=number, role="selected", run_id=run_id)
        for number, run_id in enumerate(run_ids, start=1)
    )
    value = {"settings": {}, "spec": {}, "seeds": (0,), "count": 2, "arms": ("selected",)}
    save_rounds(RoundsManifest(rounds_id=rounds_id, members=members, **value), artifacts)
    put(artifacts, f"rounds/{rounds_id}/report.md", f"rounds/{rounds_id}/seed-0/ended.json")


def test_rounds_stay_as_long_as_one_of_their_runs(artifacts: str) -> None:
    write_rounds(artifacts, "a-rounds-00000001", "gone-1", "done-1")
    write_rounds(artifacts, "b-rounds-00000002", "gone-1", "gone-2")
    put(artifacts, "rounds/c-rounds-00000003/report.md")
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "rounds") == ["rounds/b-rounds-00000002", "rounds/c-rounds-00000003"]
    deleted = run_gc(artifacts, now=NOW, days=14, kinds=SAFE_KINDS)
    assert not any("rounds/" in each.path for each in deleted), "only on request"
    usage = measure(read_inventory(artifacts).objects)
    assert set(usage.by_run["a-rounds-00000001"]) == {"rounds"}
    (reference,) = references_to(read_inventory(artifacts), "done-1")
    assert reference.sentence == "rounds a-rounds-00000001 compare it with other runs"
    files.write(f"{artifacts}/rounds/a-rounds-00000001/rounds.json", b'{"members": [')
    with pytest.raises(DataError, match=r"a-rounds-00000001/rounds.json.*nothing was deleted"):
        run_gc(artifacts, now=NOW, days=1, kinds=KINDS)


def write_sweep(artifacts: str, sweep_id: str, *run_ids: str) -> None:
    members = [
        Member(number=number, label="é", values={}, run_id=run_id, chips={})
        for number, run_id in enumerate(run_ids, start=1)
    ]
    save_sweep(SweepManifest(sweep_id=sweep_id, settings={}, members=members), artifacts)
    put(artifacts, f"sweeps/{sweep_id}/report.md", f"sweeps/{sweep_id}/members/x.json")


def test_a_sweep_stays_as_long_as_one_of_its_runs(artifacts: str) -> None:
    write_sweep(artifacts, "a-sweep-00000001", "gone-1", "done-1")
    write_sweep(artifacts, "b-sweep-00000002", "gone-1", "gone-2")
    put(artifacts, "sweeps/c-sweep-00000003/report.md")
    put(artifacts, "run_index/done-1.json", "run_index/gone-1.json")
    assert found(artifacts, "sweeps") == [], "they are new"
    set_age(artifacts, NOW, OLD)
    assert found(artifacts, "sweeps") == ["sweeps/b-sweep-00000002", "sweeps/c-sweep-00000003"]
    assert found(artifacts, *SAFE_KINDS)[-1] == "run_index/gone-1.json"
    deleted = run_gc(artifacts, now=NOW, days=14, kinds=SAFE_KINDS)
    assert not any("sweeps/" in each.path for each in deleted), "only on request"
    run_gc(artifacts, now=NOW, days=14, kinds=["sweeps"])
    left = {name for name in snapshot(artifacts) if name.startswith(("sweeps/", "run_index/"))}
    assert {name.split("/")[1] for name in left} == {"a-sweep-00000001", "done-1.json"}
    usage = measure(read_inventory(artifacts).objects)
    assert usage.by_kind["sweeps"][1] == 3
    assert set(usage.by_run["a-sweep-00000001"]) == {"sweeps"}
    assert usage.by_run["done-1"]["records and logs"] > 0
    (reference,) = references_to(read_inventory(artifacts), "done-1")
    assert reference.sentence == "sweep a-sweep-00000001 compares it with other runs"
    files.write(f"{artifacts}/sweeps/a-sweep-00000001/sweep.json", b'{"members": [')
    with pytest.raises(DataError, match=r"a-sweep-00000001/sweep.json.*nothing was deleted"):
        run_gc(artifacts, now=NOW, days=1, kinds=KINDS)


def needed(inventory: Inventory) -> set[str]:
    """Everything that must stay, determined without the code under test."""
    kept = set()
    for run in inventory.runs.values():
        for record in run.records:
            kept |= {file.path for file in record.outputs}
        kept |= {
            name
            for name in inventory.names
            if name.endswith(("record.json", "run_manifest.json", "progress.json"))
        }
        earlier = (run.manifest.spec["train"] if run.manifest else {}).get("continue_from")
        if earlier in inventory.runs:
            holders = {earlier}
            for record in inventory.runs[earlier].records:
                if record.stage == "train":
                    holders |= {file.path.split("/")[1] for file in record.outputs}
            for name in inventory.names:
                if "/train/resume/" in name and name.split("/")[1] in holders:
                    kept.add(name)
    return kept


def young(objects: tuple[StoredObject, ...]) -> set[str]:
    return {
        each.name
        for each in objects
        if each.modified is None or each.modified > NOW - timedelta(days=14)
    }


@given(runs=RANDOM_RUNS)
def test_what_a_record_names_is_never_deleted(
    tmp_path_factory: pytest.TempPathFactory, runs: list[dict[str, Any]]
) -> None:
    root = str(tmp_path_factory.mktemp("tree"))
    grow(root, runs, NOW)
    write_sweep(root, "known-sweep-1", "gone", f"run-{len(runs) - 1}")
    write_sweep(root, "lost-sweep-1", "gone")
    set_age(root, NOW, OLD, [name for name in snapshot(root) if name.startswith("sweeps/")])
    inventory = read_inventory(root)
    must_stay = (needed(inventory) | young(inventory.objects)) & inventory.names
    must_stay |= {name for name in inventory.names if name.startswith("sweeps/known")}
    deleted = run_gc(root, now=NOW, days=14, kinds=KINDS)
    left = snapshot(root)
    assert must_stay <= left
    assert not any(name.startswith("sweeps/lost") for name in left)
    assert inventory.names - left == {each.name for garbage in deleted for each in garbage.objects}
