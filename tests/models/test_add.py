"""Adding models: what is stored, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.models.checkpoints import (
    TEMPLATE,
    change_json,
    change_tensors,
    copy_checkpoint,
)
from tests.models.fake_hub import COMMIT, running_hub
from tuneloop.artifacts.model_manifest import ModelManifest, load_model_manifest, model_prefix
from tuneloop.errors import DataError, InputMissing, SpecError, TuneloopError, UsageError
from tuneloop.models.add import Request, add_model
from tuneloop.models.stored import list_models, verify_files
from tuneloop.runs.planning.base_model import find_stored_model
from tuneloop.storage import files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copy_checkpoint(tmp_path / "source")


@pytest.fixture
def artifacts(tmp_path: Path) -> str:
    return str(tmp_path / "artifacts")


def add(source: object, artifacts: str, name: str = "tiny", **options: Any) -> ModelManifest:
    return add_model(Request(name, str(source), artifacts, **options))


def problems(artifacts: str, name: str = "tiny") -> list[str]:
    folder = model_prefix(artifacts, name)
    return list(verify_files(load_model_manifest(folder), folder, lambda done, total: None))


def test_a_folder_is_stored_with_its_manifest(source: Path, artifacts: str) -> None:
    (source / "pytorch_model.bin").write_bytes(b"another format")
    (source / "onnx").mkdir()
    (source / "onnx" / "model.onnx").write_bytes(b"another runtime")
    manifest = add(source, artifacts)
    folder = Path(model_prefix(artifacts, "tiny"))
    names = [file.name for file in manifest.files]
    assert names == [
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "manifest.json"])
    assert load_model_manifest(str(folder)) == manifest
    assert (manifest.architecture.family, manifest.parameters) == ("llama3", 176_576)
    assert (manifest.dtype, manifest.licence) == ("float32", "apache-2.0")
    assert (manifest.source, manifest.place) == (str(source), None)
    assert manifest.chat_template_sha256 == hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert problems(artifacts) == []
    assert find_stored_model("tiny", artifacts).manifest == manifest


def test_adding_the_same_content_again_succeeds(source: Path, artifacts: str) -> None:
    first = add(source, artifacts)
    moved = source.rename(source.with_name("moved"))
    assert add(moved, artifacts) == first  # the first source is kept
    with pytest.raises(UsageError, match=r"is stored already with its files at .*choose another"):
        add(moved, artifacts, in_place=True)
    with pytest.raises(UsageError, match=r"is stored already with the licence apache-2.0"):
        add(moved, artifacts, licence="mit")


def test_other_content_of_the_same_name_is_refused_and_nothing_is_touched(
    source: Path, artifacts: str
) -> None:
    first = add(source, artifacts)
    change_tensors(source, model__norm__weight=np.full(64, 2, np.float32))
    with pytest.raises(UsageError, match="is stored already with other content, added from"):
        add(source, artifacts)
    assert load_model_manifest(model_prefix(artifacts, "tiny")) == first
    assert problems(artifacts) == []


def test_adding_again_restores_files_that_are_gone(source: Path, artifacts: str) -> None:
    add(source, artifacts)
    folder = Path(model_prefix(artifacts, "tiny"))
    (folder / "tokenizer.json").unlink()
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert len(problems(artifacts)) == 2
    add(source, artifacts)
    assert problems(artifacts) == []


def test_files_can_stay_where_they_are(source: Path, artifacts: str) -> None:
    manifest = add(source, artifacts, in_place=True, licence="mit")
    assert (manifest.place, manifest.licence) == (str(source), "mit")
    folder = Path(model_prefix(artifacts, "tiny"))
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert problems(artifacts) == []
    assert manifest.digest == add(source, artifacts, name="copy").digest


def test_links_as_in_the_hubs_cache_are_followed(source: Path, artifacts: str) -> None:
    blobs = source.rename(source.with_name("blobs"))
    source.mkdir()
    for path in blobs.iterdir():
        (source / path.name).symlink_to(Path("..") / "blobs" / path.name)
    add(source, artifacts)
    assert problems(artifacts) == []
    assert not (Path(model_prefix(artifacts, "tiny")) / "config.json").is_symlink()


def test_any_store_can_be_source_and_target(source: Path) -> None:
    for path in source.iterdir():
        files.write(f"memory://models-source/{path.name}", path.read_bytes())
    manifest = add("memory://models-source", "memory://models-target")
    assert manifest.source == "memory://models-source"
    assert problems("memory://models-target") == []


def test_a_repository_of_the_hub_is_stored_at_its_commit(
    source: Path, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub(monkeypatch) as hub:
        hub.files = {path.name: path.read_bytes() for path in source.iterdir()}
        hub.files["onnx/model.onnx"] = b"another runtime"
        with pytest.raises(UsageError, match="--in-place: org/tiny is on the hub"):
            add("org/tiny", artifacts, in_place=True)
        manifest = add("org/tiny", artifacts)
    assert manifest.source == f"hf://org/tiny@{COMMIT}"
    assert problems(artifacts) == []
    assert manifest.digest == add(source, artifacts, name="local").digest


KILLED = """
import os, signal, sys
from tuneloop.models.add import Request, add_model
add_model(Request("tiny", *sys.argv[1:]), lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_kill_leaves_an_unfinished_model_that_can_be_added_again(
    source: Path, artifacts: str
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(source), artifacts], check=False)
    assert done.returncode == -9
    (listed,) = list_models(artifacts)
    assert listed.manifest is None
    assert listed.problem == "unfinished, has no manifest.json; add it again"
    with pytest.raises(InputMissing, match="tuneloop models add tiny URL"):
        find_stored_model("tiny", artifacts)
    change_json(source / "generation_config.json", max_length=7)
    add(source, artifacts)
    assert problems(artifacts) == []


Break = Callable[[Path], object]


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 4)


def _forget_shard(folder: Path) -> None:
    shutil.rmtree(folder)
    copy_checkpoint(folder, "gemma3_sharded")
    (folder / "model-00003-of-00007.safetensors").unlink()


def _replace_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder)
    copy_checkpoint(folder, tokens=513)


def _only_pytorch(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN: dict[str, tuple[Break, str]] = {
    "missing tensor": (
        lambda folder: change_tensors(folder, model__norm__weight=None),
        r"model.norm.weight \(64,\) is missing",
    ),
    "extra tensor": (
        lambda folder: change_tensors(folder, model__extra=np.zeros(3, np.float32)),
        r"model.extra \(3,\) in .*source/model.safetensors is unknown",
    ),
    "misshapen tensor": (
        lambda folder: change_tensors(folder, model__norm__weight=np.zeros(63, np.float32)),
        r"model.norm.weight is \(63,\) in .*source/model.safetensors, expected \(64,\)",
    ),
    "wrong vocabulary": (
        lambda folder: change_json(folder / "config.json", vocab_size=500),
        r"model.embed_tokens.weight is \(512, 64\) in .*, expected \(500, 64\)",
    ),
    "quantized": (
        lambda folder: change_tensors(folder, model__norm__weight=np.zeros(64, np.int8)),
        "tensor model.norm.weight has dtype I8, which tuneloop does not support",
    ),
    "torn weights": (_truncate, "source/model.safetensors: is torn"),
    "missing shard": (_forget_shard, "names model-00003-of-00007.safetensors, which is missing"),
    "pytorch only": (_only_pytorch, r"found pytorch_model.bin and no safetensors file"),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"source: config.json is missing, expected a folder in Hugging Face layout",
    ),
    "unknown family": (
        lambda folder: change_json(folder / "config.json", model_type="mamba"),
        "config.json: model_type is 'mamba', expected one of",
    ),
    "broken config": (
        lambda folder: (folder / "config.json").write_bytes(b"{"),
        r"source/config.json: broken JSON",
    ),
    "broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_bytes(b"{}"),
        r"source/tokenizer.json",
    ),
    "another model's tokenizer": (
        _replace_tokenizer,
        r"tokenizer.json: has ids up to 512, but the embedding has 512 rows",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_never_gets_a_manifest(case: str, source: Path, artifacts: str) -> None:
    damage, message = BROKEN[case]
    damage(source)
    with pytest.raises(DataError, match=message) as caught:
        add(source, artifacts)
    assert "\n" not in str(caught.value)
    assert list_models(artifacts) == []


def test_mixed_dtypes_are_taken(source: Path, artifacts: str) -> None:
    change_tensors(source, model__norm__weight=np.ones(64, ml_dtypes.bfloat16))
    assert add(source, artifacts).dtype == "float32"


def test_added_tokens_may_lie_beyond_the_embedding(source: Path, artifacts: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_special_tokens(["<image_soft_token>"])
    (source / "tokenizer.json").write_text(tokenizer.to_str())
    add(source, artifacts)


@pytest.mark.parametrize(
    ("name", "url", "kind", "message"),
    [
        ("Tiny", "source", UsageError, "model name 'Tiny': expected up to 63 lower-case letters"),
        ("a/b", "source", UsageError, "model name 'a/b'"),
        ("tiny", "nothing", InputMissing, "nothing: found no files, expected a folder"),
        ("tiny", "source/config.json", DataError, "is a file, expected a folder"),
        ("tiny", "s3://key:secret@bucket/x", SpecError, "holds a password before the @"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    name: str,
    url: str,
    kind: type[TuneloopError],
    message: str,
    source: Path,
    artifacts: str,
) -> None:
    with pytest.raises(kind) as caught:
        add(url if "://" in url else source.parent / url, artifacts, name=name)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
