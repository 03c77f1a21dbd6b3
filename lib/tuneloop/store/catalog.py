"""What a store offers without defining it: recipes, export formats, and training examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tuneloop.datasets.schema import DatasetManifest, TraceRow
from tuneloop.history.cost.prices import PriceList
from tuneloop.history.stored import StoredRun

Render = Callable[[TraceRow, DatasetManifest], dict[str, Any]]
"""(row, manifest) -> the exported record of the row."""


class Token(NamedTuple):
    """A token of a training example, or a part of its text if there is no tokenizer."""

    text: str
    trained: bool
    """Whether the loss covers it."""
    id: int | None
    """Id of the token; None if there is no tokenizer."""
    special: bool
    """Whether it is a control token, which content cannot spell."""


@dataclass(frozen=True)
class ShownExample:
    """A training example, with some of its tokens."""

    example_id: str
    trace_id: str
    """Id of the trace that it was made of; empty if the file names none."""
    dropped_steps: int
    """Steps of the trace that the export dropped to fit the length limit."""
    tokens: tuple[Token, ...]
    start: int
    """Number of the first shown token, from 0; of the first character without a tokenizer."""
    end: int
    """Number of the token after the last shown one."""
    total: int
    """Tokens of the whole example; characters without a tokenizer."""
    trained: int
    """Those of the whole example that the loss covers."""
    page_size: int
    """Maximum number of tokens, or of characters, that are shown at once."""
    has_tokens: bool
    """Whether there is a tokenizer; if not, sizes are in characters."""
    note: str
    """Sentence that says why there is no tokenizer; empty if there is one."""


@dataclass(frozen=True)
class FoundExample:
    """The result of a search for the example of a trace."""

    number: int | None = None
    """Number of the example, from 1; None if there is none so far."""
    split: str = "train"
    """Name of the set that it belongs to."""
    excluded: str = ""
    """Why the export has excluded the trace; empty if it has not."""
    next: str = ""
    """Where to continue a search that took too long; empty if it is finished."""


class Examples(Protocol):
    """Reads the training examples of runs."""

    def count(self, run: StoredRun, split: str) -> int | None:
        """Return the number of examples of a set; None if the run has no export yet."""

    def show(
        self, artifacts: str, run: StoredRun, split: str, number: int, start: int
    ) -> ShownExample:
        """Read one example, and encode it as training does.

        Args:
            artifacts: URL of the artifacts prefix.
            run: the run; its export has a record.
            split: name of the set, `train` or `validation`.
            number: number of the example, from 1 to `count`.
            start: number of the first token to show, from 0.

        Raises:
            DataError: the export's files are missing or broken.
        """

    def find(self, artifacts: str, run: StoredRun, trace_id: str, after: str) -> FoundExample:
        """Look for the example of a trace, for a few seconds.

        Args:
            artifacts: URL of the artifacts prefix.
            run: the run; its export has a record.
            trace_id: id of the trace.
            after: where to continue, as `FoundExample.next` said; empty starts from the beginning.

        Raises:
            DataError: the export's files are missing or broken.
        """


@dataclass(frozen=True)
class Catalog:
    """The recipes and export formats that requests can name, and what pages of runs need."""

    recipes: tuple[str, ...]
    """Values of `recipe` in a build request."""
    export_formats: Mapping[str, Render]
    """Values of `format` in an export, each with the function that renders a row."""
    examples: Examples | None = None
    """Reads training examples for their pages; None has no such pages."""
    prices: PriceList | None = None
    """Prices of accelerators for the costs on pages of runs; None shows chip-hours alone."""
