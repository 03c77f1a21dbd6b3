from __future__ import annotations

import msgspec
import pytest

from tuneloop.datasets.schema import TraceRow
from tuneloop.errors import SpecError
from tuneloop.traces.fast import StoredStep
from tuneloop.training.prompt_templates import Draft, recipe_named


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(SpecError, match="recipe 'x' is unknown, expected one of: answer_only"):
        recipe_named("x")


def test_a_chat_among_traces_is_answered_without_reasoning() -> None:
    recipe = recipe_named("trace_or_chat_v1")
    step = StoredStep(content="greet", i=0, type="reason")
    responses = []
    for meta in ({"chat": msgspec.Raw(b"true")}, {"chat": msgspec.Raw(b"false")}, None):
        row = TraceRow(
            created_at="2026-01-01T00:00:00.000000Z",
            final_answer="Hi, how are you?",
            id="1",
            meta=meta,
            prompt="Hello!",
            steps=[step],
            trace_version="v1",
        )
        draft = recipe.draft(row, None)
        assert isinstance(draft, Draft)
        responses.append(recipe.render_response(draft.steps, draft.answer))
    trace = "Reasoning:\n1. greet\nAnswer: Hi, how are you?"
    assert responses == ["Hi, how are you?", trace, trace]
