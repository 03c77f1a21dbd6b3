"""Import: eval traces, samples or scores -> the trace store, where the next loop starts."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from tuneloop.artifacts import records
from tuneloop.artifacts.records import OutputFile
from tuneloop.artifacts.results import ImportCounts, ImportedScores
from tuneloop.specs.stages import ImportStage
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.traces.client import TraceClient
from tuneloop.traces.judgement_client import post_scores

FILES = {"eval": ("eval_before.jsonl", "eval_after.jsonl"), "sample": ("sampled.jsonl",)}
"""Upstream stage -> its files of traces."""
SCORES, SCORES_FILE = "score", "scores.jsonl"
"""Upstream stage of a scoring run, and its file."""


def run(spec: ImportStage, stage: Stage) -> None:
    """Post each file in batches; a batch is stored whole or not at all, and only once.

    The idempotency key names fingerprint, file and batch, so a batch that was posted before a crash
    is not stored again.
    """
    if SCORES in spec.upstream:
        _post_scores(spec, stage)
        return
    outputs = [
        stage.upstream(upstream).output(name)
        for upstream in FILES
        if upstream in spec.upstream
        for name in FILES[upstream]
    ]
    total = sum(output.rows or 0 for output in outputs)
    posted = 0
    with TraceClient(spec.execution.store_url) as client:
        for output in outputs:
            # Read and verify the whole file before the first post: a torn file must not be half
            # imported.
            name, lines = output.name, iter(_lines(output, stage))
            batch_number = 0
            while batch := [json.loads(line) for line in islice(lines, spec.options.batch_traces)]:
                stage.check_stop()
                key = f"import/{spec.fingerprint}/{name}/{batch_number}"
                posted += len(client.post_batch(batch, key))
                batch_number += 1
                stage.progress(posted, total)
    stage.set_results(ImportCounts(traces=posted))


def _post_scores(spec: ImportStage, stage: Stage) -> None:
    """Post the scores of a scoring run; their traces may have been deleted since."""
    output = stage.upstream(SCORES).output(SCORES_FILE)
    rows = map(json.loads, _lines(output, stage))
    scored = [_request(row) for row in rows if row["score"] is not None]
    stored = unknown = 0
    with TraceClient(spec.execution.store_url) as client:
        for created, missing in post_scores(client, scored):
            stage.check_stop()
            stored, unknown = stored + created, unknown + missing
            stage.progress(stored + unknown, len(scored))
    stage.set_results(ImportedScores(scores=stored, unknown_traces=unknown))


def _request(row: dict[str, Any]) -> dict[str, Any]:
    names = ("trace_id", "criteria", "score")
    details = {name: value for name, value in row.items() if name not in names}
    return {**{name: row[name] for name in names}, "details": details}


def _lines(output: OutputFile, stage: Stage) -> list[bytes]:
    return records.read_output(output, stage.artifacts).splitlines()
