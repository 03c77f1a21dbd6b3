"""Options of the eval stage."""

from __future__ import annotations

from pydantic import Field

from tuneloop.specs.base import Spec


class EvalSpec(Spec):
    """Greedy generation by base and tuned model on one static eval set, scored and compared."""

    eval_set: str
    """URL of the JSONL eval set; its content, not its place, is part of the identity."""
    scorer: str = "exact_match"
    """How answers are scored: a name in the table of scorers (`evaluation/scorers/table.py`)."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts generated at once; the last batch is filled up, so that shapes stay constant."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Tokens generated at most; null: the longest training response and 4 more."""
    allow_unchecked: bool = False
    """Evaluate although nobody looked for the eval set in the training set; the report says so."""
