"""Generation in padded batches equals the simplest way to generate: one prompt, no cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.builders import xla_flags
from tests.training.generation.simple import greedy_without_cache
from tuneloop.errors import DataError, Transient
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.model import RandomModelSpec
from tuneloop.training.generation.decoding import (
    GREEDY,
    Decoder,
    Sampling,
    can_share_prefix,
    is_windowed,
)
from tuneloop.training.generation.generator import Generator
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.sizing.evaluation import batch_bytes

VOCABULARY = 64
NEW = 8
SHAPE = {
    "num_layers": 6,  # The sixth layer sees everything, the others a window.
    "embed_dim": 32,
    "hidden_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
}


def architecture_with(window: int) -> Architecture:
    spec = RandomModelSpec(**SHAPE, sliding_window_tokens=window)
    return random_architecture(spec, VOCABULARY)


def shapes_in(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of everything that a traced program computes."""
    for equation in jaxpr.eqns:
        yield from (tuple(out.aval.shape) for out in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


WINDOWED, FULL = architecture_with(8), architecture_with(512)
FLAT = random_architecture(RandomModelSpec(**SHAPE | {"num_layers": 1}), VOCABULARY)
DRAWN = Sampling(2.0, 0.9, seed=2**40)


def generator_of(model: Any, architecture: Architecture, **changes: Any) -> Generator:
    options: dict[str, Any] = {"stop_ids": (), "batch_size": 4, "max_new_tokens": NEW}
    return Generator(model, architecture, **options | changes)


def answers(
    generator: Generator, prompts: list[list[int]], sampling: Sampling = GREEDY
) -> list[list[int]]:
    found = generator.generate(prompts, generator.plan(prompts), sampling=sampling)
    return [list(found[number].ids) for number in range(len(prompts))]


def prompts_with(prefix: int) -> list[list[int]]:
    """Prompts of several lengths; id 0 is a word like any other."""
    rng = np.random.default_rng(0)
    shared = rng.integers(0, VOCABULARY, prefix).tolist()
    return [[*shared, number, *rng.integers(0, 9, number).tolist()] for number in (1, 20, 3, 9, 2)]


@pytest.mark.parametrize("architecture", [WINDOWED, FULL], ids=["windowed", "full"])
@pytest.mark.parametrize("prefix", [0, 20])
def test_a_batch_of_any_lengths_gives_what_each_prompt_gives_alone(
    architecture: Architecture, prefix: int
) -> None:
    model = build_random_model(architecture, seed=3)
    prompts = prompts_with(prefix)
    generator = generator_of(model, architecture)
    shares = generator.plan(prompts).prefix_tokens
    assert shares == (16 if prefix and architecture is FULL else 0)
    expected = greedy_without_cache(model, prompts, NEW)
    assert len({tuple(ids) for ids in expected}) > 2
    assert answers(generator, prompts) == expected
    assert answers(generator, prompts[1:2]) == expected[1:2]


def test_windows_are_recognised() -> None:
    assert is_windowed(WINDOWED, 9) and not is_windowed(WINDOWED, 8)
    assert can_share_prefix(FULL, 512) and not can_share_prefix(FULL, 513)
    assert not can_share_prefix(FULL.model_copy(update={"family": "gemma4"}), 64)


def test_generation_ends_before_a_stop_id_and_follows_the_weights() -> None:
    first, second = (build_random_model(FULL, seed) for seed in (3, 4))
    prompts = prompts_with(0)
    free = answers(generator_of(first, FULL), prompts)
    stop = free[1][3]
    generator = generator_of(first, FULL, stop_ids=(VOCABULARY + 1, stop))
    found = generator.generate(prompts, generator.plan(prompts))
    for number, ids in enumerate(free):
        cut = ids.index(stop) if stop in ids else NEW
        assert list(found[number].ids) == ids[:cut]
        assert found[number].hit_limit == (stop not in ids)
    generator.use(second)
    other = generator.generate(prompts, generator.plan(prompts))
    assert other != found
    generator.use(first)
    assert generator.generate(prompts, generator.plan(prompts)) == found


def test_batches_can_be_shared_among_processes_and_stopped_between() -> None:
    generator = generator_of(build_random_model(FULL, 3), FULL)
    prompts = prompts_with(20)
    plan = generator.plan(prompts)
    whole = generator.generate(prompts, plan)
    parts = [generator.generate(prompts, plan, batches=range(n, n + 1)) for n in range(2)]
    assert parts[0] | parts[1] == whole and not parts[0].keys() & parts[1].keys()
    started: list[int] = []

    def stop_at_the_second(number: int) -> None:
        started.append(number)
        if number:
            raise Transient("stopped")

    with pytest.raises(Transient):
        generator.generate(prompts, plan, before_batch=stop_at_the_second)
    assert started == [0, 1]


def test_an_answer_depends_on_neither_batch_size_nor_order_nor_other_prompts() -> None:
    model = build_random_model(FLAT, 3)
    rng = np.random.default_rng(1)
    prompts = [[n, *rng.integers(0, VOCABULARY, n % 16).tolist()] for n in range(24)]
    draws = [(n // 2, n % 2) for n in range(24)]
    found: dict[Sampling, list[dict[int, tuple[int, ...]]]] = {GREEDY: [], DRAWN: []}
    for batch_size in (1, 8, 24):
        order = rng.permutation(24).tolist()
        mixed, mixed_draws = [prompts[n] for n in order], [draws[n] for n in order]
        generator = generator_of(model, FLAT, batch_size=batch_size)
        for sampling, answered in found.items():
            new = generator.generate(
                mixed, generator.plan(mixed), sampling=sampling, draws=mixed_draws
            )
            answered.append({n: new[at].ids for at, n in enumerate(order)})
    for one, eight, all_at_once in found.values():
        assert one == eight == all_at_once
        assert len(set(one.values())) > 20
    assert found[GREEDY] != found[DRAWN]


def test_draws_depend_on_the_seed_and_on_the_two_numbers_alone() -> None:
    generator = generator_of(build_random_model(FLAT, 3), FLAT)
    prompts = prompts_with(0)
    greedy = answers(generator, prompts)

    def drawn(prompts: list[list[int]], **sampling: Any) -> list[list[int]]:
        return answers(generator, prompts, Sampling(**sampling))

    hot = drawn(prompts, temperature=2.0, seed=1)
    assert drawn(prompts, temperature=2.0, seed=1) == hot
    assert drawn(prompts, temperature=2.0, seed=2) != hot
    # The others are other prompts, so that this one is in another batch.
    assert drawn([prompts[0], *prompts[:0:-1]], temperature=2.0, seed=1)[0] == hot[0]
    assert drawn(prompts, temperature=1e-4) == greedy
    assert drawn(prompts, temperature=5.0, top_p=1e-6) == greedy
    assert drawn(prompts, temperature=2.0, top_p=0.9, seed=1) != greedy
    same = [prompts[0]] * 3
    found = generator.generate(
        same, generator.plan(same), sampling=Sampling(2.0), draws=[(7, 0), (7, 1), (7, 0)]
    )
    assert found[0] == found[2] != found[1]


def test_prefill_computes_logits_of_the_last_position_alone() -> None:
    model = build_random_model(FULL, 3)
    decoder = Decoder(model, FULL, stop_ids=(), max_new_tokens=NEW)
    rows, width = 3, 40
    prefill = partial(decoder._prefill, cache_tokens=width + NEW)
    tokens, lengths = np.zeros((rows, width), np.int32), np.full((rows,), width, np.int32)
    traced = jax.make_jaxpr(prefill)(decoder._leaves, None, tokens, lengths)
    shapes = set(shapes_in(traced.jaxpr))
    assert {(rows, 1, VOCABULARY), (rows, width, 32)} <= shapes
    assert not {shape for shape in shapes if shape[-1:] == (VOCABULARY,) and width in shape}


def test_the_estimated_memory_of_a_batch_is_that_of_the_compiled_program() -> None:
    vocabulary, rows, width = 4096, 16, 128
    wide = random_architecture(RandomModelSpec(**SHAPE | {"num_layers": 2}), vocabulary)
    decoder = Decoder(build_random_model(wide, 3), wide, stop_ids=(), max_new_tokens=NEW)
    tokens, lengths = np.zeros((rows, width), np.int32), np.full((rows,), width, np.int32)
    program = decoder._compiled_prefill.lower(
        decoder._leaves, None, tokens, lengths, cache_tokens=width + NEW
    )
    memory: Any = program.compile().memory_analysis()
    needed = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert needed <= batch_bytes(wide, rows, width, NEW) <= 2 * needed
    assert batch_bytes(wide, rows, width, NEW) < rows * width * vocabulary * 4 / 2


def test_prompts_that_cannot_be_generated_from_are_refused() -> None:
    generator = generator_of(build_random_model(FULL, 3), FULL)
    with pytest.raises(DataError, match="found no prompts"):
        generator.plan([])
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        generator.plan([[1], []])
    shallower = architecture_with(8).model_copy(
        update={"num_layers": 5, "layer_types": ("sliding",) * 5}
    )
    with pytest.raises(ValueError, match="other parameters"):
        generator.use(build_random_model(shallower, 0))


def test_several_devices_divide_the_rows_and_give_the_same_answers(repository: Path) -> None:
    env = {**os.environ, "XLA_FLAGS": xla_flags(devices=4)}
    command = [sys.executable, "-m", "tests.training.generation.on_devices_worker"]
    done = subprocess.run(
        command, cwd=repository, env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "equal"), done.stderr[-2000:]
