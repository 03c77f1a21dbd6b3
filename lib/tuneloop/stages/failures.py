"""How a stage reports its failure: log, termination message, exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import traceback

from tuneloop.errors import (
    EXIT_BUG,
    OutOfMemory,
    TuneloopError,
    UsageError,
)
from tuneloop.stages.table import STAGES
from tuneloop.storage import errors

log = logging.getLogger("tuneloop.stage")

TERMINATION_LOG = "TUNELOOP_TERMINATION_LOG"
"""Variable with the path of the termination message; Kubernetes reads /dev/termination-log."""
TERMINATION_BYTES = 4096


def explain(error: Exception, stage: str, place: str) -> Exception:
    """Turn an expected failure into a TuneloopError; return a bug unchanged."""
    if isinstance(error, TuneloopError):
        return error
    if refused := errors.refusal(error, place):
        return refused
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("tuneloop"):
        # The export needs tokenizers only to count tokens, so its extra does not contain them.
        counts_tokens = error.name in ("sentencepiece", "tokenizers")
        extra = "train" if counts_tokens else STAGES[stage].extra
        return UsageError(
            f"stage {stage}: Python module {error.name} is not installed; install the {extra}"
            f" extra: `make setup` in a checkout, else the lock {STAGES[stage].lock} with pip"
        )
    # Compare names: jaxlib is not installed where export and import run.
    is_device = type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError")
    if isinstance(error, MemoryError) or (is_device and "RESOURCE_EXHAUSTED" in str(error)):
        return OutOfMemory(
            f"stage {stage}: out of memory ({str(error)[:200]}); lower train.batch_size or"
            " train.max_length_tokens, or use a larger machine"
        )
    return error


def report_failure(error: Exception) -> int:
    """Write the error to the log and to the termination message; return the exit code."""
    code = error.exit_code if isinstance(error, TuneloopError) else EXIT_BUG
    if code == EXIT_BUG:
        log.error("%s", "".join(traceback.format_exception(error)))
    else:
        log.error("%s", error)
    cause = str(error) if code != EXIT_BUG else f"{type(error).__name__}: {error}"
    while len(message := json.dumps({"cause": cause, "exit_code": code})) > TERMINATION_BYTES:
        cause = cause[: len(cause) // 2]  # keep valid JSON; the log has the full text
    target = os.environ.get(TERMINATION_LOG, "/dev/termination-log")
    # Outside a container there may be no such file; stderr already has the error.
    with contextlib.suppress(OSError), open(target, "r+b") as file:
        file.write(message.encode())
    return code
