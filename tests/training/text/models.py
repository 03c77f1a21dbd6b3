"""Files of small models: a tokenizer of bytes with control tokens, and a chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from tests.model_manifests import make_manifest
from tuneloop.artifacts.model_manifest import ModelFile, dump_model_manifest, model_prefix

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


def store_model(artifacts: str, name: str = "small", **changes: Any) -> Path:
    """Store the text files of a model with a manifest; returns its folder."""
    place = Path(model_prefix(artifacts, name))
    place.mkdir(parents=True)
    found = []
    for file, data in model_files(**changes).items():
        (place / file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        found.append(ModelFile(name=file, size_bytes=len(data), sha256=digest))
    manifest = make_manifest(name=name, files=tuple(found))
    (place / "manifest.json").write_bytes(dump_model_manifest(manifest))
    return place
