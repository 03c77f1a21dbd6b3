"""One question to a model, and the ids that ask it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tuneloop.artifacts.evaluation.eval_samples import Context
from tuneloop.errors import DataError
from tuneloop.training.conversation import Conversation, asked_conversation
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.thinking_text import split_thinking

Shots = tuple[tuple[str, str], ...]
"""Earlier turns of a conversation as (user text, response)."""


@dataclass(frozen=True)
class Question:
    """One item as a model is asked it."""

    text: str
    """User text."""
    shots: Shots = ()
    """Examples before it."""
    id: str = ""
    """Identifier of the item, which gives drawn answers their random numbers; empty takes the
    text."""
    context: Context | None = None
    """What is asked besides the text; None if the text is all of it."""
    think_block: bool = False
    """Whether the recipe writes the reasoning of messages as a thinking block."""

    def conversation(self) -> Conversation | None:
        """Return what a model is asked as a conversation; None without a context."""
        found = self.context
        if found is None:
            return None
        turns = tuple(self._shot_messages()) if self.think_block else ()
        return asked_conversation(
            self.text,
            system=found.system,
            messages=(*turns, *found.messages),
            tools=found.tools,
            shots=() if self.think_block else self.shots,
            think_block=self.think_block,
        )

    def _shot_messages(self) -> Iterator[dict[str, str]]:
        for text, response in self.shots:
            reasoning, answer = split_thinking(response)
            yield {"role": "user", "content": text}
            yield {"role": "assistant", "content": answer or "", "reasoning": reasoning or ""}

    def encode(self, chat_format: ChatFormat, system_instruction: str | None) -> list[int]:
        """Encode the question: the ids before the model's first token.

        Raises:
            DataError: the chat template cannot write it.
        """
        conversation = self.conversation()
        if conversation is None:
            return chat_format.encode_prompt(self.text, system_instruction, self.shots)
        try:
            return chat_format.turns.encode_prompt(conversation, system_instruction)
        except DataError as e:
            raise DataError(f"item {self.id}: {e}") from e

    @property
    def draw_number(self) -> int:
        """A number from 0 to 2^32 - 1, the same at any place in any set."""
        digest = hashlib.sha256((self.id or self.text).encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()[:4])
