"""Import: eval traces or samples -> the trace store, where the next loop starts."""

from __future__ import annotations

import json
from itertools import islice

from tuneloop.artifacts import records
from tuneloop.artifacts.records import OutputFile
from tuneloop.artifacts.results import ImportCounts
from tuneloop.specs.stages import ImportStage
from tuneloop.stages.context import Stage
from tuneloop.traces.client import TraceClient

FILES = {"eval": ("eval_before.jsonl", "eval_after.jsonl"), "sample": ("sampled.jsonl",)}
"""Upstream stage -> its files of traces."""


def run(spec: ImportStage, stage: Stage) -> None:
    """Post each file in batches; a batch is stored whole or not at all, and only once.

    The idempotency key names fingerprint, file and batch, so a batch that was posted before a crash
    is not stored again.
    """
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


def _lines(output: OutputFile, stage: Stage) -> list[bytes]:
    return records.read_output(output, stage.artifacts).splitlines()
