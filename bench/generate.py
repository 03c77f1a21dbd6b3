"""Seconds to answer a batch of 32 prompts with 40 tokens each; compared with Tunix's Sampler.

Both generate greedily with a model of SmolLM2-135M's shape, whose random weights never stop. The
prompts have 64 to 128 tokens, of which the first 24 are a system instruction that all share. The
first round, which compiles, is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from figure import print_figure, sized
from tunix.generate.sampler import CacheConfig, Sampler

from tuneloop.specs.architecture import Architecture, Rope
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.random_weights import build_random_model

ROWS, NEW_TOKENS, ROUNDS = 32, sized(40, 4), sized(3, 1)
PREFIX, SHORTEST, LONGEST = 24, sized(64, 28), sized(128, 40)
SHAPE = Architecture(
    family="llama3",
    num_layers=sized(30, 2),
    embed_dim=sized(576, 32),
    hidden_dim=sized(1536, 64),
    num_heads=9,
    num_kv_heads=3,
    head_dim=sized(64, 4),
    vocab_size=sized(49_152, 64),
    rope=Rope(theta=100_000),
)
PAD = 0
"""Tunix's Sampler takes this id for padding wherever it is, so no prompt has it."""


class Ids:
    """A tokenizer whose text is the ids."""

    def __init__(self, vocab_size: int | None = None) -> None:
        """Take the number of ids; None takes that of this script's model."""
        self._vocab_size = SHAPE.vocab_size if vocab_size is None else vocab_size

    def encode(self, text: str, **options: Any) -> list[int]:
        """Read ids."""
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **options: Any) -> str:
        """Write ids."""
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        """Return the id that every prompt begins with, so that the Sampler adds none."""
        return 1

    def eos_id(self) -> int:
        """Return an id that no model generates."""
        return self._vocab_size

    def pad_id(self) -> int:
        """Return the id of padding."""
        return PAD


def prompts() -> list[list[int]]:
    """Make prompts of different lengths with a shared beginning."""
    rng = np.random.default_rng(0)
    shared = [1, *rng.integers(2, SHAPE.vocab_size, PREFIX - 1).tolist()]
    lengths = np.linspace(SHORTEST, LONGEST, ROWS).astype(int) - PREFIX
    return [[*shared, *rng.integers(2, SHAPE.vocab_size, length).tolist()] for length in lengths]


def seconds(work: Callable[[], None]) -> float:
    """Return the wall time of a call."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def main() -> None:
    """Measure both alternately and print medians."""
    model = build_random_model(SHAPE, 0)
    asked = prompts()
    generator = Generator(model, SHAPE, stop_ids=(), batch_size=ROWS, max_new_tokens=NEW_TOKENS)
    room = LONGEST + NEW_TOKENS
    cache = CacheConfig(room, SHAPE.num_layers, SHAPE.num_kv_heads, SHAPE.head_dim)
    sampler = Sampler(model, Ids(), cache)
    texts = [Ids().decode(ids) for ids in asked]

    def ours() -> None:
        found = generator.generate(asked, generator.plan(asked))
        assert all(len(answer.ids) == NEW_TOKENS for answer in found.values())

    def rival() -> None:
        sampler(
            texts,
            max_generation_steps=NEW_TOKENS,
            max_prompt_length=LONGEST,
            eos_tokens=[SHAPE.vocab_size],
        )

    pairs = [(seconds(ours), seconds(rival)) for _ in range(ROUNDS + 1)][1:]
    print_figure("generate", "s", pairs)


if __name__ == "__main__":
    main()
