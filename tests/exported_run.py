"""A run with a real export: files of examples with their index, exclusions, and a stored model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.finished_run import publish_run, torn
from tests.training.text.models import store_model
from tuneloop import jsonl
from tuneloop.artifacts import layout
from tuneloop.artifacts.records import OutputFile, Record, publish
from tuneloop.storage import files, paths
from tuneloop.training.export.exclusions import Exclusion
from tuneloop.training.export.files import SUFFIXES, text_writer
from tuneloop.training.export.index import IndexedFile, dump_offsets, index_url

ATTEMPT = "20261122T112233-064c19"
Lines = Sequence[bytes]


def example_line(number: int, prompt: str, response: str, **metadata: Any) -> bytes:
    """Encode a training example of the trace `trace_id(number)`, as the export does."""
    meta = {**metadata, "source_trace_id": trace_id(number)}
    return jsonl.dump_line(
        {"id": f"e{number}", "metadata": meta, "prompt": prompt, "response": response}
    )


def trace_id(number: int) -> str:
    """Return the id of a trace."""
    return f"00000000-0000-4000-8000-{number:012d}"


def publish_export(
    artifacts: str,
    run_id: str,
    shards: Sequence[Lines],
    *,
    validation: Lines = (),
    excluded: Sequence[Exclusion] = (),
    compression: str = "none",
    model: str | None = "small",
) -> None:
    """Write a run whose export stage has finished.

    Args:
        artifacts: folder of the artifacts, with the dataset `letters-v1`.
        run_id: id of the run.
        shards: lines of each file of training examples.
        validation: lines of the file of validation examples.
        excluded: lines of exclusions.jsonl.
        compression: as `export.compression`.
        model: name of the base model, which is stored if it is missing; None for random weights.
    """
    folder = f"training_runs/{run_id}/export/attempts/{ATTEMPT}"
    outputs: list[OutputFile] = []

    def put(name: str, data: bytes, rows: int | None = None) -> None:
        files.write(paths.join(artifacts, folder, name), data)
        digest = hashlib.sha256(data).hexdigest()
        path = f"{folder}/{name}"
        outputs.append(
            OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest, rows=rows)
        )

    def put_examples(name: str, lines: Lines) -> None:
        data = bytearray()
        with text_writer(name, data.extend) as write:
            file = IndexedFile(write)
            file.add_lines(lines)
        put(name, bytes(data), len(lines) or None)
        put(index_url(name), dump_offsets(file.offsets))

    suffix = SUFFIXES[compression]
    for number, lines in enumerate(shards):
        put_examples(f"examples-{number:05d}-of-{len(shards):05d}{suffix}", lines)
    if validation:
        put_examples(f"validation-00000-of-00001{suffix}", validation)
    put("exclusions.jsonl", b"".join(map(jsonl.encode_line, excluded)), len(excluded) or None)
    publish_run(artifacts, "letters-v1", run_id, stages=())
    if model is not None:
        _name_model(artifacts, run_id, model)
    record = Record(
        run_id=run_id,
        stage="export",
        fingerprint=hashlib.sha256(run_id.encode()).hexdigest(),
        attempt=ATTEMPT,
        inputs={},
        outputs=tuple(outputs),
        counts={"examples": sum(map(len, shards)), "excluded": len(excluded), "truncated": 1},
        started_at="2026-11-22T11:20:33+00:00",
        seconds=0.1,
        provenance={},
    )
    publish(record, artifacts)


def _name_model(artifacts: str, run_id: str, name: str) -> None:
    from tuneloop.artifacts.model_manifest import load_model_manifest, model_prefix

    folder = model_prefix(artifacts, name)
    if not files.list_files(folder):
        store_model(artifacts, name)
    manifest = load_model_manifest(folder)
    found = msgspec.json.decode(files.read(layout.run_manifest_url(artifacts, run_id)))
    found["spec"]["train"]["model"] = {"kind": "pretrained", "model": name}
    found["spec"]["system_instruction"] = None
    found["model"] = {"name": name, "family": "llama3", "random_weights": False}
    found["model"]["digest"] = manifest.digest
    torn(artifacts, run_id, "run_manifest.json", found)
