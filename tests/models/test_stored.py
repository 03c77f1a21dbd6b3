from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_manifests import make_manifest
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelFile,
    ModelManifest,
    dump_model_manifest,
    weights_digest,
)
from tuneloop.models.describe import tokenizer_digest
from tuneloop.models.stored import list_models, verify_files
from tuneloop.storage import files

CONTENTS = {"config.json": b"{}", "model.safetensors": b"w" * 100, "tokenizer.json": b"{}\n"}


def store(folder: Path, **changes: object) -> ModelManifest:
    folder.mkdir(parents=True)
    found = []
    for name, data in CONTENTS.items():
        with files.Writer(str(folder / name)) as writer:
            writer.write(data)
            written = writer.close()
        found.append(ModelFile(name=name, size_bytes=written.size_bytes, sha256=written.sha256))
    values = {
        "files": tuple(found),
        "weights_sha256": weights_digest(tuple(found[1:2])),
        "tokenizer_sha256": tokenizer_digest(CONTENTS),
        **changes,
    }
    manifest = make_manifest(**values)
    (folder / MANIFEST).write_bytes(dump_model_manifest(manifest))
    return manifest


def problems(manifest: ModelManifest, folder: Path) -> list[str]:
    calls: list[tuple[int, int]] = []
    found = list(verify_files(manifest, str(folder), lambda *call: calls.append(call)))
    assert all(total == 105 for _, total in calls)
    if not found:
        assert calls[-1] == (105, 105)
    return found


def test_a_whole_model_has_no_problems(tmp_path: Path) -> None:
    assert problems(store(tmp_path / "m"), tmp_path / "m") == []


def test_files_at_another_place_are_read_there(tmp_path: Path) -> None:
    manifest = store(tmp_path / "m", place=str(tmp_path / "m"))
    assert problems(manifest, tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "is missing, but a record names it"),
        (b"w" * 99, "holds 99 bytes, expected 100"),
        (b"v" * 100, "sha256 is "),
    ],
)
def test_every_damaged_file_is_named(data: bytes | None, message: str, tmp_path: Path) -> None:
    manifest = store(tmp_path / "m")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "m" / name).unlink()
    if data is not None:
        (tmp_path / "m" / "model.safetensors").write_bytes(data)
    config, weights = problems(manifest, tmp_path / "m")
    assert config.startswith(str(tmp_path / "m" / "config.json"))
    assert weights.startswith(str(tmp_path / "m" / "model.safetensors"))
    assert message in weights


@pytest.mark.parametrize("field", ["weights_sha256", "tokenizer_sha256"])
def test_a_manifest_that_contradicts_itself(field: str, tmp_path: Path) -> None:
    manifest = store(tmp_path / "m", **{field: "0" * 64})
    (problem,) = problems(manifest, tmp_path / "m")
    assert f"{field} is not the digest of the" in problem


def test_unfinished_and_broken_models_are_listed(tmp_path: Path) -> None:
    assert list_models(str(tmp_path)) == []
    store(tmp_path / "models" / "good")
    (tmp_path / "models" / "begun").mkdir()
    (tmp_path / "models" / "torn").mkdir()
    (tmp_path / "models" / "torn" / MANIFEST).write_text("{")
    begun, good, torn = list_models(str(tmp_path))
    assert begun.name == "begun"
    assert begun.problem == "unfinished, has no manifest.json; add it again"
    assert good.manifest is not None
    assert "; add or train the model again" in torn.problem
