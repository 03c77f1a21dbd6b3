"""The tokens of a model that have a meaning: named ones, those that stop, those that control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.errors import DataError
from tuneloop.training.control_tokens import ControlTokens
from tuneloop.training.text.layout import Layout, Template
from tuneloop.training.text.tokenizers import (
    TOKENIZER_CONFIG,
    Tokenizer,
    encodable,
    parse_json_object,
)

SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ID_FILES = ("generation_config.json", "config.json")
"""Files that can name ids under `eos_token_id`."""


def special_tokens(files: Mapping[str, bytes], place: str) -> dict[str, str]:
    """Read the named tokens, such as bos_token; tokenizer_config.json has the last word."""
    found: dict[str, str] = {}
    for name in (SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG):
        if name not in files:
            continue
        for key, value in parse_json_object(files[name], f"{place}/{name}").items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = encodable(text)
    return found


def find_control_ids(tokenizer: Tokenizer, control: ControlTokens, place: str) -> frozenset[int]:
    """Return the ids of the control tokens, and check that content cannot spell them."""
    found = {token: tokenizer.token_id(token) for token in control.tokens}
    ids = frozenset(each for each in found.values() if each is not None)
    spelled = tokenizer.encode(" ".join(map(control.neutralise, sorted(found))))
    forged = ids.intersection(spelled)
    if forged:
        names = ", ".join(sorted(token for token, each in found.items() if each in forged))
        raise DataError(
            f"{place}: the tokenizer reads {names} from text even with a WORD JOINER after the"
            " first character, so content could forge it; use another model"
        )
    return ids


def find_closing_id(
    tokenizer: Tokenizer, template: Template, layout: Layout, control_ids: frozenset[int]
) -> int:
    """Return the id that closes the model's turn.

    Raises:
        DataError: the template closes it without a control token.
    """
    for each in tokenizer.encode(layout.tail):
        if each in control_ids:
            return each
    raise DataError(
        f"{template.place}: {layout.tail[:40]!r} closes the model's turn, expected a control token"
        " of the tokenizer, which generation can stop at; use another chat template"
    )


def find_eos_ids(
    files: Mapping[str, bytes], tokenizer: Tokenizer, special: Mapping[str, str], place: str
) -> list[int]:
    """Return all ids that a model's files call the end of text.

    Raises:
        DataError: a file names an id that the tokenizer does not have.
    """
    eos = tokenizer.token_id(special.get("eos_token", "<eos>"))
    found = [] if eos is None else [eos]
    for name in ID_FILES:
        if name in files:
            config = parse_json_object(files[name], f"{place}/{name}")
            found += _ids(config.get("eos_token_id"), tokenizer, f"{place}/{name}")
    return found


def _ids(value: Any, tokenizer: Tokenizer, place: str) -> list[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for each in ids:
        if type(each) is not int or not 0 <= each < tokenizer.vocab_size:
            raise DataError(
                f"{place}: eos_token_id holds {each!r}, expected ids from 0 to"
                f" {tokenizer.vocab_size - 1} as the tokenizer has them; get the file again"
            )
    return ids
