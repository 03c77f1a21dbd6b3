from __future__ import annotations

import pytest

from tuneloop.errors import DataError, Transient
from tuneloop.training.generation.sampler import Generator
from tuneloop.training.models import model_files
from tuneloop.training.renderers import render_generation_prompt

BATCHES = range(2)


def test_generation_is_repeatable_and_follows_the_weights(stored: dict[str, bytes]) -> None:
    base = model_files.load_model(stored, model_files.BASE_WEIGHTS, "run")
    tuned = model_files.load_model(stored, model_files.TUNED_WEIGHTS, "run")
    prompts = [render_generation_prompt(f"Say {letter}") for letter in "abcdabcdab"]
    stops: list[int] = []
    generator = Generator(base, prompts, batch_size=8, max_new_tokens=8)
    first = generator.generate(lambda: stops.append(1), BATCHES)
    assert len(first) == 10
    assert len(stops) == 2  # The function is called before each of the two batches.
    assert first[0] == first[4] == first[8]  # A prompt gives the same text in any batch.
    assert all(g.tokens <= 8 and g.hit_limit == (g.tokens >= 8) for g in first)
    generator.use(tuned)
    second = generator.generate(lambda: None, BATCHES)
    assert second != first
    assert all("Answer" in g.text for g in second)
    generator.use(base)
    assert generator.generate(lambda: None, BATCHES) == first
    parts = [generator.generate(lambda: None, range(n, n + 1)) for n in BATCHES]
    assert parts[0] + parts[1] == first  # A batch gives the same text in any process.


def test_generation_can_be_stopped_between_batches(stored: dict[str, bytes]) -> None:
    base = model_files.load_model(stored, model_files.BASE_WEIGHTS, "run")
    generator = Generator(base, ["x"], batch_size=8, max_new_tokens=8)

    def stop() -> None:
        raise Transient("stopped")

    with pytest.raises(Transient):
        generator.generate(stop, BATCHES)
    with pytest.raises(DataError, match="found no prompts"):
        Generator(base, [], batch_size=8, max_new_tokens=8)
