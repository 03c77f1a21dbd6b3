"""Export: dataset manifest and its trace shards -> training examples.

Reads the snapshot, never the store. Traces in = examples out, or the stage fails.
"""

from __future__ import annotations

from itertools import islice

from jobs.stage import Stage
from tuneloop import jsonl
from tuneloop.datasets.read import iter_rows, load_manifest
from tuneloop.errors import DataError
from tuneloop.specs import ExportStage
from tuneloop.training.examples import build_example


def run(spec: ExportStage, stage: Stage) -> None:
    """Write `examples-NNNNN-of-NNNNN.jsonl`, in the dataset's order."""
    manifest = load_manifest(stage.artifacts, spec.dataset.key)
    if manifest.build_id != spec.dataset.build_id:
        raise DataError(
            f"dataset {spec.dataset.key}: build_id is {manifest.build_id}, the plan was made for"
            f" {spec.dataset.build_id}; plan the run again"
        )
    stage.inputs["dataset"] = manifest.content_sha256
    rows = iter_rows(manifest, stage.artifacts)
    shards = -(-manifest.trace_count // spec.options.shard_examples)
    done = 0
    for shard in range(shards):
        with stage.output(f"examples-{shard:05d}-of-{shards:05d}.jsonl") as output:
            for _, row in islice(rows, spec.options.shard_examples):
                example = build_example(row, manifest)
                output.write_row(jsonl.dump_line(example.model_dump(mode="json")))
                done += 1
                if done % 1000 == 0:
                    stage.progress(done, manifest.trace_count)
                    stage.check_stop()
    # The reader checks counts and digests behind the last row of each shard.
    if next(rows, None) is not None or done != manifest.trace_count:
        raise DataError(
            f"dataset {manifest.dataset_key}: {done} examples from {manifest.trace_count} traces;"
            " rebuild the dataset"
        )
    stage.counts.update(traces=manifest.trace_count, examples=done, shards=shards)
