"""Options of the import stage."""

from __future__ import annotations

from pydantic import Field

from tuneloop.specs.base import Spec


class ImportSpec(Spec):
    """How eval traces or samples are posted to the trace store."""

    batch_traces: int = Field(default=1000, ge=1, le=1000)
    """Traces per request; the store accepts or rejects a request as a whole."""
