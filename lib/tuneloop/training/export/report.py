"""The export report: what became of the traces, for people.

One rule: it shows what the record holds and nothing else, so it is the same bytes for the same
fingerprint.
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
    """Render Markdown; the picture lies beside it as lengths.svg."""
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
