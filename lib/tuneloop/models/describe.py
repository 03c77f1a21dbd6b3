"""What a model's small files say about it: licence, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import yaml

from tuneloop.artifacts.model_manifest import is_document

CARD = "README.md"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Tokenizer files, the preferred first."""

_FRONT_MATTER = re.compile(rb"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_KNOWN_LICENCES = {
    "apache license": "apache-2.0",
    "mit license": "mit",
    "gemma terms of use": "gemma",
    "llama 3.1 community license": "llama3.1",
    "llama 3.2 community license": "llama3.2",
    "llama 3.3 community license": "llama3.3",
    "meta llama 3 community license": "llama3",
}
"""Words on the first lines of a licence's text -> its identifier on the hub."""
_LICENCE_HEAD_BYTES = 400


def tokenizer_digest(contents: Mapping[str, bytes]) -> str | None:
    """Return the sha256 of the tokenizer file that is used; None if there is none."""
    for name in TOKENIZERS:
        if name in contents:
            return hashlib.sha256(contents[name]).hexdigest()
    return None


def find_licence(contents: Mapping[str, bytes]) -> str | None:
    """Read the licence from the model card's front matter, else from the licence file.

    Args:
        contents: documents by name.

    Returns:
        The licence's identifier, such as `apache-2.0`; the first line of an unknown licence's text;
        None if the files state none.
    """
    return _from_card(contents.get(CARD, b"")) or _from_text(contents)


def _from_card(card: bytes) -> str | None:
    found = _FRONT_MATTER.match(card.replace(b"\r\n", b"\n"))
    if found is None:
        return None
    try:
        values = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None  # a card is for people; its YAML may be broken
    if not isinstance(values, dict):
        return None
    licence, name = values.get("license"), values.get("license_name")
    if licence == "other" and isinstance(name, str):
        licence = name
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return licence if isinstance(licence, str) and licence else None


def _from_text(contents: Mapping[str, bytes]) -> str | None:
    for name in sorted(contents):
        if not is_document(name) or not name.upper().startswith(("LICENSE", "LICENCE")):
            continue
        head = contents[name][:_LICENCE_HEAD_BYTES].decode("utf-8", "replace")
        words = " ".join(head.lower().split())
        for text, licence in _KNOWN_LICENCES.items():
            if text in words:
                return licence
        lines = (line.strip() for line in head.splitlines())
        return next((line[:80] for line in lines if line), None)
    return None
