"""Build and publish manifests of models without weights, for tests of planning and display."""

from __future__ import annotations

import hashlib
from typing import Any

from tuneloop.artifacts import records
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelFile,
    ModelManifest,
    dump_model_manifest,
    model_prefix,
    weights_digest,
)
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.storage import files, paths

NAMES = ("README.md", "config.json", "model.safetensors", "tokenizer.json")


def make_manifest(**changes: Any) -> ModelManifest:
    """Build the manifest of a small Llama; keyword arguments replace its fields."""
    architecture = Architecture(
        family="llama3",
        num_layers=2,
        embed_dim=16,
        hidden_dim=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=64,
        rope=Rope(theta=10_000.0),
    )
    found = tuple(
        ModelFile(name=name, size_bytes=10, sha256=hashlib.sha256(name.encode()).hexdigest())
        for name in NAMES
    )
    value: dict[str, Any] = {
        "name": "small-llama",
        "architecture": architecture,
        "dtype": "bfloat16",
        "parameters": 6_464,
        "files": found,
        "weights_sha256": weights_digest(
            tuple(each for each in found if each.name.endswith(".safetensors"))
        ),
        "tokenizer_sha256": "1" * 64,
        "chat_template_sha256": "2" * 64,
        "licence": "apache-2.0",
        "source": "hf://org/small-llama",
    }
    return ModelManifest(**{**value, **changes})


def publish_manifest(artifacts: str, **changes: Any) -> ModelManifest:
    """Write the manifest of a stored model, without its files, which planning never reads."""
    manifest = make_manifest(**changes)
    folder = model_prefix(artifacts, manifest.name)
    files.write(paths.join(folder, MANIFEST), dump_model_manifest(manifest))
    return manifest


def publish_tuned(artifacts: str, run_id: str, **changes: Any) -> ModelManifest:
    """Write the record of a train stage whose only output is the tuned model's manifest."""
    manifest = make_manifest(name=run_id, base="small-llama", **changes)
    data = dump_model_manifest(manifest)
    path = f"training_runs/{run_id}/train/attempts/1/model/{MANIFEST}"
    files.write(paths.join(artifacts, path), data)
    output = OutputFile(
        name=f"model/{MANIFEST}",
        path=path,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    record = Record(
        run_id=run_id,
        stage="train",
        fingerprint=hashlib.sha256(run_id.encode()).hexdigest(),
        attempt="1",
        inputs={},
        outputs=(output,),
        counts={},
        started_at="2026-11-27T00:00:00+00:00",
        seconds=1.0,
        provenance={},
    )
    records.publish(record, artifacts)
    return manifest
