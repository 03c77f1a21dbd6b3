from __future__ import annotations

import hashlib

import pytest

from tuneloop.models.describe import find_licence, tokenizer_digest


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlicense: apache-2.0\n---\n# Model\n", "apache-2.0"),
        (b"---\r\nlicense: gemma\r\n---\r\n", "gemma"),
        (b"---\nlicense: other\nlicense_name: qwen\n---\n", "qwen"),
        (b"---\nlicense: other\n---\n", "other"),
        (b"---\nlicense:\n- mit\n- cc-by-4.0\n---\n", "mit, cc-by-4.0"),
        (b"---\nlicense: [\n---\n", None),
        (b"---\n- a\n---\n", None),
        (b"---\nlicense: \xff\n---\n", None),
        (b"# Model\nlicense: mit\n", None),
        (b"", None),
    ],
)
def test_the_licence_is_read_from_the_card(card: bytes, licence: str | None) -> None:
    assert find_licence({"README.md": card}) == licence


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (b"\n   Apache License\n  Version 2.0, January 2004\n", "apache-2.0"),
        (b"MIT License\n\nCopyright\n", "mit"),
        (b"LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\n", "llama3.2"),
        (b"\nOwn terms of a company\nmore\n", "Own terms of a company"),
        (b"\n\n", None),
    ],
)
def test_the_licence_is_read_from_its_text(text: bytes, licence: str | None) -> None:
    assert find_licence({"LICENSE.txt": text, "NOTICE": b"MIT License"}) == licence


def test_the_card_comes_before_the_text() -> None:
    contents = {"README.md": b"---\nlicense: gemma\n---\n", "LICENSE": b"MIT License"}
    assert find_licence(contents) == "gemma"


def test_the_tokenizer_that_is_used_is_digested() -> None:
    contents = {"tokenizer.model": b"m", "config.json": b"{}"}
    assert tokenizer_digest(contents) == hashlib.sha256(b"m").hexdigest()
    contents["tokenizer.json"] = b"j"
    assert tokenizer_digest(contents) == hashlib.sha256(b"j").hexdigest()
    assert tokenizer_digest({"config.json": b"{}"}) is None


@pytest.mark.parametrize("date", ["2026-99-99", "9" * 5000, "[" * 900, "{{ x }}"])
def test_a_card_that_yaml_cannot_read_states_no_licence(date: str) -> None:
    card = f"---\nlicense: mit\ndate: {date}\n---\n".encode()
    assert find_licence({"README.md": card}) in (None, "mit")
