"""Score: the final answers of a dataset's traces -> one score per trace, by a scorer.

Every trace has a row in `scores.jsonl`, also one without a score. The import stage posts the
scores to the trace store.
"""

from __future__ import annotations

from collections.abc import Iterator

from tuneloop import jsonl
from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import ScoreCounts, ScoreResults
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import DataError
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.evaluation.trace_scores import Counts, TraceScore, TraceScorer
from tuneloop.specs.stages import ScoreStage
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.planned import load_planned_scorer, read_planned_set

FILE = "scores.jsonl"
PART = "scores_part.jsonl"
"""Rows of one process, which the merge puts together."""


def run(spec: ScoreStage, stage: Stage) -> None:
    """Score this process's share of the traces."""
    scorer = _scorer(spec, stage)
    is_alone = stage.shard_count == 1
    counts = Counts()
    with (
        DatasetSource(spec.execution.datasets) as source,
        stage.output(FILE if is_alone else PART) as output,
    ):
        manifest = _manifest(spec, source)
        rows = stage.block(min(manifest.trace_count, spec.options.limit or manifest.trace_count))
        for score in _scores(scorer, source, manifest, rows, stage):
            counts.add(score)
            output.write_row(jsonl.dump_line(score.as_row()))
    _set_results(stage, counts)


def merge(spec: ScoreStage, stage: Stage, shards: list[Record]) -> None:
    """Put the rows of all shards together, in the order of the dataset."""
    counts = Counts()
    with stage.output(FILE) as output:
        for shard in shards:
            rows = records.read_output(shard.output(PART), stage.artifacts)
            for line in rows.splitlines(keepends=True):
                output.write_row(line)
            stage.inputs |= shard.inputs
            part = shard.counts_as(ScoreCounts)
            counts.traces += part.traces
            counts.scored += part.scored
            counts.total += shard.results_as(ScoreResults).total
            counts.states["no_expected_answer"] += part.no_expected_answer
            counts.states["unscorable"] += part.unscorable
    _set_results(stage, counts)


def _scores(
    scorer: TraceScorer, source: DatasetSource, manifest: DatasetManifest, rows: range, stage: Stage
) -> Iterator[TraceScore]:
    done = 0
    for block in source.iter_row_range(manifest, rows.start, rows.stop):
        for row in block.rows:
            stage.check_stop()
            yield scorer.score(row)
        done += len(block.rows)
        stage.progress(done, len(rows))


def _scorer(spec: ScoreStage, stage: Stage) -> TraceScorer:
    scorer = load_planned_scorer(spec.options.scorer, "score.scorer", spec.scorer_sha256, stage)
    items: tuple[EvalItem, ...] | None = None
    if spec.expected is not None:
        items = read_planned_set(spec.expected, stage, "score.expected")
    stage.inputs["dataset"] = spec.dataset.build_id
    return TraceScorer(scorer, spec.criteria, items, reading=spec.options.reading)


def _manifest(spec: ScoreStage, source: DatasetSource) -> DatasetManifest:
    manifest = source.load_manifest(spec.dataset.key)
    if manifest.build_id != spec.dataset.build_id:
        raise DataError(
            f"dataset {spec.dataset.key}: its build id is {manifest.build_id}, expected"
            f" {spec.dataset.build_id}; plan the run again"
        )
    return manifest


def _set_results(stage: Stage, counts: Counts) -> None:
    stage.set_results(
        ScoreCounts(
            traces=counts.traces,
            scored=counts.scored,
            no_expected_answer=counts.states["no_expected_answer"],
            unscorable=counts.states["unscorable"],
        ),
        ScoreResults(total=counts.total, mean=counts.mean),
    )
