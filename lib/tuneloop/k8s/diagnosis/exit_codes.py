"""What an exit code of a stage means on a cluster, and what to do about it at each stage."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.verdict import State
from tuneloop.errors import verb_exit_code
from tuneloop.k8s.diagnosis.observed import Observation, entries, mapping, text

AGAIN = "run again to continue from its last checkpoint"


@dataclass(frozen=True)
class Meaning:
    """State and fix for an exit code."""

    state: State
    fix: str


MEANINGS = {
    1: Meaning("UserError", "read its log: Python ended before the stage could report a cause"),
    2: Meaning("UserError", "correct the command line, or install the missing extra in the image"),
    65: Meaning("DataError", "fix the input that the message names, then run again"),
    66: Meaning(
        "DataError",
        "let the previous stage finish first: `tuneloop run` and `submit` start stages in order",
    ),
    69: Meaning("UserError", "make the service or storage reachable from the pod, then run again"),
    70: Meaning("UserError", "read its log for the traceback, and report the bug"),
    75: Meaning("Transient", f"find out what keeps interrupting it, {AGAIN}"),
    77: Meaning(
        "UserError", "give the stage's ServiceAccount access to the resource that the message names"
    ),
    78: Meaning("ConfigError", "change the spec as the message says"),
    126: Meaning("ConfigError", "use an image whose command can be executed"),
    127: Meaning("ConfigError", "use an image that has python and jobs/ in its working folder"),
    128: Meaning("ConfigError", "use an image that has python and jobs/ in its working folder"),
    134: Meaning(
        "Crashed", f"read the logs of the other pods, which may have failed first; {AGAIN}"
    ),
    139: Meaning("Crashed", f"read its log; {AGAIN}"),
    143: Meaning("Transient", f"find out what terminates it, {AGAIN}"),
}
_REFUSED_DEVICE = re.compile(r"may not open /dev/")
"""In the sentence of `stages/lifecycle/failures.py`."""
_DEVICE_MEMORY = {
    "train": "lower train.batch_size or train.max_length_tokens, set train.remat to block, or use a"
    " larger machine (`tuneloop plan` estimates the memory)",
    "eval": "lower eval.batch_size, or use a larger machine",
    "sample": "lower sample.batch_size, or use a larger machine",
}


def meaning_of(seen: Observation, code: int | None, message: str) -> Meaning | None:
    """Return state and fix for an exit code and the stage's own message; None if it is unknown."""
    if code == 77 and _REFUSED_DEVICE.search(message):
        fix = (
            f"set {seen.setting}.pod_security: baseline, or"
            " device_ownership_from_security_context = true in containerd on the nodes, then run"
            " again"
        )
        return Meaning("DeviceRefused", fix)
    return MEANINGS.get(code if code is not None else -1)


def verb_code(code: int) -> int:
    """Return the exit code of a verb for a container that ended with this code."""
    if code in (1, 126, 127, 128):
        return 10
    return verb_exit_code(code)


def memory_fix(seen: Observation, message: str, *, exit_code: int | None) -> str:
    """Return what to do if memory ran out: device memory, or the memory limit of the pod.

    Args:
        seen: state of the stage.
        message: the stage's own message; XLA says RESOURCE_EXHAUSTED for a device.
        exit_code: exit code of the main container.
    """
    is_device = exit_code == 71 and ("RESOURCE_EXHAUSTED" in message or not message)
    if is_device and seen.stage in _DEVICE_MEMORY:
        return _DEVICE_MEMORY[seen.stage]
    limit = memory_limit(seen)
    now = f", which is {limit}" if limit else ""
    more = " (`tuneloop plan` estimates it)" if seen.stage == "train" else ""
    return f"raise {seen.setting}.memory{now}{more}, then run again"


def memory_limit(seen: Observation) -> str:
    """Return the memory limit of the stage's pods as Kubernetes writes it; empty if unknown."""
    for pod in entries(list(seen.pods)):
        for container in entries(mapping(pod.get("spec")).get("containers")):
            if container.get("name") == "main":
                limits = mapping(mapping(container.get("resources")).get("limits"))
                return text(limits.get("memory"))
    return ""
