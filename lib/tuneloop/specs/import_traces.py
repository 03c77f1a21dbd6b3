"""Options of the import stage."""

from __future__ import annotations

from pydantic import Field

from tuneloop.specs.base import Spec


class ImportSpec(Spec):
    """Eval traces back into the store."""

    batch_traces: int = Field(default=1000, ge=1, le=1000)
    """Traces in one request; the store takes a batch whole or not at all."""
