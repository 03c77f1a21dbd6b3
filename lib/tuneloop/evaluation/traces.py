"""Convert a model's answers to reasoning traces, which the import stage posts to the trace store.

A trace contains the model's own text. If the model gave no answer or no text where the store
requires one, the trace contains a marker instead, and `meta.outcome` gives the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem
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
    item: EvalItem, score: Score, *, text: str, steps: Sequence[str], meta: dict[str, Any]
) -> dict[str, Any]:
    """Build a trace from one answer, as a JSON object in ReasoningTrace form.

    Args:
        item: the eval item that was asked.
        score: the score of the answer, with the extracted answer.
        text: the whole generated text.
        steps: the steps parsed from the text. If there are none, the whole text becomes one step of
            type `unparsed`.
        meta: information about the model. Keys that this function sets take precedence.
    """
    contents = list(steps) or [text.strip() or NO_TEXT]
    kept = contents[:MAX_STEPS]
    return build_trace(
        item.prompt,
        [_storable(content, MAX_STEP_CHARACTERS) for content in kept],
        _storable(score.answer or NO_ANSWER, MAX_TEXT_CHARACTERS),
        step_type="reason" if steps else "unparsed",
        meta={
            **meta,
            "source": "evaluation",
            "eval_id": item.id,
            "category": item.category,
            "expected_answer": item.expected_answer,
            "outcome": score.outcome,
            "correct": score.outcome == "correct",
            "dropped_steps": len(contents) - len(kept),
        },
    )


def _storable(text: str, limit: int) -> str:
    """Cut text to the store's limit and replace NUL, which byte fallback can generate."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
