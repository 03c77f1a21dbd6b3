"""Convert a model's answers to reasoning traces, which the import stage posts to the trace store.

A trace contains the model's own text. If the model gave no answer or no text where the store
requires one, the trace contains a marker instead, and `meta.outcome` (of an evaluation) or
`meta.state` (of a sample) gives the reason.
"""

from __future__ import annotations

import uuid
from typing import Any

from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
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
EVALUATION, SAMPLE = "evaluation", "sample"
"""Values of `meta.source`."""
_NAMESPACE = uuid.UUID("0d2c9f0e-7b0c-5b5e-9c43-5f6c2a1f7e11")


def build_eval_trace(
    item: EvalItem, judgement: Judgement, *, text: str, parsed: ParsedResponse, meta: dict[str, Any]
) -> dict[str, Any]:
    """Build a trace from one answer of an evaluation, as a JSON object in ReasoningTrace form.

    Args:
        item: the eval item that was asked.
        judgement: the strict judgement of the answer.
        text: the whole generated text.
        parsed: steps and answer, found by the grammar of the prompt template; scorers may read less
            or more than its answer. Without steps, the whole text becomes one step of type
            `unparsed`.
        meta: information about the model. Keys that this function sets take precedence.
    """
    row = item.to_item("")
    return _build(
        row,
        _contents(text, parsed, parsed.answer if row.bare_answer is True else None),
        parsed,
        {
            **meta,
            "source": EVALUATION,
            "eval_id": item.id,
            "category": item.category,
            "expected_answer": item.expected_answer,
            "outcome": judgement.state,
            "correct": judgement.state == "correct",
        },
    )


def build_sample_trace(
    item: Item,
    judgement: Judgement,
    *,
    sample: int,
    text: str,
    parsed: ParsedResponse,
    answer_alone: str | None,
    meta: dict[str, Any],
) -> dict[str, Any]:
    """Build a trace from one completion of a sampling run, as a JSON object.

    A completion without steps becomes a trace without steps if it holds the answer alone. Other
    text before the answer becomes one step of type `unparsed`, and so does the whole text of a
    completion without an answer.

    Args:
        item: the prompt that was asked, and its expected answer.
        judgement: the strict judgement of the completion; its value is the reward.
        sample: number of the completion among those of its prompt, from 0.
        text: the whole generated text.
        parsed: steps and answer, found by the grammar of the prompt template.
        answer_alone: how the answer is written without steps: as the prompt template renders it, or
            as it is if the whole text is the answer; None without an answer.
        meta: information about the model and the run; `sampled` is the fingerprint of the stage.
            Keys that this function sets take precedence.
    """
    return _build(
        item,
        _contents(text, parsed, answer_alone),
        parsed,
        {
            **meta,
            "source": SAMPLE,
            "sample_id": sample_id(str(meta["sampled"]), item.id, sample),
            "prompt_id": item.id,
            "sample": sample,
            "category": item.category,
            "expected_answer": item.expected_answer,
            "state": judgement.state,
        },
        # Nothing is known about an answer that the scorer could not judge.
        reward=None if judgement.state == "error" else judgement.value,
    )


def sample_id(sampled: str, prompt_id: str, sample: int) -> str:
    """Return the id of a sample, the same in every run and on every machine.

    Args:
        sampled: fingerprint of the sample stage.
        prompt_id: id of the prompt.
        sample: number of the completion, from 0.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{sampled}/{sample}/{prompt_id}"))


def _whole(text: str, parsed: ParsedResponse) -> list[str]:
    """Return the contents of the steps; without any, the whole text is one."""
    return list(parsed.steps) or [text.strip() or NO_TEXT]


def _contents(text: str, parsed: ParsedResponse, answer_alone: str | None) -> list[str]:
    """Return the contents of the steps; an answer alone has none."""
    if parsed.is_whole:
        return list(parsed.steps)
    if parsed.steps or answer_alone is None or not text.rstrip().endswith(answer_alone.rstrip()):
        return _whole(text, parsed)
    before = text.rstrip().removesuffix(answer_alone.rstrip()).strip()
    return [before] if before else []


def _build(
    item: Item,
    contents: list[str],
    parsed: ParsedResponse,
    meta: dict[str, Any],
    reward: float | None = None,
) -> dict[str, Any]:
    kept = contents[:MAX_STEPS]
    context, chat = item.context, dict[str, Any]()
    if context is not None:
        chat = {
            "system": context.system,
            "messages": list(context.messages) or None,
            "tools": list(context.tools) or None,
        }
    if item.bare_answer is True:
        meta = {**meta, "bare_answer": True}
    return build_trace(
        item.prompt,
        [_storable(content, MAX_STEP_CHARACTERS) for content in kept],
        _storable(parsed.answer or NO_ANSWER, MAX_TEXT_CHARACTERS),
        step_type="reason" if parsed.steps else "unparsed",
        meta={**meta, "dropped_steps": len(contents) - len(kept)},
        reward=reward,
        **chat,
    )


def _storable(text: str, limit: int) -> str:
    """Cut text to the store's limit and replace NUL, which byte fallback can generate."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT
