"""The chat formats of runs: which tokenizer and template a run encodes its examples with."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from tuneloop.artifacts.model_manifest import parse_model_manifest
from tuneloop.artifacts.records import Record, read_output
from tuneloop.errors import TuneloopError
from tuneloop.history.stored import StoredRun
from tuneloop.runs.planning.base_model import (
    TUNED_MANIFEST,
    FoundModel,
    find_stored_model,
    find_tuned_model,
    folder_of,
)

if TYPE_CHECKING:
    from tuneloop.training.text.chat_format import ChatFormat
    from tuneloop.training.text.layout import Thinking

MAX_FORMATS = 2
"""Maximum number of tokenizers in memory; a large one takes a few hundred megabytes."""
PACKAGES = ("tokenizers", "sentencepiece")
"""Packages that read tokenizers; each is needed for some models."""

log = logging.getLogger(__name__)


class NoChatFormat(Exception):
    """A run's examples cannot be encoded here; the message is a sentence for the page."""


class ChatFormats:
    """The chat formats that were used last."""

    def __init__(self) -> None:
        """Start without any."""
        self._known: OrderedDict[tuple[str, str], ChatFormat] = OrderedDict()
        self._lock = threading.Lock()

    def of_run(self, artifacts: str, run: StoredRun) -> ChatFormat:
        """Return the chat format that a run trains with.

        Raises:
            NoChatFormat: it is not known yet, or cannot be read here.
        """
        spec = run.manifest.spec.get("train") if run.manifest else None
        train: dict[str, Any] = spec if isinstance(spec, dict) else {}
        thinking = str(train.get("thinking", "plain"))
        key = (_identity(artifacts, run), thinking)
        with self._lock:  # two viewers of one run load its tokenizer once
            if key not in self._known:
                self._known[key] = self._load(artifacts, run, train, thinking)
            self._known.move_to_end(key)
            while len(self._known) > MAX_FORMATS:
                self._known.popitem(last=False)
            return self._known[key]

    def _load(
        self, artifacts: str, run: StoredRun, train: dict[str, Any], thinking: str
    ) -> ChatFormat:
        try:
            from tuneloop.training.text.stored_format import read_chat_format

            model = _model_of(artifacts, run, train)
            mode: Thinking = "steps" if thinking == "steps" else "plain"
            return read_chat_format(model.manifest, model.folder, thinking=mode)
        except ModuleNotFoundError as e:
            if e.name not in PACKAGES:
                raise
            raise NoChatFormat(
                f"The package {e.name} is not installed where this store runs, so this page shows"
                f" text instead of tokens; install it with `pip install {' '.join(PACKAGES)}`."
            ) from e
        except TuneloopError as e:
            # The message goes to the log only, because it can contain paths of the server.
            log.error("tokenizer of run %s: %s", run.run_id, e)
            raise NoChatFormat(
                "The tokenizer of the run's model cannot be read, so this page shows text instead"
                " of tokens; the store's log says why."
            ) from e


def _record_of(run: StoredRun, stage: str) -> Record | None:
    return next((each.record for each in run.stages if each.name == stage), None)


def _starts_from_random(run: StoredRun) -> bool:
    return run.manifest is None or run.manifest.model is None or run.manifest.model.name is None


def _identity(artifacts: str, run: StoredRun) -> str:
    """Return what names the model of a run."""
    if not _starts_from_random(run) and run.manifest and run.manifest.model:
        return f"{artifacts} {run.manifest.model.name} {run.manifest.model.digest}"
    record = _record_of(run, "train")
    return f"{artifacts} {run.run_id} {record.attempt if record else ''}"


def _model_of(artifacts: str, run: StoredRun, train: dict[str, Any]) -> FoundModel:
    """Find a model with the run's tokenizer and chat template.

    Raises:
        NoChatFormat: the run has not made its tokenizer yet, or the model has changed since.
        TuneloopError: the model is missing or broken.
    """
    if _starts_from_random(run):
        record = _record_of(run, "train")
        if record is None:
            raise NoChatFormat(
                "This run trains its own tokenizer, which exists once the train stage has finished;"
                " until then this page shows text instead of tokens."
            )
        file = record.output(TUNED_MANIFEST)
        manifest = parse_model_manifest(read_output(file, artifacts), file.path)
        return FoundModel(manifest, folder_of(file, artifacts))
    spec = train.get("model")
    spec = spec if isinstance(spec, dict) else {}
    planned = run.manifest.model.digest if run.manifest and run.manifest.model else None
    if spec.get("run"):
        found = find_tuned_model(str(spec["run"]), artifacts)
    else:  # an alias may name another model now
        found = find_stored_model(str(spec.get("model")), artifacts, digest=planned)
    if planned is not None and found.manifest.digest != planned:
        raise NoChatFormat(
            "The run's base model has changed since the run was planned, so this page shows text"
            " instead of tokens."
        )
    return found
