"""Drafts of examples from traces of version 1.1, which can be parts of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tuneloop.datasets.schema import TraceRow
from tuneloop.traces.conversation import turn_messages
from tuneloop.traces.fast import StoredStep
from tuneloop.traces.schema import CHAT_STEPS
from tuneloop.training.conversation import Conversation, Loss, Message

_messages_decoder = msgspec.json.Decoder(tuple[Message, ...])
_tools_decoder = msgspec.json.Decoder(tuple[msgspec.Raw, ...])
BARE_ANSWER = "bare_answer"
"""Key in the meta of an answer of a model; true if the whole response was the answer."""
_OF_MODELS = (b'"evaluation"', b'"sample"')
"""Values of `meta.source` of answers that were read out of a model's response."""


class Context(msgspec.Struct, frozen=True):
    """What an example has besides the user's text and the final answer."""

    earlier: tuple[Message, ...]
    """Messages before the prompt."""
    turn: tuple[Message, ...]
    """Messages after the prompt and before the final answer. If the trace ends with calls of tools,
    there is no final answer, and the last message holds the calls."""
    ends_with_calls: bool
    system: str | UnsetType = UNSET
    tools: tuple[msgspec.Raw, ...] | UnsetType = UNSET

    def conversation(
        self, prompt: str, response: str, loss: Loss, reasoning: str | None = None
    ) -> Conversation:
        """Build the conversation with a prompt and the response to it.

        Args:
            prompt: user text.
            response: text of the last message; not used if the conversation ends with calls.
            loss: the messages that the loss covers.
            reasoning: reasoning before the response, for a conversation with thinking blocks; None
                for one without.
        """
        last = Message(role="assistant", content=response, reasoning=reasoning or UNSET)
        final = () if self.ends_with_calls else (last,)
        user = Message(role="user", content=prompt)
        return Conversation(
            loss=loss,
            messages=(*self.earlier, user, *self.turn, *final),
            system=self.system,
            think_block=UNSET if reasoning is None else True,
            tools=self.tools,
        )

    def calls(self) -> str:
        """Return the calls at the end as text, for a response without an answer."""
        return "\n".join(self.turn[-1].texts())


ALONE = Context((), (), ends_with_calls=False)
"""Context of an example that is a prompt and a response alone."""


def split_turn(row: TraceRow) -> tuple[Sequence[StoredStep], Sequence[StoredStep]]:
    """Split the steps of a trace: those of earlier messages, and the reasoning of the answer."""
    cut = max((at + 1 for at, each in enumerate(row.steps) if each.type in CHAT_STEPS), default=0)
    return row.steps[:cut], row.steps[cut:]


def context_of(row: TraceRow, *, keeps_reasoning: bool) -> Context | None:
    """Return the context of a trace of version 1.1; None if prompt and answer are all of it.

    Args:
        row: the trace.
        keeps_reasoning: whether the messages of the last turn keep their reasoning.

    Raises:
        msgspec.ValidationError: its messages or tools are not those of a valid trace.
    """
    steps, _ = split_turn(row)
    if not steps and row.system is UNSET and row.messages is UNSET and row.tools is UNSET:
        return None
    turn = msgspec.convert(turn_messages(steps, ""), tuple[Message, ...])
    if not keeps_reasoning:
        turn = tuple(_without_reasoning(each) for each in turn)
    return Context(
        earlier=() if row.messages is UNSET else _messages_decoder.decode(row.messages),
        turn=tuple(each for each in turn if each.role == "tool" or each.content or each.calls),
        ends_with_calls=not row.final_answer,
        system=row.system,
        tools=UNSET if row.tools is UNSET else _tools(bytes(row.tools)),
    )


def is_bare(row: TraceRow) -> bool:
    """Return whether the response is the answer alone, as in a chat.

    The answers of a model that tuneloop asked were read out of a response with `Answer:`, and are
    written so again, unless `meta.bare_answer` is true.
    """
    meta = row.meta or {}
    by_model = bytes(meta.get("source", b"")) in _OF_MODELS
    if by_model and bytes(meta.get(BARE_ANSWER, b"")) != b"true":
        return False
    return not split_turn(row)[1]


def _without_reasoning(message: Message) -> Message:
    return msgspec.structs.replace(message, reasoning=UNSET)


@lru_cache(maxsize=64)
def _tools(tools: bytes) -> tuple[msgspec.Raw, ...]:
    """Split the definitions of tools; many traces share them."""
    found: tuple[Any, ...] = _tools_decoder.decode(tools)
    return tuple(msgspec.Raw(bytes(each)) for each in found)
