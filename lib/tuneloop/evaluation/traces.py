"""Convert a model's answers to reasoning traces, which the import stage posts to the trace store.

A trace contains the model's own text. If the model gave no answer or no text where the store
requires one, the trace contains a marker instead, and `meta.outcome` gives the reason.
"""

from __future__ import annotations

from typing import Any

from tuneloop.artifacts.eval_samples import Judgement
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.traces.schema import (
    MAX_STEP_CHARACTERS,
    MAX_STEPS,
    MAX_TEXT_CHARACTERS,
    build_trace,
)

NO_ANSWER = "(no answer)"
NO_TEXT = "(no text)"
CUT = " (cut)"


def build_eval_trace(
    item: EvalItem, judgement: Judgement, *, text: str, parsed: ParsedResponse, meta: dict[str, Any]
) -> dict[str, Any]:
    """Build a trace from one answer, as a JSON object in ReasoningTrace form.

    Args:
        item: the eval item that was asked.
        judgement: the strict judgement of the answer.
        text: the whole generated text.
        parsed: steps and answer, found by the grammar of the prompt template; scorers may read less
            or more than its answer. Without steps, the whole text becomes one step of type
            `unparsed`.
        meta: information about the model. Keys that this function sets take precedence.
    """
    contents = list(parsed.steps) or [text.strip() or NO_TEXT]
    kept = contents[:MAX_STEPS]
    return build_trace(
        item.prompt,
        [_storable(content, MAX_STEP_CHARACTERS) for content in kept],
        _storable(parsed.answer or NO_ANSWER, MAX_TEXT_CHARACTERS),
        step_type="reason" if parsed.steps else "unparsed",
        meta={
            **meta,
            "source": "evaluation",
            "eval_id": item.id,
            "category": item.category,
            "expected_answer": item.expected_answer,
            "outcome": judgement.state,
            "correct": judgement.state == "correct",
            "dropped_steps": len(contents) - len(kept),
        },
    )


def _storable(text: str, limit: int) -> str:
    """Cut text to the store's limit and replace NUL, which byte fallback can generate."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
