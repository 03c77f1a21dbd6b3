"""Answers of a model as reasoning traces: what the import stage puts back into the store.

A trace holds what the model really said. Where the store requires something that the model did not
give, the trace holds a marker, and `meta.outcome` gives the reason.
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
    """Render one answer in ReasoningTrace form.

    Args:
        item: the question.
        score: how the answer was judged, with the answer as extracted.
        text: all that the model generated.
        steps: the steps parsed out of it; without any, the whole text is the one step, of type
            `unparsed`.
        meta: what is known about the model; the keys set here win over it.
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
    """Text without NUL, which byte fallback can spell, cut to the limit of the store."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
