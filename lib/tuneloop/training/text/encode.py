"""Encode training examples as token ids.

Each row has exactly one `<bos>`, which is added as an id. The ids that generation starts from are a
prefix of the ids used in training. The loss covers the response and its closing turn mark, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sentencepiece

from tuneloop.training.chat_templates import DEFAULT_CHAT_TEMPLATE, ChatTemplate
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.trainer import BOS_ID


def tokenizer_sentences(
    examples: Iterable[TrainingExample], system_instruction: str | None
) -> Iterator[str]:
    """Yield the sentences to train the tokenizer on: the lines of all turns, and the role names.

    The role names are repeated for every example, so that each of them becomes a single piece.
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
    """Encode the text before the model's first token; the first id is `<bos>`."""
    return [
        BOS_ID,
        *tokenizer.encode(template.render_generation_prompt(prompt, system_instruction)),
    ]


def encode_response(
    tokenizer: sentencepiece.SentencePieceProcessor,
    response: str,
    template: ChatTemplate = DEFAULT_CHAT_TEMPLATE,
) -> list[int]:
    """Encode the response and its closing turn mark: the ids that the loss covers."""
    ids: list[int] = tokenizer.encode(template.render_closed_response(response))
    return ids


def encode_example(
    tokenizer: sentencepiece.SentencePieceProcessor,
    example: TrainingExample,
    system_instruction: str | None,
    template: ChatTemplate = DEFAULT_CHAT_TEMPLATE,
) -> tuple[list[int], list[int]]:
    """Encode an example as (prompt ids, response ids); the loss covers the response ids."""
    prompt = encode_generation_prompt(tokenizer, example.prompt, system_instruction, template)
    return prompt, encode_response(tokenizer, example.response, template)
