"""Formats in which datasets and examples are exported for people and other tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from tuneloop.datasets.schema import DatasetManifest, TraceRow, trace_record
from tuneloop.errors import DataError
from tuneloop.traces.schema import CHAT_VERSION
from tuneloop.training.chat_drafts import context_of
from tuneloop.training.conversation import Conversation, Message
from tuneloop.training.export.examples import build_example
from tuneloop.training.renderers import render_tunix_sft_prompt
from tuneloop.training.schema import TrainingExample


def training_example_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the `training_example` format of the store's export."""
    example = build_example(row, manifest)
    metadata: dict[str, Any] = example.metadata  # The example is new, so this may be changed.
    metadata["created_at"] = row.created_at
    found: dict[str, Any] = {
        "id": example.id,
        "metadata": metadata,
        "prompt": example.prompt,
        "response": example.response,
    }
    if example.conversation is not UNSET:
        found["conversation"] = example.conversation
    return found


def tunix_sft_record(row: TraceRow, manifest: DatasetManifest) -> dict[str, Any]:
    """Render a trace in the `tunix_sft` format, whose `prompts` field holds both turns as text.

    Raises:
        DataError: the trace has earlier turns, a system text, tools or calls.
    """
    if row.trace_version == CHAT_VERSION and context_of(row, keeps_reasoning=True) is not None:
        raise DataError(
            f"trace {row.id}: is part of a conversation, but format tunix_sft holds a prompt, steps"
            " and an answer alone; use format training_example or trace"
        )
    trace = {
        "prompt": row.prompt,
        "trace_steps": row.step_contents,
        "final_answer": row.final_answer,
    }
    return {
        "id": row.id,
        "prompts": render_tunix_sft_prompt(trace),
        "final_answer": row.final_answer,
        "metadata": {
            **(row.meta or {}),
            "created_at": row.created_at,
            "trace_version": row.trace_version,
            "format": "tunix_sft",
        },
    }


EXPORT_FORMATS: Mapping[str, Callable[[TraceRow, DatasetManifest], dict[str, Any]]] = {
    "trace": trace_record,
    "tunix_sft": tunix_sft_record,
    "training_example": training_example_record,
}
"""Formats of `GET /api/datasets/{key}/export.jsonl`, by name."""


def messages_record(example: TrainingExample) -> dict[str, Any]:
    """Convert an example to `messages`, which TRL, Axolotl and chat templates read.

    A conversation has its tools beside the messages, and its reasoning as `reasoning_content`.
    """
    if example.conversation is not UNSET:
        return _conversation_record(example.id, example.conversation)
    return {
        "id": example.id,
        "messages": [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": example.response},
        ],
    }


def _conversation_record(example_id: str, conversation: Conversation) -> dict[str, Any]:
    found: dict[str, Any] = {"id": example_id, "messages": openai_messages(conversation)}
    if conversation.tools is not UNSET:
        found["tools"] = conversation.tools
    return found


def openai_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Convert a conversation to messages in OpenAI's form, with its system text as the first."""
    messages = [_openai_message(each) for each in conversation.messages]
    if conversation.system is not UNSET:
        messages.insert(0, {"role": "system", "content": conversation.system})
    return messages


def _openai_message(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not UNSET:
        found["reasoning_content"] = message.reasoning
    if message.calls:
        found["tool_calls"] = [
            {"type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            | ({"id": each.id} if each.id else {})
            for each in message.calls
        ]
    for name in ("name", "tool_call_id"):
        if getattr(message, name):
            found[name] = getattr(message, name)
    return found


def prompt_completion_record(example: TrainingExample) -> dict[str, Any]:
    """Convert an example to TRL's standard format with `prompt` and `completion`.

    Raises:
        DataError: the example is a conversation of more than a prompt and a completion.
    """
    if not example.is_pair:
        raise DataError(
            f"example {example.id}: is a conversation, which prompt_completion cannot hold; use"
            " --format messages"
        )
    return {"completion": example.response, "id": example.id, "prompt": example.prompt}


VIEWS = {"messages": messages_record, "prompt_completion": prompt_completion_record}
"""Example formats for other training tools, by name."""
