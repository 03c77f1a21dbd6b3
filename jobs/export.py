"""Export: dataset manifest and its trace shards -> training examples.

Reads the snapshot, never the store. Traces in = examples out, or the stage fails. Processes that
share the work write whole files each, so the files are the same for any number of processes.
"""

from __future__ import annotations

from itertools import islice

from jobs.stage import Stage
from tuneloop import jsonl
from tuneloop.datasets.read import iter_row_range, load_manifest
from tuneloop.errors import DataError
from tuneloop.records import Record
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
    size = spec.options.shard_examples
    shards = -(-manifest.trace_count // size)
    mine = stage.block(shards)
    start, stop = mine.start * size, min(mine.stop * size, manifest.trace_count)
    rows = iter_row_range(manifest, stage.artifacts, start, stop)
    done = 0
    for shard in mine:
        with stage.output(f"examples-{shard:05d}-of-{shards:05d}.jsonl") as output:
            for _, row in islice(rows, size):
                example = build_example(row, manifest)
                output.write_row(jsonl.encode_line(example))
                done += 1
                if done % 1000 == 0:
                    stage.progress(done, stop - start)
                    stage.check_stop()
    # The reader checks counts and digests behind the last row of each shard.
    if next(rows, None) is not None or done != stop - start:
        raise DataError(
            f"dataset {manifest.dataset_key}: {done} examples from {stop - start} traces;"
            " rebuild the dataset"
        )
    stage.counts.update(traces=stop - start, examples=done, shards=len(mine))


def merge(spec: ExportStage, stage: Stage, parts: list[Record]) -> None:
    """Put the parts' files together; all traces of the dataset have to be there."""
    stage.take_over(parts)
    manifest = load_manifest(stage.artifacts, spec.dataset.key)
    if stage.counts["examples"] != manifest.trace_count:
        raise DataError(
            f"dataset {manifest.dataset_key}: {stage.counts['examples']} examples from"
            f" {manifest.trace_count} traces; delete the stage's part records and run it again"
        )
