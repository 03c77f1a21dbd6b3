"""The export report, a Markdown page about examples, exclusions and lengths.

The report contains only data of the stage's record, so the same fingerprint gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop import templating
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.specs.export import ExportSpec
from tuneloop.training.schema import REASONS


def render_export_report(
    manifest: DatasetManifest,
    rules: ExportSpec,
    counts: Mapping[str, int],
    lengths: Mapping[str, Mapping[str, Any]],
) -> str:
    """Render the report as Markdown; it refers to the picture lengths.svg in the same folder."""
    limits = {"characters": rules.max_length_characters, "tokens": rules.max_length_tokens}
    return templating.render(
        "training/export/export_report.md.j2",
        manifest=manifest,
        rules=rules,
        counts=counts,
        lengths=lengths,
        limits=[f"{limit} {unit}" for unit, limit in limits.items() if limit is not None],
        reasons=REASONS,
    )
