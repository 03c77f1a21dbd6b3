"""TensorBoard event files, written from the history of a training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from tuneloop.artifacts.training_metrics import CURVES
from tuneloop.training.sft.metrics import History

EVENTS = "tensorboard/events.out.tfevents.0.tuneloop"
"""Name of the output; TensorBoard looks for `tfevents` in file names."""
FILE_VERSION = "brain.Event:2"


def dump_events(history: History, ended_at: float) -> bytes:
    """Return the content of an event file with every value of the history.

    Args:
        history: the history of a finished training.
        ended_at: end of the training, in seconds since 1970; the times of the steps are counted
            back from it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        writer = RecordWriter(str(path))
        for event in _events(history, ended_at):
            writer.write(event.SerializeToString())
        writer.close()
        return path.read_bytes()


def _events(history: History, ended_at: float) -> Iterator[Event]:
    now = ended_at - sum(row.step_seconds for row in history.steps)
    yield Event(wall_time=now, file_version=FILE_VERSION)
    if 0 in history.validation_losses:
        summary = scalar(CURVES["validation_loss"], history.validation_losses[0])
        yield Event(wall_time=now, step=0, summary=summary)
    for row in history.steps:
        now += row.step_seconds
        for name, tag in CURVES.items():
            value = getattr(row, name)
            if value is not None:
                yield Event(wall_time=now, step=row.step, summary=scalar(tag, value))
