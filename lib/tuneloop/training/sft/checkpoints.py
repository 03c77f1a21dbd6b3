"""Checkpoints of a training that has not finished."""

from __future__ import annotations

import logging

from tuneloop.storage import files, paths
from tuneloop.training.sft.metrics import read_metrics

log = logging.getLogger(__name__)


def checkpoints_folder(resume_prefix: str) -> str:
    """Return the folder below a prefix in which Orbax keeps the checkpoints."""
    # Orbax accepts a relative folder at construction but fails at the first save.
    return paths.absolute(paths.join(resume_prefix, "checkpoints"))


def drop_checkpoints_ahead(resume_prefix: str) -> None:
    """Delete checkpoints that are newer than the stored metrics.

    The checkpoint of a step is saved before the metrics of that step are known. If the process was
    killed between the two, resuming from that checkpoint would leave a gap in metrics.jsonl.
    """
    known = len(read_metrics(resume_prefix))
    prefix = checkpoints_folder(resume_prefix)
    steps = {_step_of(url, prefix) for url in files.list_files(prefix)}
    for step in sorted(step for step in steps if step is not None and step > known):
        log.info("deleting the checkpoint of step %d: its metrics were not written", step)
        files.delete_tree(paths.join(prefix, str(step)))


def _step_of(url: str, prefix: str) -> int | None:
    """Return the step of a checkpoint file, or None for a file of an unfinished save."""
    name = url.split(prefix.split("://")[-1].strip("/") + "/")[-1].split("/")[0]
    return int(name) if name.isdigit() else None
