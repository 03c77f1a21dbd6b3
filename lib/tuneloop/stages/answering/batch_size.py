"""The batch size that an evaluation chooses from the memory of its device.

All processes of a stage, and all attempts, make the same batches: otherwise the shards would not
fit together, and no finished batch could be used again. So the first process that chooses writes
its choice below `resume/` of the stage, and the others read it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Literal

from tuneloop.specs.training.architecture import Architecture
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files, paths
from tuneloop.storage.sealed import sealed, unsealed
from tuneloop.training.sizing.evaluation import CPU_ROWS, largest_rows

log = logging.getLogger("tuneloop.stage")


def settle(batch_size: int | Literal["auto"], stage: Stage, choose: Callable[[], int]) -> int:
    """Return the batch size of all processes and attempts of a stage.

    Args:
        batch_size: what the spec says; `auto` uses the choice of the first process.
        stage: the stage.
        choose: chooses a batch size for this process.
    """
    if batch_size != "auto":
        return batch_size
    url = paths.join(stage.prefix, "resume", "batch_size.json")
    found = _read(url)
    if found is None:
        chosen = choose()
        data = json.dumps(sealed({"batch_size": chosen})).encode()
        if not files.publish(url, data) and (found := _read(url)) is None:
            files.write(url, data)  # what was there is damaged
        found = found or chosen
        log.info("batches have at most %d rows, which the memory of the device allows", found)
    return found


def choose_rows(
    architectures: list[Architecture],
    limit_bytes: int | None,
    prompt_tokens: int,
    new_tokens: int,
) -> int:
    """Choose the rows of a batch, the same for all models.

    Args:
        architectures: families and shapes of the models.
        limit_bytes: memory of the device that a program can use; None on a CPU.
        prompt_tokens: tokens of the longest prompt.
        new_tokens: tokens of an answer at most.
    """
    if limit_bytes is None:
        return CPU_ROWS
    # Padding makes a prompt at most half as long again.
    padded = prompt_tokens * 3 // 2
    return min(largest_rows(each, limit_bytes, padded, new_tokens) for each in architectures)


def _read(url: str) -> int | None:
    """Return the choice of another process; None if there is none, or if it is damaged."""
    try:
        value: Any = unsealed(json.loads(files.read(url)))
        rows = value["batch_size"]
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return rows if isinstance(rows, int) and rows >= 1 else None
