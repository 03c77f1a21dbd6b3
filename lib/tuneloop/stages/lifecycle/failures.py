"""How a stage reports its failure: log, termination message, exit code."""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import re
import stat
import traceback
from collections.abc import Iterator, Sequence

from tuneloop.artifacts.stage_logs.redaction import Redactor
from tuneloop.errors import (
    EXIT_BUG,
    OutOfMemory,
    PermissionDenied,
    TuneloopError,
    UsageError,
)
from tuneloop.settings.environment import variable
from tuneloop.stages.table import STAGES
from tuneloop.storage import errors

log = logging.getLogger("tuneloop.stage")

TERMINATION_LOG = variable("termination_log")
"""Variable with the path of the termination message; Kubernetes reads /dev/termination-log."""
TERMINATION_BYTES = 4096
MEMORY_KEYS = {"eval": "eval.batch_size", "sample": "sample.batch_size"}
"""Stage -> the key that its memory depends on, where it is not one of the train stage."""
DEVICE_FILES = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia*")
"""Patterns of the files of TPUs and GPUs."""
_NO_BACKEND = re.compile(r"Unable to initialize backend|(?:TPU|CUDA) initialization failed")
_REFUSED = re.compile(r"permission denied|not permitted", re.IGNORECASE)
_DEVICE = re.compile(r"/dev/(?:accel|vfio/|nvidia)[\w-]*")


def explain(error: Exception, stage: str, place: str) -> Exception:
    """Turn an expected failure into a TuneloopError; return a bug unchanged."""
    if isinstance(error, TuneloopError):
        return error
    if device := refused_device(error, stage):
        return device
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
        keys = MEMORY_KEYS.get(stage, "train.batch_size or train.max_length_tokens")
        return OutOfMemory(
            f"stage {stage}: out of memory ({str(error)[:200]}); lower {keys}, or use a larger"
            " machine"
        )
    return error


def refused_device(
    error: Exception, stage: str, patterns: Sequence[str] = DEVICE_FILES
) -> PermissionDenied | None:
    """Translate a failed start of JAX into one sentence if this process may not open a device.

    CUDA reports only that it has found no device, so the files themselves are examined.

    Args:
        error: what JAX, or the opening of a device, has raised.
        stage: name of the stage.
        patterns: patterns of the files of devices.

    Returns:
        None if the error has another cause.
    """
    said = str(error)
    is_denied = isinstance(error, PermissionError) or bool(_REFUSED.search(said))
    named = _DEVICE.findall(said) if is_denied else []
    if not named and (not _NO_BACKEND.search(said) or "shared object file" in said):
        return None  # in an image without libtpu or CUDA, devices do not matter yet
    closed = [path for path in _files(patterns) if not _may_open(path)]
    path = next(iter([*named, *closed]), None)
    return None if path is None else PermissionDenied(_device_sentence(stage, path))


def _files(patterns: Sequence[str]) -> Iterator[str]:
    return (path for pattern in patterns for path in sorted(glob.glob(pattern)))


def _may_open(path: str) -> bool:
    # The folder of NVIDIA's capabilities is not a device.
    return os.path.isdir(path) or os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def _device_sentence(stage: str, path: str) -> str:
    """Say which device is refused and why; `k8s/diagnosis/exit_codes.py` reads the sentence."""
    who = f"stage {stage}: user {os.geteuid()} may not open {path}"
    try:
        found = os.stat(path)
    except OSError:
        return f"{who}; give the pod its devices, or set pod_security: baseline for the stage"
    mode = f"owner {found.st_uid}:{found.st_gid}, mode {stat.S_IMODE(found.st_mode):04o}"
    if _may_open(path):
        return (
            f"{who} ({mode}), although its mode allows it, so the container has no right to the"
            " device; request the accelerator for the pod, and do not mount its files"
        )
    return (
        f"{who} ({mode}); set pod_security: baseline for the stage, or"
        " device_ownership_from_security_context = true in containerd on the nodes"
    )


def report_failure(error: Exception) -> int:
    """Write the error to the log and to the termination message; return the exit code."""
    code = error.exit_code if isinstance(error, TuneloopError) else EXIT_BUG
    if code == EXIT_BUG:
        log.error("%s", "".join(traceback.format_exception(error)))
    else:
        log.error("%s", error)
    cause = str(error) if code != EXIT_BUG else f"{type(error).__name__}: {error}"
    cause = Redactor(os.environ)(cause)
    while len(message := json.dumps({"cause": cause, "exit_code": code})) > TERMINATION_BYTES:
        cause = cause[: len(cause) // 2]  # keep valid JSON; the log has the full text
    # Not with all settings, of which one may be what is wrong.
    target = os.environ.get(TERMINATION_LOG, "/dev/termination-log")
    # Outside a container there may be no such file; stderr already has the error.
    with contextlib.suppress(OSError), open(target, "r+b") as file:
        file.write(message.encode())
    return code
