"""Random damage to texts: specs, lines of JSON, and their bytes."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pyzstd

SCALARS = (
    *("yes", "on", "no", "~", "null", "010", "0o17", "0x1F", "1:30", "1e3", "1_000", "+5", "-0"),
    *(".inf", "-.inf", ".nan", "1e999", "9" * 5000, "0." + "0" * 400 + "1", "-1", "4294967296"),
    *(
        "2024-01-01",
        "2024-02-30T25:61:61Z",
        "!!python/object:os.system x",
        "!!binary aGk=",
        "!!int x",
    ),
    *("!!set {a, b}", "!!float '1'", "!!timestamp x", "!custom [1]", "*nowhere", "&a [*a]"),
    *("<<", "'\\ud800'", '"\\ud800"', '"\\x00"', "\u2028", "\ufeff", "²", "1²", "١٢", "{{ name }}"),
    *("${NAME}", "{% if x %}", "@x", "`x`", "%x", "[", "{", "}", "- -", "? x", "|\n  x", ">-\n x"),
    *(
        "[" * 200,
        "{a: " * 200,
        "x" * 100_000,
        "''",
        '""',
        "a::b",
        "~/x",
        "-",
        "/dev/null",
        "a: b: c",
    ),
)
"""Values that YAML parsers, programs and people read differently."""
KEYS: tuple[str, ...] = (
    "? [a, b]\n: 1",
    "? {a: 1}\n: 2",
    "1: 2",
    "~: 1",
    "true: 1",
    "<<: [1]",
    "<<: {seed: 3}",
)
KEYS += ("name: again", "2024-01-01: x", "'': 1", "train: &t {x: *t}", "\tseed: 1", "---\nname: b")
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1e308,
        10**30,
        float("nan"),
        float("inf"),
        "",
        " ",
        "\x00",
        "x\x00",
    ),
    *(
        "\ud800",
        "\udfff\ud800",
        "²",
        "\U0001d7da",
        "½",
        "<think>",
        "</think>",
        "<end_of_turn>",
        "<|im_end|>",
    ),
    *(
        "\u202e",
        "\u200b",
        "e\u0301",
        "\x1b[31m",
        "\r\n",
        "a\u2028b",
        "😀" * 300,
        "x" * 70_000,
        "`" * 9999,
    ),
    *(
        [],
        {},
        [[]],
        {"": None},
        [1, "a", None],
        {"a": {"b": []}},
        "13 + 4 =",
        "-5",
        "2⁵",
        "1,000",
        "∞",
    ),
)
"""Values that JSON can hold and that few readers expect."""

_SCALAR = re.compile(r"(?<=[:,\[] )[^\s,\]{}\[]+")


def spec(draw: random.Random, base: str) -> bytes:
    """Damage a spec in YAML."""
    text = base
    for _ in range(draw.randrange(4)):
        way = draw.randrange(4)
        found = list(_SCALAR.finditer(text))
        if way < 2 and found:
            place = draw.choice(found)
            text = text[: place.start()] + draw.choice(SCALARS) + text[place.end() :]
        elif way == 2:
            text = (
                draw.choice(KEYS) + "\n" + text if draw.random() < 0.5 else text + draw.choice(KEYS)
            )
        else:
            lines = text.split("\n")
            number = draw.randrange(len(lines))
            lines[number] = (
                draw.choice(["", "  ", "\t", "- "]) + lines[number] + draw.choice(SCALARS)
            )
            text = "\n".join(lines)
    return packed(draw, text.encode("utf-8", "surrogatepass"))


def lines(draw: random.Random, rows: list[dict[str, Any]]) -> bytes:
    """Damage lines of JSON."""
    written = [_row(draw, row) for row in rows]
    end = draw.choice([b"\n", b"\n", b"\r\n", b"\n\n", b"\r", b"\x00\n", b",\n"])
    return packed(draw, end.join(written) + draw.choice([b"", end]))


def _row(draw: random.Random, row: dict[str, Any]) -> bytes:
    if draw.random() < 0.4:
        return json.dumps(row).encode()
    row = json.loads(json.dumps(row))
    inner: Any = row
    for _ in range(draw.randrange(3)):
        children = list(inner.values()) if isinstance(inner, dict) else list(inner)
        children = [each for each in children if isinstance(each, dict | list) and each]
        inner = draw.choice(children) if children else inner
    key = draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
    way = draw.randrange(4)
    if way == 0:
        del inner[key]
    elif way == 1 and isinstance(inner, dict):
        inner[draw.choice(["", "x", "constructor", "\ud800", "id", "meta"])] = draw.choice(VALUES)
    else:
        inner[key] = draw.choice(VALUES)
    text = json.dumps(row, ensure_ascii=draw.random() < 0.7)
    if draw.random() < 0.2:  # Python's writer has neither repeated keys nor very deep values.
        deep = draw.choice(["[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "9" * 5000])
        text = text[:-1] + draw.choice(
            [', "prompt": "again"}', f', "meta": {{"a": {deep}}}}}', "}}"]
        )
    return text.encode("utf-8", "surrogatepass")


def packed(draw: random.Random, data: bytes) -> bytes:
    """Leave most bytes as they are; damage, encode or compress the others."""
    way = draw.randrange(16)
    if way == 0:
        return b"\xef\xbb\xbf" + data
    if way == 1:
        codec = draw.choice(["utf-16", "utf-16-be", "utf-32", "utf-7"])
        return data.decode("utf-8", "replace").encode(codec)
    if way == 2:
        packs: list[Callable[[bytes], bytes]] = [gzip.compress, pyzstd.compress, bz2.compress]
        whole = draw.choice(packs)(data)
        return whole[: draw.randrange(len(whole))] if draw.random() < 0.5 else whole
    if way == 3:
        return data[: draw.randrange(len(data) + 1)]
    if way == 4 and data:
        place = draw.randrange(len(data))
        return data[:place] + draw.randbytes(draw.randint(1, 4)) + data[place + 1 :]
    if way == 5:
        return draw.choice(
            [b"", b"\n", b"\x00" * 100, b"null", b"[]", b'"x"', b"{}", draw.randbytes(99)]
        )
    return data
