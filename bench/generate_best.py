"""Tokens per second of generation; compared with Tunix's Sampler at its own best batch size.

Both answer the same 64 prompts of 32 to 96 tokens with 24 tokens each, greedily. The model is
small, and its random weights never stop. The Sampler is first tried with batches of 8 to 64
prompts, sorted by length as ours are, and measured again at its best size. Ours has the default
batch size of the eval stage. Programs are compiled before anything counts. The two are measured
alternately; the last line has wall time, and the table before it also CPU time, which a busy
machine changes less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from figure import print_figure, sized
from generate import Ids
from tunix.generate.sampler import CacheConfig, Sampler

from tuneloop.specs.architecture import Architecture, Rope
from tuneloop.specs.evaluation import EvalSpec
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.random_weights import build_random_model

PROMPTS, NEW_TOKENS, ROUNDS = sized(64, 4), sized(24, 4), sized(5, 1)
SHORTEST, LONGEST = sized(32, 28), sized(96, 40)
SIZES = (8, 16, 32, 64) if PROMPTS == 64 else (2, 4)
SHAPE = Architecture(
    family="llama3",
    num_layers=sized(6, 2),
    embed_dim=sized(256, 32),
    hidden_dim=sized(768, 64),
    num_heads=4,
    num_kv_heads=2,
    head_dim=sized(64, 4),
    vocab_size=sized(8_192, 64),
    rope=Rope(theta=100_000),
)


class Taken(NamedTuple):
    """The time of a call."""

    wall: float
    cpu: float


def taken(work: Callable[[], None]) -> Taken:
    """Measure a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def prompts() -> list[list[int]]:
    """Make prompts of different lengths, the longest first."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(LONGEST, SHORTEST, PROMPTS).astype(int)
    return [[1, *rng.integers(2, SHAPE.vocab_size, length - 1).tolist()] for length in lengths]


def main() -> None:
    """Find the Sampler's best size, then measure both alternately and print medians."""
    model, asked = build_random_model(SHAPE, 0), prompts()
    rows = EvalSpec(eval_set="any").batch_size
    assert isinstance(rows, int)
    generator = Generator(model, SHAPE, stop_ids=(), batch_size=rows, max_new_tokens=NEW_TOKENS)
    room = LONGEST + NEW_TOKENS
    cache = CacheConfig(room, SHAPE.num_layers, SHAPE.num_kv_heads, SHAPE.head_dim)
    sampler = Sampler(model, Ids(SHAPE.vocab_size), cache)
    texts = [Ids().decode(ids) for ids in asked]

    def ours() -> None:
        found = generator.generate(asked, generator.plan(asked))
        assert all(len(answer.ids) == NEW_TOKENS for answer in found.values())

    def rival(size: int) -> Callable[[], None]:
        def answer() -> None:
            for at in range(0, PROMPTS, size):
                sampler(
                    texts[at : at + size],
                    max_generation_steps=NEW_TOKENS,
                    max_prompt_length=LONGEST,
                    eos_tokens=[SHAPE.vocab_size],
                )

        return answer

    total = PROMPTS * NEW_TOKENS
    tried: dict[int, float] = {}
    for size in SIZES:
        taken(rival(size))
        tried[size] = taken(rival(size)).wall
        print(f"Sampler, batches of {size:3}: {total / tried[size]:8.0f} tokens/s")
    best = min(tried, key=tried.__getitem__)
    taken(ours)
    pairs = [(taken(ours), taken(rival(best))) for _ in range(ROUNDS)]
    cpu = statistics.median(theirs.cpu / own.cpu for own, theirs in pairs)
    print(f"batches of {best} are the Sampler's best; {cpu:.2f} times its tokens per CPU second")
    print_figure(
        "generate_best",
        "tokens/s",
        [(total / own.wall, total / theirs.wall) for own, theirs in pairs],
        paired=True,
    )


if __name__ == "__main__":
    main()
