from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.builders import (
    TinyRun,
    letter_trace,
    make_tiny_run,
    publish_dataset,
    write_eval_set,
)
from tuneloop import jsonl, provenance
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.runs.cost.kept_steps import kept_steps_of
from tuneloop.runs.planning.plan import Plan, load_plan, stage_state, write_run_manifest
from tuneloop.runs.planning.plan_stages import refuse_credentials
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.stages import EvalSetRef


def fingerprints(plan: Plan) -> dict[str, str]:
    return {stage.stage: stage.fingerprint for stage in plan.stages}


def changed(run: TinyRun, **changes: Any) -> list[str]:
    """Stages whose fingerprint differs after a change of the spec."""
    before = fingerprints(run.plan())
    after = fingerprints(run.change(**changes).plan())
    return [stage for stage in before if before[stage] != after[stage]]


def test_the_same_spec_is_the_same_run(tiny_run: TinyRun) -> None:
    assert tiny_run.plan() == tiny_run.plan()
    assert tiny_run.plan().run_id.startswith("tiny-")


@pytest.mark.parametrize(
    ("field", "url"),
    [
        ("store_url", "http://me:secret@store:8000"),
        ("store_url", "https://secret@store"),
        ("artifacts", "s3://key:secret@bucket/prefix"),
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(
    tiny_run: TinyRun, field: str, url: str
) -> None:
    tiny_run.change(**{f"execution__{field}": url})
    with pytest.raises(SpecError, match=f"execution.{field}: holds a name or password") as caught:
        tiny_run.plan()
    assert "secret@" not in str(caught.value)


def test_azures_containers_are_no_credentials() -> None:
    refuse_credentials("a", "abfs://container@account.dfs.core.windows.net/prefix")


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"export__shard_examples": 7}, ["export", "train", "eval", "import"]),
        ({"train__steps": 13}, ["train", "eval", "import"]),
        ({"train__model__embed_dim": 24}, ["train", "eval", "import"]),
        ({"seed": 2}, ["train", "eval", "import"]),
        ({"system_instruction": "Be brief."}, ["train", "eval", "import"]),
        ({"eval__max_new_tokens": 17}, ["eval", "import"]),
        ({"eval__base_examples": 2}, ["eval", "import"]),
        ({"name": "other"}, []),
        ({"execution__store_url": "http://127.0.0.1:9"}, []),
        ({"execution__checkpoint_every_steps": 1}, []),
        ({"execution__profiler": {"first_step": 2, "last_step": 3}}, []),
        ({"import__batch_traces": 3}, []),  # how it is sent, not what
    ],
)
def test_identity_changes_what_depends_on_it_and_nothing_else(
    changes: dict[str, Any], stages: list[str], tiny_run: TinyRun
) -> None:
    assert changed(tiny_run, **changes) == stages


def test_places_do_not_matter_but_contents_do(tiny_run: TinyRun, tmp_path: Path) -> None:
    before = fingerprints(tiny_run.plan())
    (tmp_path / "elsewhere").mkdir()
    other = make_tiny_run(tmp_path / "elsewhere")
    assert fingerprints(other.plan()) == before
    with (tmp_path / "eval.jsonl").open("a") as file:
        file.write("\n")
    after = fingerprints(tiny_run.plan())
    assert [s for s in before if before[s] != after[s]] == ["eval", "import"]


def test_the_content_of_a_guard_set_matters_to_export_and_eval(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    guard = tmp_path / "guard.jsonl"
    write_eval_set(guard, 3)
    assert changed(tiny_run, eval__guard_set=str(guard)) == ["export", "train", "eval", "import"]
    before = fingerprints(tiny_run.plan())
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "guard.jsonl"
    moved.write_bytes(guard.read_bytes())
    assert changed(tiny_run, eval__guard_set=str(moved)) == []
    write_eval_set(moved, 4)
    assert fingerprints(tiny_run.plan())["export"] != before["export"]
    # Training does not depend on questions that nobody looks for in its examples.
    before = fingerprints(tiny_run.change(export__contamination="off").plan())
    write_eval_set(moved, 5)
    after = fingerprints(tiny_run.plan())
    assert [s for s in before if before[s] != after[s]] == ["eval", "import"]


def test_a_short_form_and_a_list_of_sets_are_the_same_run(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    guard = tmp_path / "guard.jsonl"
    write_eval_set(guard, 3)
    sets: list[dict[str, Any]] = [
        {"url": str(tmp_path / "eval.jsonl")},
        {
            **{"url": str(guard), "weight": "guarded", "scorer": "contains_answer"},
            **{"max_new_tokens": 64, "instruction": False},
        },
    ]
    tiny_run.change(eval__guard_set=str(guard))
    assert changed(tiny_run, eval__eval_set=None, eval__guard_set=None, eval__sets=sets) == []
    sets[1]["name"] = "other"
    assert changed(tiny_run, eval__sets=sets) == ["export", "train", "eval", "import"]
    sets[1] |= {"samples": 2, "temperature": 1.0}
    assert changed(tiny_run, eval__sets=sets) == ["eval", "import"]
    sets[1]["name"] = "eval"
    with pytest.raises(SpecError, match=r"eval\.sets\.0\.url and .*both sets have the name 'eval'"):
        tiny_run.change(eval__sets=sets).plan()
    sets[1] |= {"name": "x", "scorer": {"kind": "none"}}
    with pytest.raises(SpecError, match=r"eval\.sets\.1\.scorer 'none' is unknown"):
        tiny_run.change(eval__sets=sets).plan()


def test_the_content_of_a_scorer_is_identity_and_its_place_is_not(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    scorer, moved = tmp_path / "mine.py", tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    for path in (scorer, moved):
        path.write_text("def score(completion, item): return True\n")
    assert changed(tiny_run, eval__scorer=str(scorer)) == ["eval", "import"]
    assert changed(tiny_run, eval__scorer=str(moved)) == []
    before = fingerprints(tiny_run.plan())
    moved.write_text("def score(completion, item): return False\n")
    assert fingerprints(tiny_run.plan())["eval"] != before["eval"]
    moved.write_text("def sscore(): pass\n")
    with pytest.raises(SpecError, match=r"mine\.py: has no function score"):
        tiny_run.plan()
    with pytest.raises(
        InputMissing, match=r"none\.py: missing, expected a scorer; .* eval\.scorer"
    ):
        tiny_run.change(eval__scorer=str(tmp_path / "none.py")).plan()
    with pytest.raises(DataError, match=r"item letter-0: .*; correct it, or its scorer"):
        tiny_run.change(eval__scorer="numeric").plan()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of the two keys `eval_set` and `sets`"),
        ({"sets": [{"url": "a"}], "eval_set": "b"}, "expected either `sets` or `eval_set`"),
        ({"sets": [{"url": "a"}], "guard_max_new_tokens": 3}, "or `guard_max_new_tokens`"),
        ({"sets": [{"url": "a", "weight": "guarded"}]}, "at least one set with the weight"),
        ({"sets": [{"url": "a", "samples": 2}]}, "expected a temperature above 0"),
        ({"sets": [{"url": "a", "name": "a/b"}]}, "should match pattern"),
        ({"eval_set": "a", "stop_candidate": 2}, "expected stop_early: true with it"),
    ],
)
def test_refused_sets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvalSpec.model_validate(options)


def test_stopping_early_is_identity_and_refuses_several_processes(tiny_run: TinyRun) -> None:
    assert changed(tiny_run, eval__stop_early=False, eval__stop_candidate=1) == []
    assert changed(tiny_run, eval__stop_early=True) == ["eval", "import"]
    cluster = {"namespace": "n", "queue": "q", "eval": {"shard_count": 3}}
    with pytest.raises(SpecError, match=r"shard_count is 3, expected 1 with"):
        tiny_run.change(eval__stop_early=True, execution__cluster=cluster).plan()


def test_kept_steps_are_identity_and_have_a_stated_cost(tiny_run: TinyRun) -> None:
    assert kept_steps_of(tiny_run.plan()) is None
    assert changed(tiny_run, train__keep_checkpoints=[], eval__checkpoints=[]) == []
    assert changed(tiny_run, train__keep_checkpoints=[4, 8]) == ["train", "eval", "import"]
    assert changed(tiny_run, eval__checkpoints="all") == ["eval", "import"]
    cost = kept_steps_of(tiny_run.plan())
    assert cost is not None and cost.resume_bytes == 3 * cost.output_bytes > 0
    assert cost.line.startswith("2 kept checkpoints: about ")
    with pytest.raises(SpecError, match=r"expected steps of train\.keep_checkpoints"):
        tiny_run.change(eval__checkpoints=[5]).plan()
    with pytest.raises(SpecError, match="expected rising steps below the last one"):
        tiny_run.change(eval__checkpoints=[], train__keep_checkpoints=[8, 4]).plan()


def test_a_version_of_a_set_never_changes(tiny_run: TinyRun, tmp_path: Path) -> None:
    data = (tmp_path / "eval.jsonl").read_bytes()

    def state(version: str, content: bytes) -> None:
        header = {"eval_set": {"name": "letters", "version": version}}
        (tmp_path / "eval.jsonl").write_bytes(jsonl.dump_line(header) + content)

    state("1", data)
    before = sorted(Path(tiny_run.artifacts).rglob("*"))
    plan = tiny_run.plan()
    assert [(each.name, each.version, each.items) for each in plan.eval_sets] == [
        *(("letters", "1", 10),)
    ]
    assert sorted(Path(tiny_run.artifacts).rglob("*")) == before  # a plan writes nothing
    write_run_manifest(plan)
    write_run_manifest(tiny_run.plan())
    state("1", data + b"\n")
    with pytest.raises(DataError, match=r"version 1 of the set letters .* another version in its"):
        tiny_run.plan()
    with pytest.raises(DataError, match="version 1 of the set letters"):
        # Another run recorded the version after this one was planned.
        write_run_manifest(replace(plan, eval_sets=(changed_set(plan),)))
    state("2", data + b"\n")
    write_run_manifest(tiny_run.plan())
    recorded = Path(tiny_run.artifacts, "eval_sets", "letters")
    assert sorted(path.name for path in recorded.iterdir()) == ["1.json", "2.json"]
    (recorded / "2.json").write_bytes((recorded / "2.json").read_bytes().replace(b"2", b"3"))
    with pytest.raises(DataError, match=r"2\.json: not the record of an eval set"):
        tiny_run.plan()


def changed_set(plan: Plan) -> EvalSetRef:
    return plan.eval_sets[0].model_copy(update={"sha256": "0" * 64})


def test_another_dataset_changes_everything(tiny_run: TinyRun) -> None:
    before = fingerprints(tiny_run.plan())
    publish_dataset(tiny_run.artifacts, [letter_trace(0)], dataset_version="v2")
    after = fingerprints(tiny_run.change(dataset="letters-v2").plan())
    assert all(before[stage] != after[stage] for stage in before)


def test_the_code_of_a_stage_is_part_of_its_identity(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprints(tiny_run.plan())
    edited = {"tuneloop.stages.train": "other"}
    monkeypatch.setattr(
        provenance, "code_identity", lambda module, lock: edited.get(module, "same")
    )
    first = fingerprints(tiny_run.plan())
    edited["tuneloop.stages.train"] = "edited"
    after = fingerprints(tiny_run.plan())
    assert all(before[stage] != first[stage] for stage in before)
    assert [s for s in first if first[s] != after[s]] == ["train", "eval", "import"]


def test_the_seed_is_the_datasets_unless_given(tiny_run: TinyRun) -> None:
    tiny_run.change(seed=None)
    assert tiny_run.plan().seed == 7  # the dataset's
    spec = load_run_spec(str(tiny_run.spec_path))
    assert load_plan(spec, seed=0).seed == 0
    assert tiny_run.change(seed=0).plan().seed == 0


def test_a_plan_writes_nothing(tiny_run: TinyRun) -> None:
    before = sorted(Path(tiny_run.artifacts).rglob("*"))
    plan = tiny_run.plan()
    assert {stage_state(stage) for stage in plan.stages} == {"to run"}
    assert sorted(Path(tiny_run.artifacts).rglob("*")) == before


def test_what_a_plan_needs_must_be_there(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="put it there, or change"):
        tiny_run.change(eval__eval_set=str(tmp_path / "none.jsonl")).plan()
    tiny_run.change(eval__eval_set=str(tmp_path / "eval.jsonl"))
    with pytest.raises(InputMissing, match=r"expected the guard set; .* change eval\.guard_set"):
        tiny_run.change(eval__guard_set=str(tmp_path / "none.jsonl")).plan()
    with pytest.raises(SpecError, match=r"eval\.guard_scorer 'none' is unknown"):
        tiny_run.change(eval__guard_scorer="none").plan()
    tiny_run.change(eval__guard_set=None, eval__guard_scorer="exact_match")
    with pytest.raises(DataError, match="build the dataset first"):
        tiny_run.change(dataset="none-v1").plan()


def test_planning_a_run_and_writing_its_manifest_reads_the_dataset_once(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = DatasetSource.load_manifest

    def counted(source: DatasetSource, key: str) -> DatasetManifest:
        loaded.append(key)
        return load(source, key)

    monkeypatch.setattr(DatasetSource, "load_manifest", counted)
    planned = tiny_run.plan()
    write_run_manifest(planned)
    assert loaded == ["letters-v1"]
    manifest = read_run_manifest(planned.artifacts, planned.run_id)
    assert manifest is not None and manifest.dataset is not None
    assert manifest.dataset.trace_count == 104
