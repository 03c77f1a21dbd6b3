"""The schema of reasoning traces: fields, limits, and functions to build and validate a trace.

A valid trace contains no lone surrogate, no NUL and no NaN, so that every database and JSON reader
can store and read it. Unknown fields are dropped silently, so that producers may send more fields.

Version 1.1 adds earlier turns, a system message, tools, a reward and labels, steps that are calls
of tools, and traces without steps. All of them are optional, and a field that is not set is not
written. Traces of version 1.0 therefore keep their bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

from tuneloop.errors import DataError
from tuneloop.settings.reading import DESCRIBE_FIELDS
from tuneloop.validation import first_error

TRACE_VERSION = "1.0"
"""`trace_version` of traces that tuneloop creates, unless they need 1.1."""
CHAT_VERSION = "1.1"
"""`trace_version` of traces with a field or a form that 1.0 does not have."""
TOOL_CALL, TOOL_RESULT, MESSAGE = "tool_call", "tool_result", "message"
"""Types of steps that are no reasoning: the call of a tool, its result, and text of the model that
is no final answer. All other types are reasoning."""
CHAT_STEPS = frozenset({TOOL_CALL, TOOL_RESULT, MESSAGE})
"""These three types."""

MAX_STEPS = 1000
MAX_STEP_CHARACTERS = 20_000
MAX_TEXT_CHARACTERS = 50_000
"""Maximum length of a prompt or a final answer; all lengths here are in code points."""
MAX_MESSAGES = 1000
MAX_CALLS = 100
"""Maximum calls of tools in one message."""
MAX_TOOLS = 256
MAX_NAME_CHARACTERS = 64
"""Maximum length of a trace's version and of a step's type."""
MAX_TOOL_NAME_CHARACTERS = 256
"""Maximum length of the name of a tool, and of the id of a call."""
STEP_INDEX_LIMIT = 2**63
"""Exclusive upper limit of step indices."""
MAX_META_BYTES = 4 << 20
"""Maximum size of the meta of a trace as JSON. In memory, JSON can take thirty times its size."""
MAX_JSON_DEPTH = 64
"""Maximum nesting depth of meta and filters. Some JSON readers fail at a depth of 100 or more."""


def utc_text(moment: datetime) -> str:
    """Format a time in UTC with microseconds, such as `2026-11-22T11:22:10.546379Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _no_nul(text: str) -> str:
    if "\x00" in text:  # PostgreSQL cannot store NUL, and C programs end a text there.
        raise ValueError("holds a NUL character, expected text; remove it")
    return text


def _check_string(text: str) -> None:
    _no_nul(text)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("holds a lone surrogate, expected whole characters; write both halves")


def _strict_json(value: Any) -> Any:
    """Refuse JSON values that some JSON readers or databases cannot handle."""
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() or "\x00" in item:
                _check_string(item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("holds NaN or an infinity, expected finite numbers; use null")
        elif isinstance(item, dict | list):
            if depth > MAX_JSON_DEPTH:
                raise ValueError(
                    f"is nested deeper than {MAX_JSON_DEPTH} levels, expected less; flatten it"
                )
            if isinstance(item, dict):
                waiting.extend((key, depth) for key in item)
                item = item.values()
            waiting.extend((child, depth + 1) for child in item)
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_strict_json)]
UtcMoment = Annotated[AwareDatetime, PlainSerializer(utc_text, return_type=str, when_used="json")]


ToolName = Annotated[Text, Field(min_length=1, max_length=MAX_TOOL_NAME_CHARACTERS)]


class _Part(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=DESCRIBE_FIELDS)


def _is_unset(value: Any) -> bool:
    return value is None


class TraceStep(_Part):
    """One step: reasoning, text of the model, the call of a tool, or its result."""

    i: int = Field(ge=0, lt=STEP_INDEX_LIMIT)
    """Number of the step, which gives the order."""
    type: Text = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    """Kind of step: `tool_call`, `tool_result`, `message`, or any name of reasoning."""
    content: Text = Field(max_length=MAX_STEP_CHARACTERS)
    """Text of the step; the arguments of a call as JSON. Only the result of a tool may be empty."""
    name: ToolName | None = Field(default=None, exclude_if=_is_unset)
    """Name of the tool; a step of type `tool_call` needs one."""
    call_id: ToolName | None = Field(default=None, exclude_if=_is_unset)
    """Identifier that a call and its result share."""

    @field_validator("content")
    @classmethod
    def _not_empty(cls, content: str, info: ValidationInfo) -> str:
        if not content and info.data.get("type") != TOOL_RESULT:
            raise PydanticKnownError("string_too_short", {"min_length": 1})
        return content


class _Message(_Part):
    """What all messages have. Unknown keys are refused, because they would be lost."""

    model_config = ConfigDict(extra="forbid")

    content: Text = Field(max_length=MAX_TEXT_CHARACTERS)
    """Text of the message; may be empty."""


class ToolCall(_Part):
    """A call of a tool in an earlier turn."""

    model_config = ConfigDict(extra="forbid")

    name: ToolName
    """Name of the tool."""
    arguments: Text = Field(max_length=MAX_STEP_CHARACTERS)
    """The arguments as JSON text, exactly as the model wrote them."""
    id: ToolName | None = Field(default=None, exclude_if=_is_unset)
    """Identifier that the result repeats."""


class UserMessage(_Message):
    """A message of the user."""

    role: Literal["user"]
    """Author of the message."""


class AssistantMessage(_Message):
    """A message of the model."""

    role: Literal["assistant"]
    """Author of the message."""
    reasoning: Text | None = Field(
        default=None, max_length=MAX_TEXT_CHARACTERS, exclude_if=_is_unset
    )
    """Reasoning before its text and calls."""
    tool_calls: list[ToolCall] | None = Field(
        default=None, max_length=MAX_CALLS, exclude_if=_is_unset
    )
    """Calls of tools, in order."""
    train: StrictBool | None = Field(default=None, exclude_if=_is_unset)
    """Whether training may learn the message, if `export.loss` covers it; false never learns it."""


class ToolMessage(_Message):
    """The result of a call."""

    role: Literal["tool"]
    """Author of the message."""
    tool_call_id: ToolName | None = Field(default=None, exclude_if=_is_unset)
    """Identifier of the call."""
    name: ToolName | None = Field(default=None, exclude_if=_is_unset)
    """Name of the tool."""


ChatMessage = Annotated[UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


# Validation stops at the first invalid step of a trace. Reporting a thousand invalid steps in each
# of a thousand traces would make gigabytes of errors.
Steps = Annotated[list[TraceStep], Field(max_length=MAX_STEPS, fail_fast=True)]
Messages = Annotated[
    list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]
Tools = Annotated[list[JsonObject], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class ReasoningTrace(_Part):
    """A prompt, reasoning steps and a final answer."""

    trace_version: Text = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    """Version of the schema: `1.0` or `1.1`."""
    prompt: Text = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    """The last message of the user."""
    steps: Steps
    """Steps in any order; indices must be unique and may have gaps. Version 1.1 may have none."""
    final_answer: Text = Field(max_length=MAX_TEXT_CHARACTERS)
    """The answer. It may be empty only if the last step is the call of a tool."""
    meta: JsonObject | None = None
    """Any data of the producer; dataset filters select traces by these values."""
    system: Text | None = Field(
        default=None, min_length=1, max_length=MAX_TEXT_CHARACTERS, exclude_if=_is_unset
    )
    """System message of the conversation."""
    messages: Messages | None = Field(default=None, exclude_if=_is_unset)
    """Messages before the prompt, oldest first."""
    tools: Tools | None = Field(default=None, exclude_if=_is_unset)
    """Definitions of the tools that the model may call, each as
    `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    reward: float | None = Field(
        default=None, strict=True, allow_inf_nan=False, exclude_if=_is_unset
    )
    """Score of the whole trace from a verifier; a higher reward is better."""
    labels: JsonObject | None = Field(default=None, exclude_if=_is_unset)
    """Labels that the producer gave; labels of reviewers are stored beside the trace."""

    @field_validator("steps")
    @classmethod
    def _valid_steps(cls, steps: list[TraceStep], info: ValidationInfo) -> list[TraceStep]:
        if not steps and info.data.get("trace_version") != CHAT_VERSION:
            context = {"field_type": "List", "min_length": 1, "actual_length": 0}
            raise PydanticKnownError("too_short", context)
        if len({step.i for step in steps}) < len(steps):
            raise ValueError("Step indices must be unique")
        nameless = next(
            (step.i for step in steps if step.type == TOOL_CALL and not step.name), None
        )
        if nameless is not None and info.data.get("trace_version") == CHAT_VERSION:
            raise ValueError(f"Step {nameless} calls a tool without a name; add the name")
        return steps

    @field_validator("final_answer")
    @classmethod
    def _answered(cls, answer: str, info: ValidationInfo) -> str:
        steps = info.data.get("steps") or []
        last = max(steps, key=lambda step: step.i, default=None)
        if not answer and (last is None or last.type != TOOL_CALL):
            raise PydanticKnownError("string_too_short", {"min_length": 1})
        return answer


def prompt_key(prompt: str, system: str | None = None, messages: Any = None) -> str:
    """Return what all traces of one prompt share: 32 hexadecimal digits of a sha256.

    Args:
        prompt: the last message of the user.
        system: the system message.
        messages: the messages before the prompt, as JSON values.
    """
    if system is None and not messages:
        text = prompt
    else:
        text = json.dumps([system, messages, prompt], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class StoredTrace(BaseModel):
    """A trace with the id and the creation time that the store gave it."""

    id: UUID
    created_at: UtcMoment
    trace: ReasoningTrace


def build_trace(
    prompt: str,
    steps: Iterable[str | Mapping[str, Any]],
    final_answer: str,
    *,
    meta: dict[str, Any] | None = None,
    step_type: str = "reason",
    **chat: Any,
) -> dict[str, Any]:
    """Build a trace as a JSON object, without validating it.

    Args:
        prompt: the prompt.
        steps: contents of the steps, in order, or their fields besides `i`.
        final_answer: the final answer.
        meta: any data to keep with the trace.
        step_type: type of every step that is given as text.
        chat: fields of version 1.1: system, messages, tools, reward, labels. None counts as absent.
    """
    built: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        fields = {"type": step_type, "content": step} if isinstance(step, str) else step
        built.append({"i": i, **fields})
    more = {name: value for name, value in chat.items() if value is not None}
    is_chat = more or not built or any(each["type"] in CHAT_STEPS for each in built)
    return {
        "trace_version": CHAT_VERSION if is_chat else TRACE_VERSION,
        "prompt": prompt,
        "steps": built,
        "final_answer": final_answer,
        "meta": meta,
        **more,
    }


def parse_trace(value: Mapping[str, Any], place: str, line: int) -> ReasoningTrace:
    """Validate one trace of a file.

    Args:
        value: the JSON object on the line.
        place: path or URL of the file, for error messages.
        line: the line number, from 1.

    Raises:
        DataError: the object is not a valid trace; the message names file, line and field.
    """
    try:
        return ReasoningTrace.model_validate(value)
    except ValidationError as e:
        raise DataError(f"{place}:{line}: {first_error(e)}; fix the line") from e
