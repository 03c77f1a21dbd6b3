"""The export report: what became of the traces, for people.

One rule: it shows what the record holds and nothing else, so it is the same bytes for the same
fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from tuneloop.datasets.schema import DatasetManifest
from tuneloop.specs import ExportSpec
from tuneloop.training.accounts import REASONS


def render_export_report(
    manifest: DatasetManifest,
    rules: ExportSpec,
    counts: Mapping[str, int],
    lengths: Mapping[str, Mapping[str, Any]],
) -> str:
    """Render Markdown; the picture lies beside it as lengths.svg."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tuneloop.training", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("export_report.md.j2").render(
        manifest=manifest, rules=rules, counts=counts, lengths=lengths, reasons=REASONS
    )
