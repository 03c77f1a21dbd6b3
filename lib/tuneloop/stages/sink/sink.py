"""The metrics sink of a stage: what the stage tells it, and what it sends at the end.

Only the first process of a group sends, and of a shared stage only the process that merges.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tuneloop import provenance
from tuneloop.artifacts import records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.errors import Superseded, Transient
from tuneloop.specs.integrations.metrics_sink import MetricsSinkSpec
from tuneloop.stages.sink.delivery import Delivery
from tuneloop.stages.sink.facts import build_facts
from tuneloop.stages.sink.mlflow_run import MlflowRun
from tuneloop.stages.sink.points import (
    Point,
    ended_at_ms,
    points_of_evaluation,
    points_of_file,
    points_of_row,
)
from tuneloop.stages.table import STAGES

if TYPE_CHECKING:
    from tuneloop.stages.lifecycle.context import Stage

log = logging.getLogger(__name__)

FINISH_SECONDS = 10.0
"""Seconds that a finished stage waits for its last values."""
STOP_SECONDS = 2.0
"""The same of a stage that was stopped or has failed."""


class Sink:
    """The metrics sink of one stage process; does nothing if the spec names none."""

    def __init__(self, stage: Stage) -> None:
        """Start to connect, if this process is the one that sends."""
        self._stage = stage
        self._record: Record | None = None
        self._delivery: Delivery | None = None
        spec = stage.spec.execution.metrics_sink
        sends = stage.process_index == 0 and stage.shard is None
        if spec is not None and sends and STAGES[stage.spec.stage].feeds_sink:
            self._delivery = Delivery(functools.partial(_connect, spec, stage))

    def step(self, row: Mapping[str, Any]) -> None:
        """Send the metrics of a training step, a line of metrics.jsonl; returns at once."""
        if self._delivery is not None:
            self._delivery.add(points_of_row(row, round(time.time() * 1000)))

    def published(self, record: Record) -> None:
        """Take notice that the stage has its record, whose figures are sent at the end."""
        self._record = record

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._delivery is None:
            return
        if error is not None or self._record is None:
            is_over = not isinstance(error, Transient | Superseded)
            self._delivery.finish("FAILED" if is_over else "RUNNING", seconds=STOP_SECONDS)
            return
        last = functools.partial(_last_points, self._stage, self._record)
        if not self._delivery.finish("FINISHED", last, seconds=FINISH_SECONDS):
            log.warning(
                "execution.metrics_sink: not everything was sent in %g s; %s",
                FINISH_SECONDS,
                "metrics.jsonl holds it, and the eval stage sends it"
                if self._record.stage == "train"
                else "the report and metrics.jsonl hold it",
            )


def _connect(spec: MetricsSinkSpec, stage: Stage) -> MlflowRun:
    manifest = read_run_manifest(stage.artifacts, stage.spec.run_id)
    return MlflowRun(spec, build_facts(stage.spec, manifest, provenance.gather()))


def _last_points(stage: Stage, record: Record) -> Iterable[Point]:
    """Return everything that the server must have once the stage is done."""
    training = record if record.stage == "train" else stage.upstream("train")
    data = records.read_output(training.output("metrics.jsonl"), stage.artifacts)
    points = points_of_file(data, ended_at_ms(training))
    return points if record is training else [*points, *points_of_evaluation(record)]
