"""One question to a model, and the ids that ask it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tuneloop.artifacts.eval_samples import Context
from tuneloop.errors import DataError
from tuneloop.training.conversation import Conversation, asked_conversation
from tuneloop.training.text.chat_format import ChatFormat

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

    def conversation(self) -> Conversation | None:
        """Return what a model is asked as a conversation; None without a context."""
        found = self.context
        if found is None:
            return None
        return asked_conversation(
            self.text,
            system=found.system,
            messages=found.messages,
            tools=found.tools,
            shots=self.shots,
        )

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
