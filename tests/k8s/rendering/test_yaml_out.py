from __future__ import annotations

import json
import random
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.k8s.rendering.yaml_out import dump

TRAPS = [
    *("12345e67", "1e3", "0964917", "0o17", "0x1F", "0X1F", "0B1", "8e_3", "+_9", "1_000", "1:30"),
    *("y", "n", "Y", "yes", "No", "on", "OFF", "true", "False", "null", "~", "NaN", ".nan", ".inf"),
    *(
        "",
        " ",
        " lead",
        "trail ",
        "#x",
        "a #b",
        "a: b",
        "- a",
        "[a]",
        "{a}",
        "&a",
        "*a",
        "!a",
        "%a",
    ),
    *(
        "@a",
        "`a`",
        "'a'",
        '"a"',
        "a\nb",
        "a\nb\n",
        "\n",
        "\ta",
        "é",
        "零",
        "🗼",
        "2026-11-22",
        "=",
        "<<",
    ),
    *("\u2028", "\x7f", "a\x85b", "\ufeff", "${name}", "a\r\nb", "key: |", "---", "..."),
]


@pytest.mark.parametrize("text", TRAPS)
def test_strings_stay_strings(text: str) -> None:
    document = {"a": text, "list": [text], "nested": {"b": text}}
    assert yaml.safe_load(dump([document])) == document


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives(text: str) -> None:
    assert yaml.safe_load(dump([{"a": text, "k": [text, 1, 1.5, True, None]}]))["a"] == text


def test_hex_digests_are_quoted_unless_a_letter_is_first() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices(string.hexdigits[:16], k=rng.randint(1, 12)))
        line = dump([{"a": text}]).strip()
        plain = text[0].isalpha() and text not in ("y", "n")
        assert line == (f"a: {text}" if plain else f'a: "{text}"')


def test_order_is_kept_and_nothing_is_an_alias() -> None:
    shared = {"z": 1, "a": [1]}
    text = dump([{"second": shared, "first": shared}, {"x": json.dumps(shared)}])
    assert "&" not in text
    assert text.index("second") < text.index("first")
    assert text.count("---") == 1


def test_pyyaml_is_left_as_it_was() -> None:
    assert yaml.safe_dump({"a": "12345e67"}) == "a: 12345e67\n"
