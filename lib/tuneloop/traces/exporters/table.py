"""The table of formats that `traces export` and `datasets export` write.

To add a format, write a function in a new module of this package, add a row, and a section to
docs/how-to/import.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Export = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A valid trace -> the record of it."""


@dataclass(frozen=True)
class Exporter:
    """One row of the table."""

    export: Callable[[], Export]
    """Import the format's module and return its function."""
    description: str
    """Content of a line; shown by `--help`."""
    importer: str
    """Key of IMPORTERS that reads the records."""
    is_lossless: bool = True
    """Whether an import of the record gives the same trace; otherwise the losses are counted."""


def _trace() -> Export:
    return lambda trace: trace


def _messages() -> Export:
    from tuneloop.traces.exporters.chat import messages_record

    return messages_record


def _axolotl() -> Export:
    from tuneloop.traces.exporters.chat import axolotl_record

    return axolotl_record


def _trl() -> Export:
    from tuneloop.traces.exporters.chat import trl_record

    return trl_record


def _openai() -> Export:
    from tuneloop.traces.exporters.chat import openai_record

    return openai_record


def _atif() -> Export:
    from tuneloop.traces.exporters.atif import atif_record

    return atif_record


EXPORTERS: dict[str, Exporter] = {
    "trace": Exporter(_trace, "traces", "trace"),
    "messages": Exporter(_messages, "messages of OpenAI's chat API", "messages"),
    "atif": Exporter(_atif, "trajectories of Harbor's ATIF 1.8", "atif"),
    "trl": Exporter(_trl, "prompt and completion as messages, for TRL", "prompt_completion"),
    "axolotl": Exporter(_axolotl, "messages for Axolotl's type chat_template", "messages"),
    "openai": Exporter(_openai, "fine-tuning of OpenAI, without meta", "messages", False),
}
"""Formats by name. This module imports nothing heavy, because `tuneloop --help` imports it."""
