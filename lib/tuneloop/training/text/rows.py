"""Encode examples as rows: a prompt and a response, or a whole conversation."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.text.turns.encoder import EncodedRow


def plain_row(prompt: list[int], response: list[int]) -> EncodedRow:
    """Return the row of a prompt and a response, which the loss covers."""
    ids = prompt + response
    return EncodedRow(ids, ((len(prompt), len(ids)),))


def encode_rows(
    example: TrainingExample, chat_format: ChatFormat, system_instruction: str | None
) -> Sequence[EncodedRow]:
    """Encode an example as training does.

    Raises:
        DataError: the chat template cannot render the example.
    """
    if example.conversation is UNSET:
        ids = chat_format.encode_example(example.prompt, example.response, system_instruction)
        return [plain_row(*ids)]
    return chat_format.turns.encode(example.conversation, system_instruction)
