"""The recipes and export formats that a store offers; the store itself defines none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.datasets.schema import DatasetManifest, TraceRow

Render = Callable[[TraceRow, DatasetManifest], dict[str, Any]]
"""(row, manifest) -> the exported record of the row."""


@dataclass(frozen=True)
class Catalog:
    """The recipes and export formats that requests can name."""

    recipes: tuple[str, ...]
    """Values of `recipe` in a build request."""
    export_formats: Mapping[str, Render]
    """Values of `format` in an export, each with the function that renders a row."""
