"""Which model a run starts from, and what of it enters the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import TinyRun
from tests.model_manifests import publish_manifest, publish_tuned
from tuneloop.artifacts.model_manifest import load_referenced_model
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.runs.planning.plan import Plan, write_run_manifest
from tuneloop.specs.stages import EvalStage, TrainStage
from tuneloop.storage import files, paths

STORED = {"kind": "pretrained", "model": "small-llama"}


def pretrained(tiny: TinyRun, **model: Any) -> Plan:
    return tiny.change(train__model={"kind": "pretrained", **model}).plan()


def train_stage(plan: Plan) -> TrainStage:
    (stage,) = (each for each in plan.stages if isinstance(each, TrainStage))
    return stage


def fingerprint(plan: Plan) -> str:
    return train_stage(plan).fingerprint


def test_random_weights_need_no_model(tiny_run: TinyRun) -> None:
    plan = tiny_run.plan()
    assert train_stage(plan).model is None
    assert plan.model.random_weights
    assert plan.model.words == "random weights (gemma3); it knows nothing before training"


def test_a_plan_reads_the_manifest_alone(tiny_run: TinyRun) -> None:
    manifest = publish_manifest(tiny_run.artifacts)
    plan = pretrained(tiny_run, model="small-llama")
    ref = train_stage(plan).model
    assert ref is not None
    assert load_referenced_model(ref) == manifest
    (evaluated,) = (each for each in plan.stages if isinstance(each, EvalStage))
    assert evaluated.model == ref
    write_run_manifest(plan)
    written = read_run_manifest(plan.artifacts, plan.run_id)
    assert written is not None
    assert written.model is not None
    assert written.model.words == (
        "small-llama (llama3, 6,464 parameters, bfloat16, licence apache-2.0)"
    )


def test_the_content_of_a_model_is_its_identity_and_its_name_is_not(tiny_run: TinyRun) -> None:
    publish_manifest(tiny_run.artifacts)
    publish_manifest(tiny_run.artifacts, name="copy", place="s3://bucket/llama", source="hub")
    publish_manifest(tiny_run.artifacts, name="other", weights_sha256="0" * 64)
    first = fingerprint(pretrained(tiny_run, model="small-llama"))
    assert fingerprint(pretrained(tiny_run, model="copy")) == first
    assert fingerprint(pretrained(tiny_run, model="other")) != first


def test_the_tokenizer_to_train_does_not_matter_to_a_model_that_has_one(tiny_run: TinyRun) -> None:
    publish_manifest(tiny_run.artifacts)
    first = fingerprint(pretrained(tiny_run, model="small-llama"))
    tiny_run.change(train__tokenizer__vocab_size=512)
    assert fingerprint(pretrained(tiny_run, model="small-llama")) == first


def test_a_run_continues_from_a_tuned_model(tiny_run: TinyRun) -> None:
    manifest = publish_tuned(tiny_run.artifacts, "first-1a2b3c4d", random_weights=True)
    plan = pretrained(tiny_run, run="first-1a2b3c4d")
    ref = train_stage(plan).model
    assert ref is not None
    assert load_referenced_model(ref) == manifest
    assert ref.folder.endswith("training_runs/first-1a2b3c4d/train/attempts/1/model")
    assert plan.model.words.endswith("licence apache-2.0, tuned from random weights)")


def test_a_missing_model_is_one_sentence(tiny_run: TinyRun) -> None:
    with pytest.raises(InputMissing) as caught:
        pretrained(tiny_run, model="none")
    assert str(caught.value) == (
        f"{tiny_run.artifacts}/models/none/manifest.json: missing, expected the manifest of model"
        f" none; add it with `tuneloop models add none URL --artifacts {tiny_run.artifacts}`"
    )


def test_a_model_without_a_tokenizer_cannot_be_trained(tiny_run: TinyRun) -> None:
    publish_manifest(tiny_run.artifacts, tokenizer_sha256=None)
    with pytest.raises(DataError, match="model small-llama: has no tokenizer"):
        pretrained(tiny_run, model="small-llama")


def test_baselines_are_other_models_by_content(tiny_run: TinyRun) -> None:
    publish_manifest(tiny_run.artifacts)
    publish_manifest(tiny_run.artifacts, name="other", weights_sha256="0" * 64)
    publish_tuned(tiny_run.artifacts, "first-1a2b3c4d", weights_sha256="2" * 64)

    def stage(*names: str) -> EvalStage:
        spec = pretrained(tiny_run.change(eval__baselines=[*names]), model="small-llama").stages[2]
        assert isinstance(spec, EvalStage)
        return spec

    plain, found = stage(), stage("other", "first-1a2b3c4d")
    assert [*found.baselines] == ["other", "first-1a2b3c4d"]
    assert plain.fingerprint != found.fingerprint != stage("other").fingerprint
    publish_manifest(tiny_run.artifacts, name="other", weights_sha256="1" * 64)
    assert stage("other", "first-1a2b3c4d").fingerprint != found.fingerprint
    for names, message in {
        ("other", "other"): r"eval\.baselines\.1: other is there twice",
        ("base",): "base is a name of the report",
        ("small-llama",): "small-llama is the model that the run starts from",
    }.items():
        with pytest.raises(SpecError, match=message):
            stage(*names)
    with pytest.raises(InputMissing, match="none: neither a model nor a finished run"):
        stage("none")


def test_a_run_without_a_tuned_model_is_one_sentence(tiny_run: TinyRun) -> None:
    with pytest.raises(InputMissing, match="expected the record of a finished train stage of run"):
        pretrained(tiny_run, run="first-1a2b3c4d")


def test_a_tuned_model_that_was_changed_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    publish_tuned(tiny_run.artifacts, "first-1a2b3c4d")
    (url,) = (u for u in files.list_files(tiny_run.artifacts) if u.endswith("model/manifest.json"))
    path = Path(url.removeprefix("file://"))
    path.write_bytes(path.read_bytes().replace(b"bfloat16", b"float16 "))
    with pytest.raises(DataError, match="was changed after it was recorded"):
        pretrained(tiny_run, run="first-1a2b3c4d")
    path.unlink()
    with pytest.raises(DataError, match="is missing, expected"):
        pretrained(tiny_run, run="first-1a2b3c4d")


@pytest.mark.parametrize("name", ["../x", "A", "a/b", "-a", "a.", ""])
def test_names_cannot_leave_the_artifacts(name: str, tiny_run: TinyRun) -> None:
    with pytest.raises(SpecError, match=r"train.model.model is .*expected a value that matches"):
        pretrained(tiny_run, model=name)
    with pytest.raises(SpecError, match=r"train.model.run is .*"):
        pretrained(tiny_run, run=name + "/")


def test_planning_needs_no_file_of_the_model(tiny_run: TinyRun) -> None:
    publish_manifest(tiny_run.artifacts)
    folder = paths.join(tiny_run.artifacts, "models", "small-llama")
    assert [url.rsplit("/", 1)[-1] for url in files.list_files(folder)] == ["manifest.json"]
    pretrained(tiny_run, model="small-llama")
