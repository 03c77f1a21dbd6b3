"""Examples to tokens, and the batch stream over them.

Rules: exactly one `<bos>`, put in as an id; the ids that generation starts from are a prefix of the
ids that training saw; the loss covers the response and its `<end_of_turn>`, nothing else. Batch i
is a function of the examples, the seed and i alone, so a run continues anywhere without reading
what came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sentencepiece

from tuneloop.training.chat_templates import DEFAULT_CHAT_TEMPLATE, ChatTemplate
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.tokenizers import BOS_ID


def tokenizer_sentences(
    examples: Iterable[TrainingExample], system_instruction: str | None
) -> Iterator[str]:
    """What the tokenizer is trained on: the lines of every turn, and the names of the roles.

    The role names come once an example, so that each becomes a single piece.
    """
    for example in examples:
        yield "user"
        yield from (system_instruction or "").split("\n")
        yield from example.prompt.split("\n")
        yield "model"
        yield from example.response.split("\n")


def encode_generation_prompt(
    tokenizer: sentencepiece.SentencePieceProcessor,
    prompt: str,
    system_instruction: str | None,
    template: ChatTemplate = DEFAULT_CHAT_TEMPLATE,
) -> list[int]:
    """Ids of all that stands before the model's first token, `<bos>` first."""
    return [
        BOS_ID,
        *tokenizer.encode(template.render_generation_prompt(prompt, system_instruction)),
    ]


def encode_response(
    tokenizer: sentencepiece.SentencePieceProcessor,
    response: str,
    template: ChatTemplate = DEFAULT_CHAT_TEMPLATE,
) -> list[int]:
    """Ids that the loss covers: the response and the end of its turn."""
    ids: list[int] = tokenizer.encode(template.render_closed_response(response))
    return ids
