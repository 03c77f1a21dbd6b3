"""The tokenizer, chat template and generation settings in a model's folder.

A pretrained model keeps the files of its base. A model that started from random weights has the
tokenizer that was trained for it, and gets files that other tools need beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tuneloop.training.chat_templates import ChatTemplate
from tuneloop.training.text.jinja_template import TEMPLATE_FILE, find_template
from tuneloop.training.text.tokenizers import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    parse_json_object,
)
from tuneloop.training.text.trainer import BOS_ID, EOS_ID, PAD_ID, SPECIAL_PIECES, UNK_ID

GENERATION_CONFIG = "generation_config.json"
COPIED = (
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
    "chat_template.json",
)
"""Files that a tuned model takes over from its base, where the base has them."""


def is_text_file(name: str) -> bool:
    """Return whether a file of a model's folder belongs to its tokenizer, template or settings."""
    return name in COPIED or name == GENERATION_CONFIG


def inherited_text_files(
    base: Mapping[str, bytes], stop_ids: Iterable[int], place: str
) -> dict[str, bytes]:
    """Return the text files of a model that was tuned from a stored one.

    Args:
        base: contents of the base's files by name; files of other kinds are ignored.
        stop_ids: ids that end a response, of the model's `ChatFormat`.
        place: folder of the base, for error messages.

    Returns:
        Contents by name. The chat template is in a file of its own and in tokenizer_config.json,
        because some tools read only one of the two.

    Raises:
        DataError: a file of the base is not valid.
    """
    files = {name: base[name] for name in COPIED if name in base}
    found = find_template(files, place)
    if found is not None:
        files.setdefault(TEMPLATE_FILE, found[0].encode())
        data = files.get(TOKENIZER_CONFIG, b"{}")
        config = parse_json_object(data, f"{place}/{TOKENIZER_CONFIG}")
        if not config.get("chat_template"):
            files[TOKENIZER_CONFIG] = _dump({**config, "chat_template": found[0]})
    data = base.get(GENERATION_CONFIG, b"{}")
    generation = parse_json_object(data, f"{place}/{GENERATION_CONFIG}")
    known = generation.get("eos_token_id")
    ids = [known] if isinstance(known, int) else list(known or [])
    eos_token_id = list(dict.fromkeys([*ids, *stop_ids]))
    files[GENERATION_CONFIG] = _dump({**generation, "eos_token_id": eos_token_id})
    return files


def trained_text_files(
    tokenizer_model: bytes, template: ChatTemplate, end_of_turn_id: int
) -> dict[str, bytes]:
    """Return the text files of a model with a tokenizer from `train_tokenizer`.

    Args:
        tokenizer_model: the serialized SentencePiece model.
        template: how the model writes turns.
        end_of_turn_id: id of the mark that closes a turn.
    """
    source = template_source(template)
    config = {
        # This class of transformers reads tokenizer.model as it stands. It would add a mask token,
        # whose id the model does not have.
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": SPECIAL_PIECES[BOS_ID],
        "eos_token": SPECIAL_PIECES[EOS_ID],
        "pad_token": SPECIAL_PIECES[PAD_ID],
        "unk_token": SPECIAL_PIECES[UNK_ID],
        "mask_token": None,
        "chat_template": source,
    }
    generation = {
        "bos_token_id": BOS_ID,
        "eos_token_id": [EOS_ID, end_of_turn_id],
        "pad_token_id": PAD_ID,
    }
    return {
        TOKENIZER_MODEL: tokenizer_model,
        TOKENIZER_CONFIG: _dump(config),
        TEMPLATE_FILE: source.encode(),
        GENERATION_CONFIG: _dump(generation),
    }


def template_source(template: ChatTemplate) -> str:
    """Write a built-in chat template as Jinja; it renders the same text."""
    role, content = "\0role\0", "\0content\0"
    closed = template.render_turn(role, content)
    opened = template.render_turn(template.assistant_role, "").removesuffix(template.turn_marks[1])
    before, _, rest = closed.partition(role)
    middle, _, after = rest.partition(content)
    separator = json.dumps(template.separator)
    lines = ["{% set turns = messages %}", "{% set instruction = '' %}"]
    if not template.has_system_role:
        lines += [
            "{% if messages[0]['role'] == 'system' %}",
            "{% set turns = messages[1:] %}",
            "{% set instruction = messages[0]['content'] + '\\n\\n' %}",
            "{% endif %}",
        ]
    lines += [
        "{{- bos_token -}}" if template.bos else "",
        "{% for turn in turns %}",
        f"{{% set role = {json.dumps(template.assistant_role)} if turn['role'] == 'assistant'"
        " else turn['role'] %}",
        f"{{{{- {separator} if not loop.first else '' -}}}}",
        f"{{{{- {json.dumps(before)} + role + {json.dumps(middle)} -}}}}",
        "{{- (instruction if loop.first else '') + turn['content'] -}}",
        f"{{{{- {json.dumps(after)} -}}}}",
        "{% endfor %}",
        "{% if add_generation_prompt %}",
        f"{{{{- {json.dumps(template.separator + opened)} -}}}}",
        "{% endif %}",
    ]
    return "\n".join(filter(None, lines))


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
