"""Options of the eval stage."""

from __future__ import annotations

from pydantic import Field

from tuneloop.specs.base import Spec


class EvalSpec(Spec):
    """Greedy generation with base and tuned model on one static eval set, scored and compared."""

    eval_set: str
    """URL of the JSONL eval set; the content enters the fingerprint, the location does not."""
    scorer: str = "exact_match"
    """Name of the scorer, as listed in `evaluation/scorers/table.py`."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts per generation batch; a larger batch is faster and needs more device memory."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens generated per answer; null means 4 more than the longest training response."""
    allow_unchecked: bool = False
    """Evaluate even if the export did not search the training set for eval prompts; the report then
    carries a warning."""
