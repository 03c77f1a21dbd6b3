"""A trace as pages show it: its parts in order, bounded in size, and the labels of reviewers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from tuneloop.store.db.labels import StoredLabel
from tuneloop.store.db.scores import StoredScore
from tuneloop.traces.schema import (
    AssistantMessage,
    ChatMessage,
    StoredTrace,
    ToolCall,
    ToolMessage,
    TraceStep,
)

SHOWN_CHARACTERS = 1_000_000
"""Maximum number of characters of a trace's steps on its page; the same for earlier messages."""
SHOWN_TOOL_CHARACTERS = 200_000
"""Maximum number of characters of the definitions of tools on a page."""


class ShownTool(NamedTuple):
    """The definition of a tool."""

    name: str
    description: str
    text: str
    """The definition as JSON; empty if the page is too long."""


class ShownMessage(NamedTuple):
    """One message before the prompt."""

    role: str
    content: str
    reasoning: str | None
    calls: tuple[ToolCall, ...]
    name: str | None
    """Name of the tool, in its message."""
    call_id: str | None
    """Identifier of the call that a tool's message answers."""

    @property
    def characters(self) -> int:
        """Characters of the whole message."""
        calls = sum(len(call.arguments) for call in self.calls)
        return len(self.content) + len(self.reasoning or "") + calls


class ShownLabel(NamedTuple):
    """A label of a reviewer."""

    name: str
    shown: str
    who: str
    reason: str
    created_at: datetime


@dataclass(frozen=True)
class TraceView:
    """A trace with what its page shows."""

    id: str
    created_at: datetime
    trace_version: str
    source: Any
    system: str | None
    tools: tuple[ShownTool, ...]
    messages: tuple[ShownMessage, ...]
    omitted_messages: int
    """Number of the oldest messages that the page omits."""
    prompt: str
    steps: tuple[TraceStep, ...]
    step_count: int
    omitted_steps: int
    final_answer: str
    reward: float | None
    labels: str | None
    """Labels of the trace's producer as JSON; None if it gave none."""
    meta: str | None
    """Meta as JSON; None if the trace has none."""


def view_trace(found: StoredTrace) -> TraceView:
    """Prepare a trace for its page."""
    trace = found.trace
    steps = sorted(trace.steps, key=lambda step: step.i)
    shown = tuple(_first(steps, lambda step: len(step.content)))
    messages = [_shown(message) for message in trace.messages or []]
    newest = tuple(_first(messages[::-1], lambda message: message.characters))[::-1]
    return TraceView(
        id=str(found.id),
        created_at=found.created_at,
        trace_version=trace.trace_version,
        source=(trace.meta or {}).get("source"),
        system=trace.system,
        tools=tuple(_tools(trace.tools or [])),
        messages=newest,
        omitted_messages=len(messages) - len(newest),
        prompt=trace.prompt,
        steps=shown,
        step_count=len(steps),
        omitted_steps=len(steps) - len(shown),
        final_answer=trace.final_answer,
        reward=trace.reward,
        labels=None if trace.labels is None else pretty(trace.labels),
        meta=None if trace.meta is None else pretty(trace.meta),
    )


def show_labels(labels: Iterable[StoredLabel]) -> list[ShownLabel]:
    """Prepare labels for a page."""
    return [
        ShownLabel(each.name, shown_value(each.value), each.who, each.reason, each.created_at)
        for each in labels
    ]


def shown_value(text: str) -> str:
    """Return the value of a label for people: its text, or else its JSON."""
    value = json.loads(text)
    return value if isinstance(value, str) else text


def newest_scores(scores: Sequence[StoredScore]) -> dict[str, float]:
    """Return the newest score of each criterion, in the order of the first one."""
    return {each.criteria: each.score for each in scores}


def pretty(value: Any) -> str:
    """Format a JSON value for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _first(items: Iterable[Any], size: Callable[[Any], int]) -> Iterable[Any]:
    characters = 0
    for item in items:
        characters += size(item)
        if characters > SHOWN_CHARACTERS:
            return
        yield item


def _shown(message: ChatMessage) -> ShownMessage:
    reasoning, calls, name, call_id = None, tuple[ToolCall, ...](), None, None
    if isinstance(message, AssistantMessage):
        reasoning, calls = message.reasoning, tuple(message.tool_calls or ())
    if isinstance(message, ToolMessage):
        name, call_id = message.name, message.tool_call_id
    return ShownMessage(message.role, message.content, reasoning, calls, name, call_id)


def _tools(definitions: Sequence[dict[str, Any]]) -> Iterable[ShownTool]:
    characters = 0
    for definition in definitions:
        function = definition.get("function")
        parts = function if isinstance(function, dict) else definition
        name, description = parts.get("name"), parts.get("description")
        text = pretty(definition)
        characters += len(text)
        yield ShownTool(
            name if isinstance(name, str) else "(no name)",
            description if isinstance(description, str) else "",
            text if characters <= SHOWN_TOOL_CHARACTERS else "(omitted: see the JSON)",
        )
