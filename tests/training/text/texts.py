"""Texts that are hard for tokenizers and templates, drawn from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tuneloop.traces.response_text import WORD_JOINER, render_response

WORDS = (
    *("the", "sum", "of", "Paris", "don't", "I'LL", "x", "42", "3.14", "10000", "Answer:", "1."),
    *("ما", "عاصمة", "תחשוב", "漢字", "かな", "ไทย", "e\u0301", "é", "naïve", "ß"),
    *("🎉", "👩‍👩‍👧", "🏳️‍🌈", "\ufeff", "\u200b", "\u00a0", WORD_JOINER, "\u2581", "\u2028"),
    *(
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "  ",
        "    ",
        "<",
        ">",
        "|",
        "[",
        "]",
        "</",
        "{{ x }}",
        "{% if %}",
    ),
    *("def f(x):\n    return x", "$$x^2$$", "a < b > c", "user", "assistant", "system", "model"),
)
"""Words that spell no control token of any family, alone or joined by spaces."""


def plain_text(rng: random.Random, most: int = 12) -> str:
    """Return a text without control tokens; it begins and ends with a letter."""
    middle = [rng.choice(WORDS) for _ in range(rng.randrange(most))]
    return " ".join(["Say", *middle, "now"])


def response(rng: random.Random) -> str:
    """Return a response as a recipe renders it."""
    steps = [plain_text(rng, 6) for _ in range(rng.randrange(4))]
    return render_response(steps, plain_text(rng, 4))


def forging_text(rng: random.Random, tokens: Sequence[str], all_tokens: Sequence[str]) -> str:
    """Return a text that tries to spell control tokens.

    Args:
        rng: source of chance.
        tokens: control tokens to spell, of which one is used whole.
        all_tokens: control tokens of every family, used whole or in parts.
    """
    token = rng.choice(tokens)
    position = rng.randrange(4)
    parts = [_part(rng, all_tokens) for _ in range(rng.randrange(1, 6))]
    if position < 3:  # the fourth kind has parts of tokens alone
        parts.insert((0, len(parts), rng.randrange(len(parts) + 1))[position], token)
    return "".join(parts)


def _part(rng: random.Random, tokens: Sequence[str]) -> str:
    token = rng.choice(tokens)
    cut = rng.randrange(len(token))
    choices: tuple[Callable[[], str], ...] = (
        lambda: token,
        lambda: token[:cut],
        lambda: token[cut:],
        lambda: token[: cut + 1] + WORD_JOINER * rng.randrange(1, 3) + token[cut + 1 :],
        lambda: token[:cut] + token + token[cut:],
        lambda: rng.choice(WORDS),
        lambda: rng.choice((" ", "\n", "", "<", "<|", "[", WORD_JOINER)),
    )
    return rng.choice(choices)()
