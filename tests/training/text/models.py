"""Files of small models: a tokenizer of bytes with control tokens, and a chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def byte_tokenizer(
    added: Sequence[str] = CHATML_TOKENS, merges: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return tokenizer.json: ids 0 to 255 are bytes, then merges, then the added tokens.

    Its post-processor would put the first added token before every text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: number for number, piece in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(added))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{added[0]} $A", special_tokens=[(added[0], tokenizer.token_to_id(added[0]))]
    )
    data: str = tokenizer.to_str()
    return data.encode()


def model_files(
    template: str | None = CHATML, *, added: Sequence[str] = CHATML_TOKENS, **config: Any
) -> dict[str, bytes]:
    """Return the files of a model; `config` goes to tokenizer_config.json."""
    config = {"eos_token": added[0], **config}
    files = {
        "tokenizer.json": byte_tokenizer(added),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
    if template is not None:
        files["chat_template.jinja"] = template.encode()
    return files
