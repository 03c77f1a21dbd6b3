"""Checkpoints of an unfinished training."""

from __future__ import annotations

import logging

from tuneloop.storage import files, paths
from tuneloop.training.sft.metrics import read_metrics

log = logging.getLogger(__name__)


def checkpoints_folder(resume_prefix: str) -> str:
    """Return where Orbax keeps the checkpoints below a prefix."""
    # Orbax takes a relative folder at construction and fails at the first save.
    return paths.absolute(paths.join(resume_prefix, "checkpoints"))


def drop_checkpoints_ahead(resume_prefix: str) -> None:
    """Drop checkpoints that are ahead of the metrics.

    A checkpoint is saved one step before its own metrics are known; killed between the two, its
    line would be missing from metrics.jsonl for ever.
    """
    known = len(read_metrics(resume_prefix))
    prefix = checkpoints_folder(resume_prefix)
    steps = {_step_of(url, prefix) for url in files.list_files(prefix)}
    for step in sorted(step for step in steps if step is not None and step > known):
        log.info("dropping the checkpoint of step %d: its metrics were not written", step)
        files.delete_tree(paths.join(prefix, str(step)))


def _step_of(url: str, prefix: str) -> int | None:
    """Step of the checkpoint that a file belongs to; None for files of unfinished saves."""
    name = url.split(prefix.split("://")[-1].strip("/") + "/")[-1].split("/")[0]
    return int(name) if name.isdigit() else None
