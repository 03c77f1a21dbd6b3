"""Create a finished run without training: the files that the stages write, by the same modules."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

from tests.evaluation.samples import judged
from tuneloop import jsonl
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.evaluation.delta_report import Context, dump_report
from tuneloop.artifacts.evaluation.eval_samples import (
    EvalSamples,
    EvalSet,
    Item,
    Model,
    Sample,
    State,
    dump_samples,
)
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.datasets.read import load_manifest
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.markdown import render_markdown
from tuneloop.stages.pipelines import TRAINING_STAGES
from tuneloop.storage import files, paths

COUNTS: dict[str, dict[str, int]] = {
    "export": {"traces": 104, "examples": 104, "shards": 1},
    "train": {"examples": 104, "steps": 50, "tokens": 57_460, "parameters": 7520},
    "eval": {"items": 36, "base_correct": 2, "tuned_correct": 27, "regressions": 1},
    "import": {"traces": 72},
}
RANDOM_WEIGHTS: dict[str, Any] = {"name": None, "family": "gemma3", "random_weights": True}
TUNED_DIGEST = "7c" * 32
"""Digest of the tuned model that the report names, unless a test gives another."""
SECONDS = {"export": 0.049, "train": 200.4, "eval": 17.953, "import": 0.664}


def publish_run(
    artifacts: str,
    dataset_key: str,
    run_id: str = "letters-7c1aa298",
    *,
    stages: Iterable[str] = TRAINING_STAGES,
    metrics: bytes | None = None,
    model: dict[str, Any] | None = RANDOM_WEIGHTS,
    tuned_digest: str = TUNED_DIGEST,
) -> None:
    """Write a run with the records of some stages."""
    manifest = load_manifest(artifacts, dataset_key)
    fingerprints = {
        name: hashlib.sha256(f"{run_id}/{name}".encode()).hexdigest() for name in TRAINING_STAGES
    }
    value = {
        "schema_version": "1",
        "run_id": run_id,
        "spec": {
            "name": "letters",
            "dataset": dataset_key,
            "train": {"steps": 50, "batch_size": 64, "optimizer": {"learning_rate": 0.02}},
            "eval": {
                "eval_set": f"{artifacts}/letters_v1.jsonl",
                "guard_set": f"{artifacts}/general_v1.jsonl",
                "sets": [{"url": f"{artifacts}/more_v1.jsonl", "weight": "required"}],
                "batch_size": 8,
            },
            "execution": {"artifacts": artifacts},
        },
        "seed": 3,
        "recipe": manifest.recipe,
        "instruction": manifest.instruction,
        "dataset": {
            "key": dataset_key,
            "build_id": manifest.build_id,
            "content_sha256": manifest.content_sha256,
            "trace_count": manifest.trace_count,
        },
        "model": model,
        "stages": fingerprints,
        "image": None,
        "provenance": {"git_commit": "2e84a5bb450440647fadc24f1a24f5a177b193de", "git_dirty": True},
    }
    url = paths.join(layout.run_prefix(artifacts, run_id), "run_manifest.json")
    files.write(url, jsonl.dump_line(value))
    for number, name in enumerate(stages):
        _publish_stage(artifacts, run_id, name, fingerprints[name], number, metrics, tuned_digest)


def _publish_stage(
    artifacts: str,
    run_id: str,
    name: str,
    fingerprint: str,
    number: int,
    metrics: bytes | None,
    tuned_digest: str,
) -> None:
    outputs: tuple[OutputFile, ...] = ()
    results: dict[str, float | str] = {}
    if name == "train":
        losses = [
            5.94 * math.exp(-step / 12) + 0.31 + 0.2 * math.sin(step) ** 2 for step in range(50)
        ]
        lines = (
            {"step": n + 1, "loss": loss, "learning_rate": 0.02, "grad_norm": 1.0, "tokens": 440}
            for n, loss in enumerate(losses)
        )
        data = b"".join(map(jsonl.dump_line, lines))
        data = data if metrics is None else metrics
        outputs = (_output(artifacts, run_id, name, "metrics.jsonl", data),)
        results = {"loss_first": losses[0], "loss_last": losses[-1]}
    if name == "eval":
        header = {
            "eval set": "letters_v1.jsonl",
            "evaluation": fingerprint,
            "scorer": "exact_match",
        }
        found = answered(tuned_digest)
        made = build_report(found, Context(header=header))
        outputs = tuple(
            _output(artifacts, run_id, name, file, data)
            for file, data in (
                ("eval_before.jsonl", b""),
                ("eval_after.jsonl", b""),
                ("delta_report.md", render_markdown(made, found).encode()),
                ("delta_report.json", dump_report(made)),
                ("delta_report.html", b"<!doctype html>\n"),
                ("samples.jsonl", b"".join(dump_samples(found))),
            )
        )
        results = {
            "accuracy_base": made.overall.base.share,
            "accuracy_tuned": made.overall.tuned.share,
            "verdict": made.verdict,
        }
    record = Record(
        run_id=run_id,
        stage=name,
        fingerprint=fingerprint,
        attempt="20261122T112233-064c19",
        inputs={},
        outputs=outputs,
        counts=COUNTS[name],
        results=results,
        started_at=f"2026-11-22T11:2{number}:33+00:00",
        seconds=SECONDS[name],
        provenance={},
    )
    records.publish(record, artifacts)


def _output(artifacts: str, run_id: str, stage: str, name: str, data: bytes) -> OutputFile:
    path = f"training_runs/{run_id}/{stage}/attempts/20261122T112233-064c19/{name}"
    files.write(paths.join(artifacts, path), data)
    digest = hashlib.sha256(data).hexdigest()
    return OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest)


def answered(tuned_digest: str = TUNED_DIGEST) -> EvalSamples:
    """Score 36 items. The tuned model learned most and lost two; its text looks like markup."""
    items, samples = [], []
    for number in range(36):
        letter = chr(ord("A") + number % 26)
        base = letter if number in (4, 9) else None if number % 3 else "<b>no</b>"
        tuned = "[x](javascript:alert(1))" if number == 9 else letter if number % 4 else "?"
        item = Item(
            set="letters_v1",
            id=f"letter-{number}",
            prompt=f"Upper: green {letter.lower()}",
            expected_answer=letter,
            category=("even", "odd")[number % 2],
            difficulty="easy",
            case_sensitive=True,
        )
        items.append(item)
        texts = f"<img src=x onerror=alert(1)> {base}", f"{letter.lower()} -> {tuned}"
        for model, answer, text in zip(("base", "tuned"), (base, tuned), texts, strict=True):
            state: State = (
                "no_answer" if answer is None else "correct" if answer == letter else "wrong"
            )
            samples.append(
                Sample(
                    set="letters_v1",
                    item=item.id,
                    model=model,
                    text=text,
                    tokens=len(text),
                    score=judged(state, answer),
                )
            )
    models = Model(name="base", digest="1b" * 32), Model(name="tuned", digest=tuned_digest)
    return EvalSamples(
        {"letters_v1": EvalSet(name="letters_v1", sha256="e5" * 32, scorer="exact_match")},
        {each.name: each for each in models},
        {(item.set, item.id): item for item in items},
        tuple(samples),
    )


def torn(artifacts: str, run_id: str, name: str, text: str | bytes | dict[str, Any]) -> None:
    """Overwrite a file of a run with other content."""
    data = json.dumps(text) if isinstance(text, dict) else text
    data = data.encode() if isinstance(data, str) else data
    files.write(paths.join(layout.run_prefix(artifacts, run_id), name), data)
