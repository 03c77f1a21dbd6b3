"""Options of the eval stage."""

from __future__ import annotations

from pydantic import Field

from tuneloop.specs.answer_backend import BackendSpec
from tuneloop.specs.base import Spec


class EvalSpec(Spec):
    """Greedy generation with base and tuned model on one static eval set, scored and compared."""

    eval_set: str
    """URL of the JSONL eval set; the content enters the fingerprint, the location does not."""
    scorer: str = "exact_match"
    """Name of the scorer, as listed in `evaluation/scorers/table.py`."""
    batch_size: int = Field(default=64, ge=1)
    """Maximum prompts per generation batch; a larger batch is faster and needs more device
    memory."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens generated per answer; null means 4 more than the longest training response."""
    base_examples: int = Field(default=0, ge=0, le=16)
    """Training examples in the prompt of the base model, as earlier turns of the conversation. With
    more than 0 the base model is asked with and without them, and the verdict compares the tuned
    model with the better of the two. The examples have the item's category where they name one."""
    guard_set: str | None = None
    """URL of a JSONL eval set of general questions, which shows what tuning makes worse; null asks
    none. The content enters the fingerprint, the location does not."""
    guard_scorer: str = "contains_answer"
    """Name of the scorer of the guard set, as listed in `evaluation/scorers/table.py`."""
    guard_max_new_tokens: int = Field(default=64, ge=1)
    """Maximum tokens generated per answer to a guarded question; a lower value is faster and counts
    long answers as wrong."""
    backend: BackendSpec | None = None
    """Server that answers for some of the models; null generates all answers in the eval stage."""
    allow_unchecked: bool = False
    """Evaluate even if the export did not search the training set for eval prompts; the report then
    carries a warning."""
