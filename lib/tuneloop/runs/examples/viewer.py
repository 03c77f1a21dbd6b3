"""Show training examples of runs as tokens, for the pages of the store.

Ids and loss mask come from the functions that training calls. Of an export, only the line of the
shown example is read.
"""

from __future__ import annotations

import json

from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.errors import DataError
from tuneloop.history.stored import StoredRun
from tuneloop.runs.examples.chat_formats import ChatFormats, NoChatFormat
from tuneloop.runs.examples.search import find_trace, parse_place
from tuneloop.settings.limits import input_limits
from tuneloop.stages.exported import TRAINING, VALIDATION
from tuneloop.storage import paths
from tuneloop.store.catalog import FoundExample, ShownExample, Token
from tuneloop.training.export.files import read_line
from tuneloop.training.export.inspect import example_texts, inspect_window
from tuneloop.training.schema import TrainingExample, parse_example

SPLITS = {"train": TRAINING, "validation": VALIDATION}
"""Name of a set of examples -> first part of the names of its files."""
PAGE_TOKENS = 2000
PAGE_CHARACTERS = 10_000
"""Characters of a page without a tokenizer."""
MAX_ENCODED_CHARACTERS = 1_000_000
"""Length limit of an example that a page encodes, which takes about a second."""


class RunExamples:
    """Reads the training examples of runs; see `tuneloop.store.catalog.Examples`."""

    def __init__(self) -> None:
        """Start without tokenizers in memory."""
        self._formats = ChatFormats()

    def count(self, run: StoredRun, split: str) -> int | None:
        """Return the number of examples of a set; None if the run has no export yet."""
        record = _export_of(run)
        return None if record is None else sum(file.rows or 0 for file in _files(record, split))

    def show(
        self, artifacts: str, run: StoredRun, split: str, number: int, start: int
    ) -> ShownExample:
        """Read one example, and encode it as training does."""
        example = _read(artifacts, _required(run), split, number)
        note = ""
        if sum(len(text) for text, _ in example_texts(example)) > MAX_ENCODED_CHARACTERS:
            note = (
                f"This example has over {MAX_ENCODED_CHARACTERS:,} characters, so this page shows"
                " text instead of tokens; use `tuneloop examples inspect`."
            )
        else:
            try:
                return self._show_tokens(artifacts, run, example, start)
            except NoChatFormat as e:
                note = str(e)
        return _show_text(example, start, note)

    def _show_tokens(
        self, artifacts: str, run: StoredRun, example: TrainingExample, start: int
    ) -> ShownExample:
        chat_format = self._formats.of_run(artifacts, run)
        system = run.manifest.spec.get("system_instruction") if run.manifest else None
        system = system if isinstance(system, str) else None
        found = inspect_window(example, chat_format, system, start=start, count=PAGE_TOKENS)
        tokens = tuple(Token(p.text, p.trained, p.id, p.special) for p in found.pieces)
        end = found.start + len(tokens)
        sizes = (found.start, end, found.total, found.trained)
        return _shown(example, tokens, sizes, has_tokens=True)

    def find(self, artifacts: str, run: StoredRun, trace_id: str, after: str) -> FoundExample:
        """Look for the example of a trace, for a few seconds."""
        record = _required(run)
        by_split = {split: _files(record, split) for split in SPLITS}
        every = [file for files in by_split.values() for file in files]
        hit = find_trace(artifacts, record, every, trace_id, parse_place(after))
        for split, files in by_split.items():
            before = 0
            for file in files:
                if file is hit.file:
                    return FoundExample(before + hit.row + 1, split)
                before += file.rows or 0
        return FoundExample(excluded=hit.excluded, next="" if hit.next is None else str(hit.next))


def _export_of(run: StoredRun) -> Record | None:
    return next((stage.record for stage in run.stages if stage.name == "export"), None)


def _required(run: StoredRun) -> Record:
    record = _export_of(run)
    if record is None:
        raise DataError(f"run {run.run_id}: has no export yet; finish its export stage")
    return record


def _files(export: Record, split: str) -> list[OutputFile]:
    return [file for file in export.outputs_like(SPLITS[split]) if file.rows]


def _read(artifacts: str, export: Record, split: str, number: int) -> TrainingExample:
    """Read an example by its number, from 1."""
    row = number - 1
    for file in _files(export, split):
        rows = file.rows or 0
        if row < rows:
            url = paths.join(artifacts, file.path)
            line = read_line(url, row, max_bytes=input_limits().shown_line_bytes)
            return parse_example(line, f"{url}:{row + 1}")
        row -= rows
    raise DataError(f"run {export.run_id}: its export has no {split} example {number}")


def _show_text(example: TrainingExample, start: int, note: str) -> ShownExample:
    """Show a part of the texts of an example, without turn marks."""
    stop, total, trained = start + PAGE_CHARACTERS, 0, 0
    parts = []
    for text, is_trained in example_texts(example):
        part = text[max(0, start - total) : max(0, stop - total)]
        parts.append(Token(part, is_trained, None, False))
        total += len(text)
        trained += len(text) * is_trained
    sizes = (start, min(stop, total), total, trained)
    shown = tuple(part for part in parts if part.text)
    return _shown(example, shown, sizes, has_tokens=False, note=note)


def _shown(
    example: TrainingExample,
    tokens: tuple[Token, ...],
    sizes: tuple[int, int, int, int],
    *,
    has_tokens: bool,
    note: str = "",
) -> ShownExample:
    trace_id, dropped = (_meta(example, name) for name in ("source_trace_id", "dropped_steps"))
    start, end, total, trained = sizes
    return ShownExample(
        example_id=example.id,
        trace_id=trace_id if isinstance(trace_id, str) else "",
        dropped_steps=dropped if isinstance(dropped, int) else 0,
        tokens=tokens,
        start=start,
        end=end,
        total=total,
        trained=trained,
        page_size=PAGE_TOKENS if has_tokens else PAGE_CHARACTERS,
        has_tokens=has_tokens,
        note=note,
    )


def _meta(example: TrainingExample, name: str) -> object:
    raw = example.metadata.get(name)
    return None if raw is None else json.loads(bytes(raw))
