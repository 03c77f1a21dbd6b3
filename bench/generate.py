"""Two figures of greedy generation, compared with Tunix's Sampler; random weights never stop.

`generate` is the seconds to answer a batch of 32 prompts with 40 tokens each, with a model of
SmolLM2-135M's shape. The prompts have 64 to 128 tokens, of which the first 24 are a system
instruction that all share. The first round, which compiles, is not counted.

`generate_best` is the tokens per second of the answers to 64 prompts of 32 to 96 tokens with 24
tokens each, with a small model. The Sampler is first tried with batches of 8 to 64 prompts, sorted
by length as ours are, and measured again at its best size. Ours has the default batch size of the
eval stage. Programs are compiled before anything counts. The two are measured alternately; the last
line has wall time, and the table before it also CPU time, which a busy machine changes less.

In a smoke run both figures are of the same model, so that it is compiled fewer times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from figure import SMOKE, print_figure, sized
from tunix.generate.sampler import CacheConfig, Sampler

from tuneloop.specs.evaluation import EvalSpec
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.random_weights import build_random_model

ROWS, NEW_TOKENS, ROUNDS = sized(32, 4), sized(40, 4), sized(3, 1)
PREFIX, SHORTEST, LONGEST = 24, sized(64, 28), sized(128, 40)
SMOLLM2 = Architecture(
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
BEST_PROMPTS, BEST_NEW_TOKENS, BEST_ROUNDS = sized(64, 4), sized(24, 4), sized(5, 1)
BEST_SHORTEST, BEST_LONGEST = sized(32, 28), sized(96, 40)
BEST_SIZES = (2, 4) if SMOKE else (8, 16, 32, 64)
SMALL = (
    SMOLLM2
    if SMOKE
    else Architecture(
        family="llama3",
        num_layers=6,
        embed_dim=256,
        hidden_dim=768,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        vocab_size=8_192,
        rope=Rope(theta=100_000),
    )
)
PAD = 0
"""Tunix's Sampler takes this id for padding wherever it is, so no prompt has it."""


class Ids:
    """A tokenizer whose text is the ids."""

    def __init__(self, vocab_size: int) -> None:
        """Take the number of ids."""
        self._vocab_size = vocab_size

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


class Taken(NamedTuple):
    """The time of a call."""

    wall: float
    cpu: float


def taken(work: Callable[[], None]) -> Taken:
    """Measure a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


class Sides:
    """Both generators with one model, and the prompts that they answer."""

    def __init__(
        self, shape: Architecture, prompts: list[list[int]], rows: int, new_tokens: int
    ) -> None:
        """Load the model.

        Args:
            shape: the model's shape.
            prompts: ids of each prompt.
            rows: our batch size.
            new_tokens: tokens of each answer.
        """
        model = build_random_model(shape, 0)
        ids = Ids(shape.vocab_size)
        self._prompts, self._new_tokens = prompts, new_tokens
        self._longest, self._eos = max(map(len, prompts)), ids.eos_id()
        self._generator = Generator(
            model, shape, stop_ids=(), batch_size=rows, max_new_tokens=new_tokens
        )
        room = self._longest + new_tokens
        cache = CacheConfig(room, shape.num_layers, shape.num_kv_heads, shape.head_dim)
        self._sampler = Sampler(model, ids, cache)
        self._texts = [ids.decode(each) for each in prompts]

    def ours(self) -> None:
        """Answer with our generator."""
        found = self._generator.generate(self._prompts, self._generator.plan(self._prompts))
        assert all(len(answer.ids) == self._new_tokens for answer in found.values())

    def rival(self, size: int) -> None:
        """Answer with the Sampler, in batches of this size."""
        for at in range(0, len(self._texts), size):
            self._sampler(
                self._texts[at : at + size],
                max_generation_steps=self._new_tokens,
                max_prompt_length=self._longest,
                eos_tokens=[self._eos],
            )


def measure_batch() -> None:
    """Measure both alternately with one batch and print medians of seconds."""
    rng = np.random.default_rng(0)
    shared = [1, *rng.integers(2, SMOLLM2.vocab_size, PREFIX - 1).tolist()]
    lengths = np.linspace(SHORTEST, LONGEST, ROWS).astype(int) - PREFIX
    prompts = [
        [*shared, *rng.integers(2, SMOLLM2.vocab_size, length).tolist()] for length in lengths
    ]
    sides = Sides(SMOLLM2, prompts, ROWS, NEW_TOKENS)
    pairs = [
        (taken(sides.ours).wall, taken(lambda: sides.rival(ROWS)).wall) for _ in range(ROUNDS + 1)
    ]
    print_figure("generate", "s", pairs[1:])


def measure_best() -> None:
    """Find the Sampler's best size, then measure both alternately and print medians."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(BEST_LONGEST, BEST_SHORTEST, BEST_PROMPTS).astype(int)
    prompts = [[1, *rng.integers(2, SMALL.vocab_size, length - 1).tolist()] for length in lengths]
    rows = EvalSpec(eval_set="any").batch_size
    assert isinstance(rows, int)
    sides = Sides(SMALL, prompts, rows, BEST_NEW_TOKENS)
    total = BEST_PROMPTS * BEST_NEW_TOKENS
    tried: dict[int, float] = {}
    for size in BEST_SIZES:
        sides.rival(size)
        tried[size] = taken(lambda size=size: sides.rival(size)).wall  # type: ignore[misc]
        print(f"Sampler, batches of {size:3}: {total / tried[size]:8.0f} tokens/s")
    best = min(tried, key=tried.__getitem__)
    sides.ours()
    pairs = [(taken(sides.ours), taken(lambda: sides.rival(best))) for _ in range(BEST_ROUNDS)]
    cpu = statistics.median(theirs.cpu / own.cpu for own, theirs in pairs)
    print(f"batches of {best} are the Sampler's best; {cpu:.2f} times its tokens per CPU second")
    print_figure(
        "generate_best",
        "tokens/s",
        [(total / own.wall, total / theirs.wall) for own, theirs in pairs],
        paired=True,
    )


if __name__ == "__main__":
    measure_batch()
    measure_best()
