"""Answers of a model as reasoning traces: what the import stage puts back into the store.

One rule: a trace holds what the model really said. Where the store asks for something that the
model did not give, a marker stands there and `meta.outcome` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneloop.datasets.schema import MAX_STEP_CHARACTERS, MAX_STEPS, MAX_TEXT_CHARACTERS
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem

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
    return {
        "trace_version": "1.0",
        "prompt": item.prompt,
        "steps": [
            {
                "i": i,
                "type": "reason" if steps else "unparsed",
                "content": _storable(content, MAX_STEP_CHARACTERS),
            }
            for i, content in enumerate(kept)
        ],
        "final_answer": _storable(score.answer or NO_ANSWER, MAX_TEXT_CHARACTERS),
        "meta": {
            **meta,
            "source": "evaluation",
            "eval_id": item.id,
            "category": item.category,
            "expected_answer": item.expected_answer,
            "outcome": score.outcome,
            "correct": score.outcome == "correct",
            "dropped_steps": len(contents) - len(kept),
        },
    }


def _storable(text: str, limit: int) -> str:
    """What the store takes: no NUL, which byte fallback can spell, and not too long."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
