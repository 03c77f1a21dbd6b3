"""Import: the eval traces of both models -> the trace store, where the next loop starts."""

from __future__ import annotations

import json
from itertools import islice

from tuneloop.artifacts import records
from tuneloop.artifacts.results import ImportCounts
from tuneloop.specs.stages import ImportStage
from tuneloop.stages.context import Stage
from tuneloop.traces.client import TraceClient

FILES = ("eval_before.jsonl", "eval_after.jsonl")


def run(spec: ImportStage, stage: Stage) -> None:
    """Post each file in batches; a batch is stored whole or not at all, and only once.

    The idempotency key names fingerprint, file and batch, so a batch that was posted before a crash
    is not stored again.
    """
    evaluated = stage.upstream("eval")
    total = sum(evaluated.output(name).rows or 0 for name in FILES)
    posted = 0
    with TraceClient(spec.execution.store_url) as client:
        for name in FILES:
            # Read and verify the whole file before the first post: a torn file must not be half
            # imported.
            lines = iter(records.read_output(evaluated.output(name), stage.artifacts).splitlines())
            batch_number = 0
            while batch := [json.loads(line) for line in islice(lines, spec.options.batch_traces)]:
                stage.check_stop()
                key = f"import/{spec.fingerprint}/{name}/{batch_number}"
                posted += len(client.post_batch(batch, key))
                batch_number += 1
                stage.progress(posted, total)
    stage.set_results(ImportCounts(traces=posted))
