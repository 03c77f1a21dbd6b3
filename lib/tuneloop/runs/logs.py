"""Read the log that a stage keeps next to its records."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from tuneloop.artifacts import layout
from tuneloop.artifacts.submission import Submission
from tuneloop.errors import InputMissing, UsageError
from tuneloop.storage import files


@dataclass(frozen=True)
class StageLog:
    """The log of a stage up to now."""

    stage: str
    text: str
    has_ended: bool
    """Whether the stage has its record, so that the log is complete."""


def read_log(submission: Submission, stage: str | None) -> StageLog:
    """Read a stage's log.

    Args:
        submission: the run.
        stage: name of the stage; None means the latest stage that has a log.

    Raises:
        UsageError: there is no such stage.
        InputMissing: nothing has been logged yet.
    """
    known = [submitted.name for submitted in submission.stages]
    if stage is not None and stage not in known:
        raise UsageError(f"stage {stage}: unknown, expected one of {', '.join(known)}")
    artifacts, run_id = submission.artifacts, submission.run_id
    for name in reversed(known) if stage is None else (stage,):
        prefix = layout.stage_prefix(artifacts, run_id, name)
        data = b"".join(_logs(prefix))
        if data:
            ended = files.exists(layout.record_url(artifacts, run_id, name))
            return StageLog(name, data.decode("utf-8", "replace"), ended)
    raise InputMissing(
        f"run {run_id}: no log of {stage or 'any stage'} yet; `tuneloop status {run_id}` shows why"
    )


def _logs(prefix: str) -> list[bytes]:
    """Return the stage's log, or its shards' logs in order; without one, the logs of its pods."""
    urls = [url for url in files.list_files(prefix) if "/attempts/" not in url]
    own = [url for url in urls if url.rsplit("/", 1)[-1].startswith("log")]
    pods = [url for url in urls if url.endswith(".log") and "/pods/" in url]
    found = []
    for url in own or pods:
        with contextlib.suppress(FileNotFoundError):
            found.append(files.read(url))
    return found
