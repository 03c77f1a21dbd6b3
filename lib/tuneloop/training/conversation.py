"""A conversation to train on: its system text, tools and messages, and which messages are learned.

An example of a plain prompt and response has none. A message of the assistant holds what the model
should write: visible text, reasoning and tool calls, before any chat template is applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from tuneloop import jsonl

Loss = Literal["final", "all_assistant"]
"""What the loss covers: the last message of the assistant, or every one of them."""
Role = Literal["user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One call of a function; the fields are sorted, which makes the JSON canonical."""

    arguments: str
    """JSON text of the arguments."""
    id: str | UnsetType = UNSET
    """Id that the result of the call names."""
    name: str
    """Name of the function."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message; the fields are sorted, which makes the JSON canonical."""

    content: str
    """Text of the user, visible text of the assistant, or result of a tool call."""
    name: str | UnsetType = UNSET
    """Name of the function that a result comes from."""
    reasoning: str | UnsetType = UNSET
    """Text that the assistant writes before its visible text."""
    role: Role
    tool_call_id: str | UnsetType = UNSET
    """Id of the call that a result answers."""
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET
    """Calls that the assistant makes after its text."""
    train: bool | UnsetType = UNSET
    """Whether the loss may cover the message; only false changes anything."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Return the tool calls, which may be none."""
        return () if self.tool_calls is UNSET else self.tool_calls

    def texts(self) -> Iterator[str]:
        """Yield every text of the message."""
        if self.reasoning is not UNSET:
            yield self.reasoning
        if self.content:
            yield self.content
        for call in self.calls:
            yield f"{call.name}({call.arguments})"


class Conversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A conversation. One to train on ends with a message of the assistant."""

    loss: Loss = "final"
    """The messages that the loss covers."""
    messages: tuple[Message, ...]
    """All messages in order."""
    system: str | UnsetType = UNSET
    """System text of the trace."""
    think_block: bool | UnsetType = UNSET
    """True if a model without a thinking block writes reasoning in a block of `<think>`; otherwise
    it writes it as text before its answer."""
    tools: tuple[msgspec.Raw, ...] | UnsetType = UNSET
    """Definitions of the tools as JSON, in the form `{"type": "function", "function": {...}}`."""

    def parts(self) -> Iterator[tuple[str, bool]]:
        """Yield every text in order, and whether the loss covers it."""
        if self.system is not UNSET:
            yield self.system, False
        for tool in () if self.tools is UNSET else self.tools:
            yield bytes(tool).decode(), False
        covered = set(self.trained_messages())
        for number, message in enumerate(self.messages):
            for text in message.texts():
                yield text, number in covered

    def texts(self, *, trained: bool) -> Iterator[str]:
        """Yield the texts that the loss covers, or all others, in order."""
        return (text for text, covered in self.parts() if covered is trained)

    def trained_messages(self) -> tuple[int, ...]:
        """Return the numbers of the messages that the loss covers, from 0."""
        numbers = [at for at, each in enumerate(self.messages) if each.role == "assistant"]
        chosen = numbers if self.loss == "all_assistant" else numbers[-1:]
        return tuple(at for at in chosen if self.messages[at].train is not False)

    def is_pair(self) -> bool:
        """Return whether it is nothing but a user's message and the answer to it."""
        roles = [message.role for message in self.messages]
        return roles == ["user", "assistant"] and not self.system and not self.uses_tools()

    def uses_tools(self) -> bool:
        """Return whether there are tools, tool calls or their results."""
        return bool(self.tools) or any(each.role == "tool" or each.calls for each in self.messages)


def dump_conversation(conversation: Conversation) -> bytes:
    """Encode a conversation as canonical JSON."""
    return jsonl.encode_line(conversation)


def asked_conversation(
    prompt: str,
    *,
    system: str | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    shots: Sequence[tuple[str, str]] = (),
    think_block: bool = False,
) -> Conversation:
    """Build the conversation that a model is asked to continue.

    Args:
        prompt: the last message of the user.
        system: the system message; None for none.
        messages: messages before the prompt, in the form of a trace's `messages`.
        tools: definitions of tools.
        shots: turns before all messages, as (user text, response).
        think_block: whether the reasoning of earlier messages is written as a thinking block.

    Raises:
        msgspec.ValidationError: a message does not have the form.
    """
    turns = [
        message
        for text, response in shots
        for message in (
            Message(role="user", content=text),
            Message(role="assistant", content=response),
        )
    ]
    earlier = msgspec.convert(messages, tuple[Message, ...])
    return Conversation(
        messages=(*turns, *earlier, Message(role="user", content=prompt)),
        system=UNSET if system is None else system,
        think_block=think_block or UNSET,
        # Sorted keys, because examples have them.
        tools=tuple(msgspec.Raw(jsonl.dump_line(each).rstrip()) for each in tools) or UNSET,
    )
