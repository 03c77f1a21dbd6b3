from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.model_manifests import make_manifest, publish_manifest
from tuneloop.artifacts.model_manifest import (
    ModelFile,
    dump_model_manifest,
    load_model_manifest,
    load_referenced_model,
    model_prefix,
    parse_model_manifest,
)
from tuneloop.errors import DataError, InputMissing
from tuneloop.specs.stages import ModelRef
from tuneloop.specs.training.architecture import Rope


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = publish_manifest(str(tmp_path))
    assert load_model_manifest(model_prefix(str(tmp_path), "small-llama")) == manifest
    assert [each.name for each in manifest.weight_files] == ["model.safetensors"]
    with pytest.raises(DataError, match=r"has no file vocab.json; add the model again"):
        manifest.file("vocab.json")


def test_a_missing_or_torn_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"manifest.json: missing, expected a model's manifest"):
        load_model_manifest(str(tmp_path))
    with pytest.raises(DataError, match=r"m.json: .*; add or train the model again"):
        parse_model_manifest(dump_model_manifest(make_manifest())[:-20], "m.json")


def _with_file(name: str) -> dict[str, Any]:
    found = tuple(each for each in make_manifest().files if each.name != name)
    return {"files": (*found, ModelFile(name=name, size_bytes=10, sha256="f" * 64))}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"place": "s3://bucket/elsewhere"},
        {"licence": None},
        {"source": "gguf"},
        {"base": "other"},
        _with_file("README.md"),
        _with_file("LICENSE"),
    ],
)
def test_names_places_and_documents_do_not_change_the_digest(changes: dict[str, Any]) -> None:
    assert make_manifest(**changes).digest == make_manifest().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"weights_sha256": "0" * 64},
        {"tokenizer_sha256": "0" * 64},
        {"chat_template_sha256": None},
        {"dtype": "float32"},
        {"architecture": make_manifest().architecture.model_copy(update={"rope": Rope(theta=5e5)})},
        _with_file("generation_config.json"),
        _with_file("config.json"),
    ],
)
def test_what_determines_the_answers_changes_the_digest(changes: dict[str, Any]) -> None:
    assert make_manifest(**changes).digest != make_manifest().digest


def test_a_stage_refuses_a_model_that_was_changed_after_planning(tmp_path: Path) -> None:
    artifacts, manifest = str(tmp_path), publish_manifest(str(tmp_path))
    ref = ModelRef(
        name="small-llama", folder=model_prefix(artifacts, "small-llama"), digest=manifest.digest
    )
    assert load_referenced_model(ref) == manifest
    publish_manifest(artifacts, weights_sha256="0" * 64)
    with pytest.raises(DataError, match="was changed after the run was planned; plan the run"):
        load_referenced_model(ref)
